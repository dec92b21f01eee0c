"""What the page says in HTML: legend and areas, times, messages. Every word of a visitor is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from cdam_fast.demo.pictures import css, heat_scale
from cdam_fast.demo.work import Area, Segmented

LONGEST_WORD = 40  # letters in the table


def table(segmented: Segmented) -> str:
    """Swatch, class and area of each, by the base alone and with CDAM: the legend of the pictures too."""
    shares = [[view.areas[i].share for view in segmented.views] for i in range(len(segmented.names))]
    order = sorted(range(len(shares)), key=lambda i: (-max(shares[i]), i))
    shown = [i for i in order if max(shares[i]) > 0]
    heads = "".join(f'<th scope="col">{escape(view.title)}</th>' for view in segmented.views)
    rows = "".join(_row(segmented, i) for i in shown)
    without = len(segmented.names) - len(shown)
    rest = f'<p class="cdam-note">{_count(without, "word")} nowhere: {_names(segmented, shown)}</p>' if without else ""
    return (
        f'<div class="cdam-table"><table><thead><tr><th scope="col">class</th>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table>{rest}</div>"
    )


def _row(segmented: Segmented, i: int) -> str:
    swatch = f'<span class="cdam-swatch" style="background:{css(segmented.colours[i])}"></span>'
    name = segmented.names[i]
    cells = "".join(f"<td>{_area(view.areas[i], segmented.colours[i])}</td>" for view in segmented.views)
    return f'<tr><th scope="row" title="{escape(name)}">{swatch}{escape(_short(name))}</th>{cells}</tr>'


def _area(area: Area, colour: Sequence[int]) -> str:
    if area.score is None:
        return '<span class="cdam-none">none</span>'
    bar = f'<span class="cdam-bar" style="width:{100 * area.share:.1f}%;background:{css(colour)}"></span>'
    text = f"{100 * area.share:.1f} %" if area.share >= 0.0005 else "&lt; 0.1 %"
    return f'{text} <small>p {area.score:.2f}</small><span class="cdam-track">{bar}</span>'


def _names(segmented: Segmented, shown: Sequence[int]) -> str:
    missing = [escape(_short(name)) for i, name in enumerate(segmented.names) if i not in set(shown)]
    return ", ".join(missing[:12]) + (f" and {len(missing) - 12} more" if len(missing) > 12 else "")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number > 1 else ''}"


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_WORD else f"{name[: LONGEST_WORD - 1]}…"


def times(segmented: Segmented) -> str:
    """The time that CDAM took of the whole, and the notes."""
    seconds = segmented.seconds
    if seconds.cdam is None:
        line = f"<b>{spoken(seconds.whole)}</b> from photograph to labels, without CDAM."
    else:
        line = (
            f"<b>CDAM {spoken(seconds.cdam)} of {spoken(seconds.whole)}</b> from photograph to labels; "
            f"the base alone took {spoken(seconds.alone)}."
        )
    notes = "".join(f"<br>Note: {escape(note)}" for note in segmented.notes)
    return status(line + notes)


def spoken(seconds: float) -> str:
    """``0.34`` -> ``340 ms``."""
    if seconds >= 10:
        return f"{seconds:.0f} s"
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{1000 * seconds:.0f} ms" if seconds >= 0.01 else f"{1000 * seconds:.1f} ms"


def status(html: str, kind: str = "done") -> str:
    """A line below the button; kind: done, or wrong."""
    return f'<div class="cdam-status cdam-{kind}" role="status">{html}</div>'


def refused(message: str) -> str:
    """A message, as text."""
    return status(escape(message), "wrong")


def attention_caption(patch: str) -> str:
    """Which patch, and what the colours say."""
    scale = f'<span class="cdam-scale" style="background:{heat_scale()}"></span>'
    return status(f"Where {escape(patch)} attends: not at all {scale} most of all.")
