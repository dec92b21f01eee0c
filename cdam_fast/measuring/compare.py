"""``cdam-fast bench --compare``: what got slower or faster between two runs, beyond the noise within them.

A row's time is taken as a ratio to a yardstick of the same run, so that a faster or slower day of the machine falls
out: the product that was timed in the same rounds, else the eager code on the same input (end to end: the base alone).
The interval of the ratio is a bootstrap's: rounds are drawn, the same for a row and its yardstick, then calls in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from rich import box
from rich.table import Table

from cdam_fast.errors import UsageError
from cdam_fast.measuring.bench import ROUNDS
from cdam_fast.measuring.report import milliseconds
from cdam_fast.measuring.timings import SAME, Key, Times, Timings, read_timings

CONFIDENCE = 0.95
"""Of all intervals together: each has its share of the rest."""

LEAST_CHANGE = 0.05
"""What two runs of the same code differ by with no noise within either: where memory lies, which core is taken."""

LEAST_CALLS = 3
_RESAMPLES = 4000

PRODUCT = "product"

SLOWER, FASTER, SAME_TIME, TOO_FEW = "slower", "faster", "as before", "too few calls"

Array = npt.NDArray[np.float64]


@dataclass
class Change:
    """One row that both files have; seconds are medians."""

    key: Key
    verdict: str
    before: float | None = None
    after: float | None = None
    yardstick: str = ""
    """``"product"``, the name of a row, or nothing where the files share none."""
    drift: float | None = None
    """Of the yardstick, after over before."""
    ratio: float | None = None
    """After over before, each over its yardstick."""
    low: float | None = None
    high: float | None = None

    @property
    def worse(self) -> bool:
        """Whether it is slower, or no longer right."""
        return self.verdict == SLOWER or self.verdict.endswith(" now")


@dataclass
class Comparison:
    """Two files."""

    before: Timings
    after: Timings
    changes: list[Change] = field(default_factory=list)
    confidence: float = CONFIDENCE
    """Of each interval."""


def compare(before: str, after: str) -> Comparison:
    """Two result files, the older one first.

    Raises:
        UsageError: a file that is none of ours, or two that are not of one kind, device and input.
    """
    result = Comparison(read_timings(before, "--compare"), read_timings(after, "--compare"))
    _check_same(result.before, result.after)
    shared = [key for key in result.before.rows if key in result.after.rows]
    if not shared:
        raise UsageError(f"--compare: {before} and {after}: have no row in common")
    judged = [key for key in shared if _can_be_judged(result, key)]
    result.confidence = 1 - (1 - CONFIDENCE) / max(1, len(judged))
    result.changes = [_change(result, key, key in judged) for key in shared]
    return result


def _check_same(before: Timings, after: Timings) -> None:
    if before.kind != after.kind:
        raise UsageError(
            f"--compare: {before.path} is of {before.kind}, {after.path} of {after.kind}; takes two files of one kind"
        )
    for name in SAME:
        values = [one.environment.get(name) for one in (before, after)]
        if values[0] != values[1]:
            raise UsageError(
                f"--compare: {name}: {before.path} has {values[0]!r}, {after.path} has {values[1]!r}; takes files of "
                "one machine and one input"
            )


def _can_be_judged(files: Comparison, key: Key) -> bool:
    pair = files.before.rows[key], files.after.rows[key]
    return all(len(row.seconds) >= LEAST_CALLS for row in pair) and not _is_yardstick(files, key)


def _is_yardstick(files: Comparison, key: Key) -> bool:
    return _yardstick(files, key)[0] != PRODUCT and key == files.before.yardstick_key(key)


def _yardstick(files: Comparison, key: Key) -> tuple[str, tuple[tuple[float, ...], ...]]:
    """What both runs measured it by, and the seconds of that."""
    pair = files.before.rows[key], files.after.rows[key]
    if all(row.yardstick for row in pair):
        return PRODUCT, tuple(row.yardstick for row in pair)
    other = files.before.yardstick_key(key)
    seconds = tuple(one.rows.get(other, Times("")).seconds for one in (files.before, files.after))
    return (", ".join(filter(None, other[1:])), seconds) if all(seconds) else ("", ((), ()))


def _change(files: Comparison, key: Key, judged: bool) -> Change:
    first, second = files.before.rows[key], files.after.rows[key]
    if not first.seconds or not second.seconds:
        if first.status == second.status:
            return Change(key, first.status)
        if second.status in ("wrong", "failed") and first.status == "ok":
            return Change(key, f"{second.status} now")
        return Change(key, f"{first.status}, then {second.status}")
    before, after = float(np.median(first.seconds)), float(np.median(second.seconds))
    yardstick, (yard_before, yard_after) = _yardstick(files, key)
    drift = float(np.median(yard_after) / np.median(yard_before)) if yardstick else None
    result = Change(key, TOO_FEW, before, after, yardstick, drift, after / before / (drift or 1.0))
    if not judged:
        if _is_yardstick(files, key):
            result.verdict = "the yardstick"
        return result
    generator = np.random.default_rng(0)
    logs = [
        _resampled(seconds, yard, generator)
        for seconds, yard in ((first.seconds, yard_before), (second.seconds, yard_after))
    ]
    tail = (1 - files.confidence) / 2
    result.low, result.high = map(float, np.exp(np.quantile(logs[1] - logs[0], (tail, 1 - tail))))
    result.verdict = SAME_TIME
    if result.ratio is not None and result.low > 1 and result.ratio > 1 + LEAST_CHANGE:
        result.verdict = SLOWER
    elif result.ratio is not None and result.high < 1 and result.ratio < 1 / (1 + LEAST_CHANGE):
        result.verdict = FASTER
    return result


def _resampled(seconds: Sequence[float], yardstick: Sequence[float], generator: np.random.Generator) -> Array:
    """Logarithms of median over median of the yardstick, of so many bootstrap samples."""
    rounds = min(ROUNDS, len(seconds))
    drawn = generator.integers(rounds, size=(_RESAMPLES, rounds))
    result: Array = np.log(_medians(seconds, drawn, generator))
    if yardstick:
        if len(yardstick) < rounds:
            drawn = generator.integers(len(yardstick), size=(_RESAMPLES, len(yardstick)))
        result -= np.log(_medians(yardstick, drawn, generator))
    return result


def _medians(seconds: Sequence[float], drawn: npt.NDArray[np.int64], generator: np.random.Generator) -> Array:
    """Of calls drawn within the drawn rounds, ``[samples, rounds] -> [samples]``; a round is a stretch of the list."""
    parts = np.array_split(np.asarray(seconds), drawn.shape[1])
    most = max(len(part) for part in parts)
    lengths = np.array([len(part) for part in parts])
    padded = np.stack([np.resize(part, most) for part in parts])
    calls = (generator.random((*drawn.shape, most)) * lengths[drawn][..., None]).astype(np.int64)
    values = padded[drawn[..., None], calls]
    result: Array = np.median(values.reshape(len(drawn), -1), axis=1)
    return result


def table(found: Comparison) -> Table:
    """Both medians, the yardstick's drift, and the ratio to it with its interval."""
    result = Table(
        title=f"{found.before.path} and {found.after.path}",
        caption="milliseconds of a call, median; drift: of the yardstick between the runs; ratio: second over first, "
        f"each over its yardstick, with an interval of {100 * found.confidence:.4g} %, {100 * CONFIDENCE:.0f} % for "
        f"all rows together; a change below {100 * LEAST_CHANGE:.0f} % is none",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for heading in ("input", "what"):
        result.add_column(heading, no_wrap=True)
    for heading in ("first", "second", "drift", "ratio"):
        result.add_column(heading, justify="right", no_wrap=True)
    for heading in ("", "yardstick"):
        result.add_column(heading, no_wrap=True)
    previous = None
    for change in found.changes:
        name = change.key[0] if change.key[0] != previous else ""
        previous = change.key[0]
        times = [None if each is None else 1e3 * each for each in (change.before, change.after)]
        interval = "" if change.low is None else f" [{change.low:.2f}, {change.high:.2f}]"
        result.add_row(
            name,
            " ".join(filter(None, change.key[1:])),
            *map(milliseconds, times),
            "" if change.drift is None else f"{change.drift:.2f}",
            "" if change.ratio is None else f"{change.ratio:.2f}{interval}",
            change.verdict.upper() if change.worse else change.verdict,
            change.yardstick,
        )
    return result


def notes(found: Comparison) -> list[str]:
    """A line for each thing that the table does not say: versions, rows of one file only, how many changed."""
    lines = []
    for name in ("cdam_fast", "torch", "python", "cores"):
        values = [str(one.environment.get(name)) for one in (found.before, found.after)]
        if values[0] != values[1]:
            lines.append(f"{name}: {values[0]}, then {values[1]}")
    lines += [f"{one.path}: interrupted" for one in (found.before, found.after) if one.environment.get("interrupted")]
    for one, other in ((found.before, found.after), (found.after, found.before)):
        only = [" ".join(filter(None, key)) for key in one.rows if key not in other.rows]
        if only:
            lines.append(f"only in {one.path}: {'; '.join(only)}")
    counts = {name: sum(change.verdict == name for change in found.changes) for name in (SLOWER, FASTER, SAME_TIME)}
    counts["not compared"] = len(found.changes) - sum(counts.values())
    lines.append(", ".join(f"{count} {name}" for name, count in counts.items() if count or name != "not compared"))
    return lines
