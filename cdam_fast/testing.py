"""What is right and by how much: the float64 oracle, the error budget, and inputs, for tests and benchmarks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from cdam_fast import reference
from cdam_fast.arguments import MapOptions, check_options, check_similarity, working_similarity

MAP_BUDGET = 3e-5
"""Largest error of a float32 map, whose entries lie in [0, 1], against float64."""

EAGER_BUDGET = 1e-3
"""As much for the eager reference in float32, which is the yardstick and not a contender: it subtracts nearly equal
logarithms, and loses 1e-5 to 1e-4 of the map where distributions differ little. Beyond this it is broken."""

_BLOCK_ELEMENTS = 1 << 22  # 32 MB of float64 for one temporary


def map_budget(out_dtype: torch.dtype = torch.float32, *, eager: bool = False) -> float:
    """Largest error that a map of this dtype may have, the rounding of its result included."""
    rounding = 0.0 if out_dtype in (torch.float32, torch.float64) else torch.finfo(out_dtype).eps / 2
    return (EAGER_BUDGET if eager else MAP_BUDGET) + rounding


def oracle(similarity: Tensor, *, device: torch.device | str = "cpu", **options: Any) -> Tensor:
    """`cdam_fast.reference.cdam_attention` in float64 on a device, in blocks of rows so that any size fits.

    Takes the options of `cdam_fast.reference.cdam_attention` but ``out_dtype``.
    """
    work = working_similarity(check_similarity(similarity).detach().to(device, torch.float64))
    return reference.multi_scale_map(work, check_options(work, MapOptions(**options)), _blocked_divergence)


def exact_divergence(p: Tensor) -> Tensor:
    """`cdam_fast.reference.pairwise_divergence` of ``p [N, C]`` in float64 on the CPU, in blocks of rows."""
    return _blocked_divergence(p.detach().to("cpu", torch.float64), metric="js")


def _blocked_divergence(p: Tensor, *, metric: str) -> Tensor:
    rows = max(1, _BLOCK_ELEMENTS // (p.shape[:-2].numel() * p.shape[-2] * p.shape[-1]))
    return torch.cat([reference.pairwise_divergence(block, p, metric=metric) for block in torch.split(p, rows, -2)], -2)


def largest_error(result: Tensor, exact: Tensor) -> float:
    """Largest absolute difference; infinite where either is NaN and the other is not, or shapes differ."""
    if result.shape != exact.shape:
        return float("inf")
    own = result.detach().to(exact.device, torch.float64)
    difference = (own - exact).abs()
    both_nan = own.isnan() & exact.isnan()
    return float(torch.where(both_nan, 0.0, difference).nan_to_num(nan=torch.inf).max())


def clip_like(
    classes: int, height: int, width: int, *, batch: tuple[int, ...] = (), spread: float = 0.03, seed: int = 0
) -> Tensor:
    """Random similarity shaped like CLIP's, float32 ``[*batch, C, h, w]``: smooth over the grid, plus noise.

    ``spread`` is the standard deviation over patches of one class's cosine similarity: 0.03 for CLIP; 1 and more
    makes peaked distributions.
    """
    generator = torch.Generator().manual_seed(seed)
    count = torch.Size(batch).numel()
    level = 0.2 + spread * torch.randn(count, classes, 1, 1, generator=generator)
    coarse = torch.randn(count, classes, max(1, height // 4), max(1, width // 4), generator=generator)
    smooth = functional.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    noise = torch.randn(count, classes, height, width, generator=generator)
    return (level + spread * (0.7 * smooth + 0.7 * noise)).reshape(*batch, classes, height, width)


DEGENERATE = ("flat", "two regions", "checkerboard", "stripes", "repeated", "one-hot", "one patch", "near-flat")
"""Kinds of input whose divergence has rows that are constant, or nearly, at some scale."""


def degenerate(kind: str, classes: int, height: int, width: int, *, seed: int = 0) -> Tensor:
    """Similarity ``[C, h, w]`` of one of the kinds of `DEGENERATE`, float32.

    One or a few random distributions over the patches: one everywhere, one on either side of a border, by turns, in
    stripes, at random places; one class certain at each patch; one patch unlike the others; or one everywhere with
    differences of 1e-3 to 1e-5 of a cosine.
    """
    generator = torch.Generator().manual_seed(seed)
    vectors = 0.2 + 0.1 * torch.randn(3, classes, generator=generator)
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None, :]
    border = int(torch.randint(1, max(2, width), (), generator=generator))
    places = {
        "two regions": (columns >= border).expand(height, width),
        "checkerboard": (rows + columns) % 2,
        "stripes": (rows % 2).expand(height, width),
        "repeated": torch.randint(3, (height, width), generator=generator),
        "one patch": (rows * width + columns) == border,
    }
    if kind == "one-hot":
        chosen = torch.randint(classes, (height, width), generator=generator)
        return 2 * functional.one_hot(chosen, classes).permute(2, 0, 1).float() - 1
    if kind in places:
        return vectors[places[kind].long()].permute(2, 0, 1).contiguous()
    flat = vectors[0, :, None, None].expand(-1, height, width).contiguous()
    if kind == "near-flat":
        spread = 10 ** -(3 + 2 * float(torch.rand((), generator=generator)))
        flat = flat + spread * torch.randn(classes, height, width, generator=generator)
    return flat
