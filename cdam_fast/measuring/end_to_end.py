"""Seconds from pixels to patch labels: every base method, and what CDAM adds to it (Tables 5 and 6 of the paper)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cdam_fast import SCALES, cdam_attend, entropy_threshold, reference, testing
from cdam_fast.compat import compiled
from cdam_fast.measuring.bench import ROUNDS, SECONDS_PER_BACKEND, BenchOptions
from cdam_fast.measuring.inputs import PATCH, ClassList, encoded_words, load_model, photograph_pixels
from cdam_fast.measuring.measure import COMPILED, EAGER, Yardstick, seconds_of
from cdam_fast.models import BASES, Base, Tower
from cdam_fast.prompts import AUGMENTED_TEXT_PROMPTS

OURS = "cdam_fast"
STEPS = ("base", "+ map, one scale", "+ map, all scales", "+ augmented prompts", "+ threshold")
"""The rows of Table 6; the last is CDAM whole."""

LOGIT_BUDGET = 1e-5
"""Largest error of a cosine whose map is right."""

Attend = Callable[..., Tensor]
Planned = tuple[Base, str, str, Attend]
"""A row to be: base, step, whose map, and the map."""

_TABLE_6 = {
    "VOC21": (0.017, 0.020, 0.032, 0.043, 0.043),
    "Context60": (0.017, 0.022, 0.038, 0.049, 0.049),
    "COCO-Object": (0.017, 0.024, 0.040, 0.051, 0.051),
}
"""Seconds per image of MaskCLIP after each of the steps, on an A100."""

_TABLE_5 = {
    "VOC21": {"sclip": (0.018, 0.044), "clearclip": (0.017, 0.044), "gem": (0.026, 0.052)},
    "Context60": {"sclip": (0.018, 0.050), "clearclip": (0.018, 0.050), "gem": (0.026, 0.059)},
    "COCO-Object": {"sclip": (0.018, 0.052), "clearclip": (0.018, 0.051), "gem": (0.026, 0.060)},
}
"""Seconds per image of the other bases, without and with all of CDAM."""


def paper_seconds(class_list: str) -> dict[tuple[str, str], float]:
    """The paper's seconds per image by base and step; empty for a list that it does not have."""
    if class_list not in _TABLE_6:
        return {}
    seconds = {("maskclip", step): value for step, value in zip(STEPS, _TABLE_6[class_list])}
    for base, (alone, whole) in _TABLE_5[class_list].items():
        seconds |= {(base, STEPS[0]): alone, (base, STEPS[-1]): whole}
    return seconds


@dataclass
class StepRow:
    """One base method with so much of CDAM, by one way to compute the map. None is not measured."""

    class_list: str
    classes: int
    base: str
    step: str
    map: str
    status: str = "not run"
    note: str = ""
    error: float | None = None
    p50_ms: float | None = None
    over_base: float | None = None
    """Share of the base's time that the step and all before it add."""
    paper_ms: float | None = None
    paper_over_base: float | None = None
    seconds: list[float] = field(default_factory=list, repr=False)
    yardstick: list[float] = field(default_factory=list, repr=False)
    """Seconds of `Yardstick` in the same rounds."""


@dataclass
class EndToEndReport:
    """Everything that was measured and on what."""

    environment: dict[str, Any]
    rows: list[StepRow] = field(default_factory=list)
    interrupted: bool = False

    def as_json(self) -> dict[str, Any]:
        """Plain values, every single time included."""
        return {**self.environment, "interrupted": self.interrupted, "rows": [asdict(row) for row in self.rows]}


@dataclass(frozen=True)
class _Image:
    """What every row starts from: a model, a batch of pixels, the text features of one class list."""

    tower: Tower
    pixels: Tensor
    text: Tensor
    classes: int
    """The first of the text features; the augmented prompts follow."""

    def run(self, base: Base, step: str, attend: Attend) -> Tensor:
        """Cosines of the patches with the classes, ``[B, C, N]``, after so much of CDAM."""
        last = base.prepare(self.tower, self.pixels)
        augmented = step in STEPS[3:]
        words = self.text if augmented else self.text[: self.classes]
        similarity = base.similarity(base.first_pass(self.tower, last), words, last.grid)
        if step == STEPS[0]:
            return similarity.flatten(2)
        scales = (1.0,) if step == STEPS[1] else SCALES
        features = base.finish(self.tower, last, attend(similarity, last.patch_values, scales=scales))
        cosines = base.similarity(features, self.text[: self.classes], last.grid).flatten(2)
        if step == STEPS[-1]:
            probability, label = torch.softmax(50 * cosines, dim=1).max(1)
            label.masked_fill_(probability < entropy_threshold(cosines)[:, None], 0)
        return cosines


def run_end_to_end(options: BenchOptions, report: EndToEndReport, on_step: Callable[[str], None]) -> None:
    """Measure every class list into report, in place, so that an interrupt keeps what is done."""
    height, width = options.grid[0] * PATCH, options.grid[1] * PATCH
    model, tokenizer, weights = load_model(options.pretrained, height, width, options.device)
    pixels, name = photograph_pixels(options.image, height, width, options.batch, options.device)
    report.environment |= {"photograph": name, "weights": weights}
    features = encoded_words(model, tokenizer, options.class_lists, on_step)
    tower = Tower(model)
    compiled_eager: Attend = compiled(reference.cdam_attend)
    for entry in options.class_lists:
        text = torch.stack([features[word] for word in entry.words])
        image = _Image(tower, tower.check_pixels(pixels), text, _own_words(entry))
        with_compile = options.compile == "all" or (
            options.compile == "largest" and entry.name == options.class_lists[-1].name
        )
        with torch.no_grad():
            _measure(options, report, entry, image, _plan(compiled_eager if with_compile else None), on_step)


def time_steps(
    options: BenchOptions,
    report: EndToEndReport,
    entry: ClassList,
    tower: Tower,
    pixels: Tensor,
    text: Tensor,
    on_step: Callable[[str], None],
) -> None:
    """The rows of the paper's Tables 5 and 6 for one class list, our map alone, into report, in place.

    Args:
        options: device, batch and runs are used.
        report: takes the rows.
        entry: the words.
        tower: of the model.
        pixels: ``[B, 3, H, W]`` normalised.
        text: ``[Q, D]`` L2-normalised, of the words in their order.
        on_step: hears of each row and round.
    """
    image = _Image(tower, tower.check_pixels(pixels), text, _own_words(entry))
    with torch.no_grad():
        _measure(options, report, entry, image, _paper_plan(), on_step)


def _own_words(entry: ClassList) -> int:
    """Classes before the augmented prompts, where the list has them."""
    augmented = entry.words[-len(AUGMENTED_TEXT_PROMPTS) :] == AUGMENTED_TEXT_PROMPTS
    return len(entry.words) - len(AUGMENTED_TEXT_PROMPTS) if augmented else len(entry.words)


def _measure(
    options: BenchOptions,
    report: EndToEndReport,
    entry: ClassList,
    image: _Image,
    plan: list[Planned],
    on_step: Callable[[str], None],
) -> None:
    rows: list[tuple[StepRow, Callable[[], Tensor]]] = []
    for base, step, kind, attend in plan:
        row = StepRow(entry.name, len(entry.words), base.name, step, kind)
        report.rows.append(row)
        on_step(f"{entry.name}: {base.name} {step} {kind}")
        call: Callable[[], Tensor] = partial(image.run, base, step, attend)
        if step != STEPS[0]:
            try:
                row.error = float((call() - image.run(base, step, _exact_attend)).abs().max())
            except RuntimeError as error:
                row.status, row.note = "failed", next(iter(str(error).strip().splitlines()), "")[:120]
                continue
            if not row.error <= LOGIT_BUDGET:
                row.status, row.note = "wrong", f"error over {LOGIT_BUDGET:.0e}: not timed"
                continue
        row.status = "ok"
        rows.append((row, call))
    yardstick = Yardstick(options.device)
    try:
        # rows take turns, so that a slower minute of the machine falls on all of them
        for turn in range(ROUNDS):
            on_step(f"{entry.name}: round {turn + 1} of {ROUNDS}")
            yardstick.take()
            for row, call in rows:
                if not row.seconds:
                    seconds_of(call, options.device)  # warm-up
                for _ in range(-(-options.runs // ROUNDS)):
                    row.seconds.append(seconds_of(call, options.device)[0])
                    if sum(row.seconds) > SECONDS_PER_BACKEND * (turn + 1) / ROUNDS:
                        break
    finally:  # an interrupt keeps the rounds that are done
        for row, _ in rows:
            row.yardstick = yardstick.seconds
        _summarise([row for row, _ in rows], options.batch)


def _ours(base: Base) -> list[Planned]:
    steps = STEPS if base.name == "maskclip" else (STEPS[0], STEPS[-1])
    return [(base, step, OURS if step != STEPS[0] else "", cdam_attend) for step in steps]


def _paper_plan() -> list[Planned]:
    return [row for name in ("maskclip", *_TABLE_5["VOC21"]) for row in _ours(BASES[name])]


def _plan(compiled: Attend | None) -> list[Planned]:
    plan: list[Planned] = []
    for base in BASES.values():
        plan += _ours(base)
        if base.name == "maskclip":  # what the map adds is the same for the others
            plan += [(base, step, EAGER, reference.cdam_attend) for step in STEPS[1:]]
            plan += [(base, STEPS[-1], COMPILED, compiled)] if compiled is not None else []
    return plan


def _exact_attend(similarity: Tensor, values: Tensor, *, scales: tuple[float, ...]) -> Tensor:
    exact = testing.oracle(similarity, scales=scales).to(similarity.device)
    return (exact @ values.double()).to(similarity.dtype)


def _summarise(rows: list[StepRow], batch: int) -> None:
    for row in rows:
        if row.seconds:
            row.p50_ms = float(torch.tensor(row.seconds, dtype=torch.float64).median()) * 1e3 / batch
    alone = {row.base: row.p50_ms for row in rows if row.step == STEPS[0]}
    paper = paper_seconds(rows[0].class_list) if rows else {}
    for row in rows:
        base_ms = alone.get(row.base)
        if row.p50_ms and base_ms and row.step != STEPS[0]:
            row.over_base = row.p50_ms / base_ms - 1
        if (row.base, row.step) in paper:
            row.paper_ms = 1e3 * paper[row.base, row.step]
            if row.step != STEPS[0]:
                row.paper_over_base = paper[row.base, row.step] / paper[row.base, STEPS[0]] - 1
