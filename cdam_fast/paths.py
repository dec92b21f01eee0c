"""Which path every backend takes for an input, scale by scale, and what chose it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cdam_fast import compat, ops, portable
from cdam_fast.arguments import (
    MapOptions,
    check_options,
    check_similarity,
    check_target,
    working_dtype,
    working_similarity,
)
from cdam_fast.attention import choose_backend
from cdam_fast.constants import ATTENTION_TEMPERATURE, SCALES, TEMPERATURE, scaled_grid
from cdam_fast.jensen_shannon import Decision
from cdam_fast.tracing import as_batch, is_traced

DEFAULT_TARGET = "sm_90"
"""The GPU that the kernels' choice is told for where the similarity is on none: an H100 or H200."""


class Choice(NamedTuple):
    """One scale of one image by one backend. Numbers are NaN where the path is not chosen by them."""

    image: int
    """Of the leading dims, flattened."""
    scale: float
    grid: tuple[int, int]
    """Patches at that scale."""
    backend: str
    """``"reference"``, ``"portable"`` or ``"triton"``."""
    path: str
    """Of Jensen-Shannon: ``"features"`` or ``"definition"`` (portable), ``"narrow features"``, ``"wide features"``,
    ``"logarithms"`` (in tiles with a row that is nearly one-hot in a class which the others lack: the definition) or
    ``"definition"`` (triton), ``"definition"`` (reference). The other metrics have one path each, of their own name."""
    dtype: str
    """In which the divergence is held: portable goes over to ``"float64"`` where a row's range asks for it."""
    rank: int
    """Features of a class; 0 on a path without."""
    reach: float
    """Largest distance of a probability from its class's base, as
    ``|sqrt p - sqrt b| / (sqrt p + sqrt b)``, from 0 to 1: a set of features serves up to a width."""
    length: float
    tail: float
    """Two sums over classes, largest over the patches, whose meaning is the backend's: the bound is linear in them."""
    floor: float
    growth: float
    """The bound's factors, of the features' rank; where features were refused, of those that came nearest."""
    bound: float
    """Most that the features leave out of a divergence, ``floor * length + growth * tail``; in the kernels their
    rounding as well."""
    allowed: float
    """What the bound may be: features serve where it is no more."""
    contrast: float
    """What allowed is a share of. portable: the smallest of the rows' largest divergences. triton: no more than the
    divergence of some two patches, of which every row's range is a quarter at least."""


class Explanation(NamedTuple):
    """What `explain` returns; ``str()`` is a table."""

    shape: tuple[int, ...]
    """Of the similarity."""
    options: MapOptions
    auto: str
    """The backend that ``backend="auto"`` takes for it."""
    target: str | None
    """The GPU that the kernels' choices are of; None where they are not there."""
    kernels: str | None
    """Why there are no choices of the kernels; None where there are."""
    choices: tuple[Choice, ...]
    """By image, scale and backend, in that order."""

    def of(self, backend: str, image: int = 0) -> tuple[Choice, ...]:
        """One backend's choices for one image, a scale each."""
        return tuple(choice for choice in self.choices if (choice.backend, choice.image) == (backend, image))

    def as_dict(self) -> dict[str, Any]:
        """For JSON: numbers that are not finite are None."""
        fields = self._asdict() | {"options": self.options._asdict()}
        return fields | {
            "choices": [{name: _plain(value) for name, value in c._asdict().items()} for c in self.choices]
        }

    def __str__(self) -> str:
        classes, height, width = self.shape[-3:]
        options = self.options
        head = (
            f"{classes} classes, {height}x{width} patches, {options.metric}, {options.order} order",
            f"backend auto: {self.auto}; reference: {_only_path(options, 'definition').path} at every scale",
            f"triton: {'kernels of ' + str(self.target) if self.kernels is None else 'not here: ' + self.kernels}",
        )
        table = [_HEADINGS, *(_cells(choice) for choice in self.choices if choice.backend != "reference")]
        widths = [max(map(len, column)) for column in zip(*table)]
        return "\n".join((*head, *("  ".join(map(str.rjust, cells, widths)).rstrip() for cells in table)))


_HEADINGS = (
    *("image", "scale", "grid", "backend", "path", "dtype", "rank"),
    *("reach", "length", "tail", "floor", "growth", "bound", "allowed", "contrast"),
)


def _cells(choice: Choice) -> tuple[str, ...]:
    image, scale, (height, width), backend, path, dtype, rank, *numbers = choice
    words = (str(image), f"{scale:g}", f"{height}x{width}", backend, path, dtype, str(rank) if rank else "")
    return (*words, *("" if math.isnan(number) else f"{number:.3g}" for number in numbers))


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def explain(
    similarity: Tensor,
    *,
    scales: Sequence[float] = SCALES,
    temperature: float = TEMPERATURE,
    attention_temperature: float = ATTENTION_TEMPERATURE,
    metric: str = "js",
    order: str = "official",
    minmax: tuple[bool, bool] = (True, True),
    target: str | None = None,
) -> Explanation:
    """Which path each backend takes for the map of this similarity, scale by scale, and the numbers that choose it.

    Of calls without gradients. The portable divergence is computed on the way, so this takes about as long as the map;
    of the kernels the first stage is run, whose statistics choose. The host waits for a GPU.

    Args:
        similarity: ``[..., C, h, w]``, as for `cdam_fast.cdam_attention`.
        scales, temperature, attention_temperature, metric, order, minmax: as for `cdam_fast.cdam_attention`.
        target: the GPU whose kernels are asked, as Triton names it (``"sm_90"``, ``"gfx942"``): it need not be there,
            but the kernels must run here, on a GPU or interpreted. None is the similarity's device, ``"sm_90"`` where
            that is the CPU; the kernels are then left out, with the reason, where they do not run.

    Returns:
        An `Explanation`: a `Choice` for each image, scale and backend; ``print`` shows it as a table.

    Raises:
        TypeError, ValueError: as `cdam_fast.cdam_attention`, a similarity without values, a target that is no GPU.
        RuntimeError: a target, where the kernels do not run; a similarity that a tracer or a transform watches.
    """
    similarity = check_similarity(similarity)
    options = check_options(similarity, MapOptions(scales, temperature, attention_temperature, metric, order, minmax))
    target = check_target(target)
    if similarity.device.type == "meta":
        raise ValueError("similarity: got a tensor on meta, takes one that has values")
    if is_traced(similarity):
        raise RuntimeError("similarity: got a tensor that is traced or transformed, takes one whose values can be read")
    height, width = similarity.shape[-2:]
    refused = ops.refusal(similarity, height * width)
    if refused is not None and target is not None:
        raise RuntimeError(f"target: got {target!r}, whose kernels do not run here: {refused}")
    images = as_batch(similarity.detach(), 3)
    with compat.without_autocast(similarity.device.type):
        taken = {"reference": _by_reference(images, options), "portable": _by_portable(images, options)}
        if refused is None:
            target, taken["triton"] = _by_triton(images, options, target)
    choices = tuple(
        Choice(image, scale, scaled_grid(height, width, scale), backend, dtype=dtype, **decision._asdict())
        for image in range(images.shape[0])
        for k, scale in enumerate(options.scales)
        for backend, (dtype, decision) in ((backend, by_image[image][k]) for backend, by_image in taken.items())
    )
    auto = choose_backend("auto", similarity, height * width)
    return Explanation(tuple(similarity.shape), options, auto, target, refused, choices)


_Taken = list[list[tuple[str, Decision]]]  # by image and scale: the dtype, and what was decided


def _by_reference(images: Tensor, options: MapOptions) -> _Taken:
    only = (_name(working_dtype(images.dtype)), _only_path(options, "definition"))
    return [[only for _ in options.scales] for _ in images]


def _by_portable(images: Tensor, options: MapOptions) -> _Taken:
    """By computing the divergence of each scale as the map does."""
    work, taken = working_similarity(images), []
    for part in portable.parts(work) if len(work) > 0 else ():
        logits = portable.map_logits(part, options, traced=False)
        by_scale = []
        for scale in options.scales:
            decisions: list[Decision] = []
            divergence = partial(portable.pairwise_divergence, decisions=decisions)
            if part.dtype == torch.float32:
                _, single = portable.judged_rows(part, logits, scale, options, divergence)
            else:
                portable.rows_at(logits, scale, options, divergence, part.dtype)
                single = False
            # the last are those that the map is of
            last = decisions[-len(part) :] or [_only_path(options, "")] * len(part)
            by_scale.append([("float32" if single else "float64", decision) for decision in last])
        taken += [list(by_image) for by_image in zip(*by_scale)]
    return taken


def _by_triton(images: Tensor, options: MapOptions, target: str | None) -> tuple[str, _Taken]:
    """By the kernels' first stage, which is run, and the rule of the second."""
    told, choices = ops.choices(images, options, target, DEFAULT_TARGET)
    if choices is None:
        return told, [[("float32", _only_path(options, "")) for _ in options.scales] for _ in images]
    return told, [[("float32", Decision(**choice._asdict())) for choice in scales] for scales in choices]


def _only_path(options: MapOptions, of_js: str) -> Decision:
    return Decision(of_js if options.metric == "js" else options.metric)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
