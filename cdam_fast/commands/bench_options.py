"""What the modes of ``cdam-fast bench`` do with the options that they share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from cdam_fast.commands.streams import tell
from cdam_fast.errors import UsageError, require_matplotlib

if TYPE_CHECKING:
    from cdam_fast.measuring.bench import BenchOptions

DEFAULTS: dict[str, Any] = {
    "classes": "VOC21,Context60,COCO-Object",
    "grid": "28",
    "batch": 1,
    "device": "auto",
    "runs": 30,
    "compile": "largest",
}
"""Filled in late: what is given beside a mode that does not take it is refused."""


def value(parsed: argparse.Namespace, name: str) -> Any:
    """What was given, else the default."""
    given = getattr(parsed, name)
    return DEFAULTS[name] if given is None else given


def one_number(option: str, text: str, mode: str) -> int:
    """Where another mode takes a list."""
    if not text.isdecimal() or not 1 <= int(text) <= 100_000:
        raise UsageError(f"{option}: got {text!r}, takes one whole number from 1 to 100000 with {mode}")
    return int(text)


def check_outputs(parsed: argparse.Namespace) -> None:
    """Fail before minutes of work where ``--json`` or ``--plot`` could not be written."""
    from cdam_fast.measuring import report

    if parsed.plot is not None:
        require_matplotlib("--plot")
        report.check_figure(parsed.plot)
    for option in ("json", "plot"):
        if getattr(parsed, option) is not None:
            report.check_writable(f"--{option}", getattr(parsed, option))


def parse_options(parsed: argparse.Namespace) -> BenchOptions:
    """Every option checked, and a line that says on what device the work is done."""
    from cdam_fast.commands import devices, photos
    from cdam_fast.measuring import bench, inputs

    for option in ("batch", "runs"):
        if value(parsed, option) < 1:
            raise UsageError(f"--{option}: got {value(parsed, option)}, takes a whole number from 1")
    if parsed.image is not None:
        photos.check_photo("--image", parsed.image)
    check_outputs(parsed)
    options = bench.BenchOptions(
        class_lists=inputs.parse_class_lists(value(parsed, "classes")),
        device=devices.parse_device(value(parsed, "device")),
        image=parsed.image,
        pretrained=parsed.pretrained,
        grid=inputs.parse_grid(value(parsed, "grid")),
        batch=value(parsed, "batch"),
        runs=value(parsed, "runs"),
        compile=value(parsed, "compile"),
    )
    tell(devices.describe_device(options.device, options.grid[0] * options.grid[1]))
    return options
