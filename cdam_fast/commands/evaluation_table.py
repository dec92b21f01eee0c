"""What ``cdam-fast evaluate`` prints in the end."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table

from cdam_fast.commands.protocol_options import Chosen, described
from cdam_fast.evaluation import Evaluation
from cdam_fast.files import readable


def table(result: Evaluation, chosen: Chosen) -> Table:
    """Intersection over union of each class and their mean, and the published number."""
    made = Table(
        title=f"{result.dataset}, {chosen.base} {'with' if chosen.settings.cdam else 'without'} CDAM, "
        f"{result.images} images",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    made.add_column("class")
    made.add_column("IoU %", justify="right", no_wrap=True)
    for name, value in result.iou.items():
        made.add_row(readable(name), "" if value is None else f"{100 * value:.2f}")
    made.add_section()
    made.add_row("mean", "" if result.miou is None else f"{100 * result.miou:.2f}")
    if result.published is not None:
        made.add_row("published", f"{100 * result.published:.1f}")
    return made


def protocol_lines(result: Evaluation, chosen: Chosen) -> list[str]:
    """The protocol, where it is left, and what it says."""
    settings = result.settings
    weights = "" if chosen.pretrained is None else f", weights {chosen.pretrained}"
    lines = [
        described(chosen),
        f"{chosen.model}{weights}; short side {settings['short_side']}"
        f"{_cap(settings)}, window {settings['window']}, stride {settings['stride']}",
        f"background {_background(settings)}, order {settings['order']}, {settings['device']}, {settings['dtype']}"
        f"{' with amp' if settings['amp'] else ''}",
    ]
    if result.published is not None:
        lines.append(f"published in {chosen.settings.miou_source}")
    elif chosen.settings.miou is not None:
        lines.append("the published number is for the protocol as it is, and is left out")
    if result.note:
        lines.append(result.note)
    return lines


def _cap(settings: dict[str, Any]) -> str:
    cap = "" if settings.get("long_side") is None else f", long side at most {settings['long_side']}"
    return f" ({settings['resize']}{cap})" if "resize" in settings else cap


def _background(settings: dict[str, Any]) -> str:
    if settings["background"] is None or settings["background_class"] is None:
        return "none"
    rule = "by Eq. 4" if settings["background"] == "entropy" else f"below {settings['background']}"
    over = f" over the {settings['threshold_over'].replace('_', ' ')}, alpha {settings['alpha']}"
    return rule + (over if settings["background"] == "entropy" else "")
