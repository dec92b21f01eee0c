"""What the page says in HTML: legend and areas, times, messages. Every word of a visitor is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from cdam_fast.demo.pictures import css, heat_scale
from cdam_fast.demo.work import Area, Segmented

LONGEST_WORD = 40  # letters in the table


def table(segmented: Segmented) -> str:
    """Swatch, class and area of each, by the base alone and with CDAM: the legend of the pictures too."""
    rows = list(zip(*(view.areas for view in segmented.views)))
    shown = sorted((row for row in rows if _largest(row)), key=lambda row: -_largest(row))
    missing = [row[0].name for row in rows if not _largest(row)]
    heads = "".join(f'<th scope="col">{escape(view.title)}</th>' for view in segmented.views)
    body = "".join(map(_row, shown))
    rest = f'<p class="cdam-note">Nowhere: {_names(missing)}</p>' if missing else ""
    return (
        f'<div class="cdam-table"><table><thead><tr><th scope="col">class</th>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table>{rest}</div>"
    )


def _largest(row: Sequence[Area]) -> float:
    return max(area.share for area in row)


def _row(row: Sequence[Area]) -> str:
    name, colour = row[0].name, css(row[0].colour)
    swatch = f'<span class="cdam-swatch" style="background:{colour}"></span>'
    cells = "".join(f"<td>{_area(area)}</td>" for area in row)
    return f'<tr><th scope="row" title="{escape(name)}">{swatch}{escape(_short(name))}</th>{cells}</tr>'


def _area(area: Area) -> str:
    if area.score is None:
        return '<span class="cdam-none">none</span>'
    bar = f'<span class="cdam-bar" style="width:{100 * area.share:.1f}%;background:{css(area.colour)}"></span>'
    text = f"{100 * area.share:.1f} %" if area.share >= 0.0005 else "&lt; 0.1 %"
    return f'{text} <small>p {area.score:.2f}</small><span class="cdam-track">{bar}</span>'


def _names(names: Sequence[str]) -> str:
    rest = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return ", ".join(escape(_short(name)) for name in names[:12]) + rest


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_WORD else f"{name[: LONGEST_WORD - 1]}…"


def times(segmented: Segmented) -> str:
    """The time that CDAM took of the whole, and the notes."""
    seconds = segmented.seconds
    if seconds.cdam is None:
        line = f"<b>{spoken(seconds.whole)}</b> from photograph to labels, without CDAM."
    else:
        line = f"<b>CDAM {spoken(seconds.cdam)} of {spoken(seconds.whole)}</b> from photograph to labels."
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
