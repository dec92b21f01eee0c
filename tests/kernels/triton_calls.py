"""Calls of the Triton backend, on a GPU or interpreted."""

import torch

import cdam_fast
from cdam_fast.testing import largest_error, map_budget, oracle

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


TWO_SCALES = (0.5, 1.0)


def triton(similarity, **options):
    return cdam_fast.cdam_attention(similarity.to(DEVICE), backend="triton", **options)


def assert_within_budget(similarity, **options):
    options = {"scales": TWO_SCALES} | options
    result = triton(similarity, **options)
    dtype = options.pop("out_dtype", similarity.dtype)
    assert result.dtype == dtype
    assert largest_error(result, oracle(similarity, **options)) <= map_budget(dtype)
