"""Inputs and names that several test modules share."""

import itertools

import pytest
import torch
from torch.nn import functional

from cdam_fast import SCALES, compat
from cdam_fast.constants import METRICS, ORDERS
from cdam_fast.testing import clip_like

# what torch is too old for, by name
needs_operators = pytest.mark.skipif(not compat.HAS_OPERATORS, reason="custom operators: torch 2.6")
needs_kernels = pytest.mark.skipif(compat.TORCH < compat.OLDEST_OF_KERNELS, reason="Triton 3.2: torch 2.6")
needs_meta = pytest.mark.skipif(compat.TORCH < (2, 0), reason="a device for everything: torch 2.0")
needs_poison = pytest.mark.skipif(compat.TORCH < (2, 2), reason="filling of uninitialised memory: torch 2.2")

float16_of_models = pytest.param(
    torch.float16,
    marks=pytest.mark.skipif(
        not torch.cuda.is_available() and compat.refusal_of_dtype(torch.float16, "cpu") is not None,
        reason="float16 models on a CPU: torch 2.3",
    ),
)

MINMAX = tuple(itertools.product((True, False), repeat=2))

every_metric = pytest.mark.parametrize("metric", METRICS)
every_order = pytest.mark.parametrize("order", ORDERS)
every_minmax = pytest.mark.parametrize("minmax", MINMAX, ids=lambda flags: f"minmax{flags[0]:d}{flags[1]:d}")


def scales_for(height, width):
    """The default scales, or one scale where the smallest would leave no patch."""
    return SCALES if int(min(height, width) * min(SCALES)) else (1.0,)


def one_hot(classes, height, width, seed=0):
    """Cosines of 1 with one random class and -1 with the others."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(classes, (height, width), generator=generator)
    return 2 * functional.one_hot(chosen, classes).permute(2, 0, 1).float() - 1


def half_flat(classes, height, width, seed=0):
    """One-hot patches below, patches with every cosine 0.2 in the upper half."""
    similarity = one_hot(classes, height, width, seed)
    similarity[:, : height // 2] = 0.2
    return similarity


def clip_rows(rows, classes, *, temperature=0.1, batch=(), spread=0.03, seed=0):
    """Class distributions ``[*batch, rows, classes]`` in float32."""
    similarity = clip_like(classes, rows, 1, batch=batch, spread=spread, seed=seed)
    return torch.softmax(similarity / temperature, -3).flatten(-2).mT.contiguous()
