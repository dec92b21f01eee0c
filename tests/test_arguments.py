"""Every bad argument raises, and the message names it."""

import math

import numpy as np
import pytest
import torch

import cdam_fast
from cdam_fast import reference

SIMILARITY = torch.zeros(3, 4, 4)
VALUES = torch.zeros(16, 2)
ROWS = torch.full((5, 3), 1 / 3)

map_functions = pytest.mark.parametrize(
    "attend",
    [
        lambda similarity, **options: cdam_fast.cdam_attention(similarity, **options),
        lambda similarity, **options: cdam_fast.cdam_attend(similarity, VALUES, **options),
        lambda similarity, **options: reference.cdam_attention(similarity, **options),
        lambda similarity, **options: reference.cdam_attend(similarity, VALUES, **options),
    ],
    ids=["attention", "attend", "reference.attention", "reference.attend"],
)
attend_functions = pytest.mark.parametrize(
    "attend", [cdam_fast.cdam_attend, reference.cdam_attend], ids=["attend", "reference.attend"]
)
divergences = pytest.mark.parametrize(
    "divergence",
    [cdam_fast.pairwise_divergence, reference.pairwise_divergence],
    ids=["divergence", "reference.divergence"],
)
with_backend = pytest.mark.parametrize(
    "call",
    [
        lambda backend: cdam_fast.cdam_attention(SIMILARITY, backend=backend),
        lambda backend: cdam_fast.cdam_attend(SIMILARITY, VALUES, backend=backend),
        lambda backend: cdam_fast.pairwise_divergence(ROWS, backend=backend),
    ],
    ids=["attention", "attend", "divergence"],
)


BAD_SIMILARITIES = {
    "list": (TypeError, [[1.0]]),
    "array": (TypeError, np.zeros((3, 4, 4))),
    "none": (TypeError, None),
    "int64": (TypeError, torch.zeros(3, 4, 4, dtype=torch.int64)),
    "bool": (TypeError, torch.zeros(3, 4, 4, dtype=torch.bool)),
    "complex": (TypeError, torch.zeros(3, 4, 4, dtype=torch.complex64)),
    "rank_0": (ValueError, torch.tensor(1.0)),
    "rank_2": (ValueError, torch.zeros(4, 4)),
    "no_class": (ValueError, torch.zeros(0, 4, 4)),
    "no_height": (ValueError, torch.zeros(3, 0, 4)),
    "no_width": (ValueError, torch.zeros(2, 3, 4, 0)),
}
if hasattr(torch, "float8_e4m3fn"):  # torch 2.1
    BAD_SIMILARITIES["float8"] = (TypeError, torch.zeros(3, 4, 4).to(torch.float8_e4m3fn))


@pytest.mark.parametrize("name", BAD_SIMILARITIES)
@map_functions
def test_similarity(attend, name):
    error, value = BAD_SIMILARITIES[name]
    with pytest.raises(error, match=r"^similarity: got .*takes"):
        attend(value)


NOT_POSITIVE = {
    "zero": (ValueError, 0),
    "negative": (ValueError, -0.1),
    "nan": (ValueError, math.nan),
    "inf": (ValueError, math.inf),
    "bool": (TypeError, True),
    "string": (TypeError, "0.1"),
    "none": (TypeError, None),
    "tensor": (TypeError, torch.tensor(0.1)),
    "complex": (TypeError, 1j),
}


@pytest.mark.parametrize("knob", ["temperature", "attention_temperature"])
@pytest.mark.parametrize("name", NOT_POSITIVE)
@map_functions
def test_temperatures(attend, name, knob):
    error, value = NOT_POSITIVE[name]
    with pytest.raises(error, match=rf"^{knob}: got .*takes a positive"):
        attend(SIMILARITY, **{knob: value})


@pytest.mark.parametrize("name", NOT_POSITIVE)
@map_functions
def test_one_of_the_scales(attend, name):
    error, value = NOT_POSITIVE[name]
    with pytest.raises(error, match=r"^scales\[1\]: got .*takes a positive"):
        attend(SIMILARITY, scales=(1.0, value))


@pytest.mark.parametrize(
    ("error", "scales", "message"),
    [
        (ValueError, (), "scales: got an empty"),
        (ValueError, [], "scales: got an empty"),
        (TypeError, 1.0, "scales: got float"),
        (TypeError, "1.0", "scales: got str"),
        (TypeError, None, "scales: got NoneType"),
        (TypeError, {1.0}, "scales: got set"),
        (ValueError, (1.0, 0.2), r"scales\[1\]: got 0.2, which leaves no patch of the 4x4 grid; takes at least 0.25"),
        (ValueError, (0.24999,), r"scales\[0\]: got 0.24999, which leaves no patch"),
    ],
    ids=["empty_tuple", "empty_list", "number", "string", "none", "set", "no_patch", "just_no_patch"],
)
@map_functions
def test_scales(attend, error, scales, message):
    with pytest.raises(error, match=f"^{message}"):
        attend(SIMILARITY, scales=scales)


def test_default_scales_say_what_is_wrong_on_a_small_grid():
    with pytest.raises(ValueError, match=r"^scales\[0\]: got 0.25, which leaves no patch of the 3x9 grid"):
        cdam_fast.cdam_attention(torch.zeros(3, 3, 9))
    cdam_fast.cdam_attention(torch.zeros(3, 3, 9), scales=[0.34, 1])


@pytest.mark.parametrize("value", ["JS", "", "euclidean", None, 0, ("js",)], ids=repr)
@map_functions
def test_metric(attend, value):
    with pytest.raises(ValueError, match=r"^metric: got .*takes one of 'js', 'kl', 'wasserstein'"):
        attend(SIMILARITY, metric=value)


@pytest.mark.parametrize("value", ["Paper", "", None, True], ids=repr)
@map_functions
def test_order(attend, value):
    with pytest.raises(ValueError, match=r"^order: got .*takes one of 'official', 'paper'"):
        attend(SIMILARITY, order=value)


@pytest.mark.parametrize(
    "value", [True, None, (), (True,), (True, True, True), (1, 0), "ab", ("True", "False"), {True, False}], ids=repr
)
@map_functions
def test_minmax(attend, value):
    with pytest.raises(TypeError, match=r"^minmax: got .*takes two booleans"):
        attend(SIMILARITY, minmax=value)


@pytest.mark.parametrize("value", [32, "float32", torch.int32, torch.bool, torch.complex64, float], ids=repr)
@map_functions
def test_out_dtype(attend, value):
    with pytest.raises(TypeError, match=r"^out_dtype: got .*takes None or one of"):
        attend(SIMILARITY, out_dtype=value)


@map_functions
def test_knobs_are_keywords(attend):
    with pytest.raises(TypeError):
        attend(SIMILARITY, (1.0,))
    with pytest.raises(TypeError, match="tau"):
        attend(SIMILARITY, tau=0.1)


@pytest.mark.parametrize("value", ["cuda", "Portable", "", None, 1], ids=repr)
@with_backend
def test_backend(call, value):
    with pytest.raises(ValueError, match=r"^backend: got .*takes one of 'auto', 'reference', 'portable', 'triton'"):
        call(value)


@pytest.mark.parametrize(
    ("error", "values", "message"),
    [
        (TypeError, None, "got NoneType"),
        (TypeError, torch.zeros(16, 2, dtype=torch.int32), "got dtype torch.int32"),
        (ValueError, torch.zeros(16), r"got shape \(16,\)"),
        (ValueError, torch.zeros(15, 2), "got 15 rows .*takes N = 16 rows"),
        (ValueError, torch.zeros(17, 2), "got 17 rows"),
        (ValueError, torch.zeros(2, 16, 2), r"got batch dims \(2,\), takes those of similarity, \(\)"),
        (ValueError, torch.zeros(1, 16, 2), r"got batch dims \(1,\)"),
        (ValueError, torch.zeros(16, 2, device="meta"), "got device meta, takes that of similarity, cpu"),
    ],
    ids=["none", "int32", "rank_1", "row_less", "row_more", "batch", "batch_of_1", "device"],
)
@attend_functions
def test_values(attend, error, values, message):
    with pytest.raises(error, match=f"^values: {message}"):
        attend(SIMILARITY, values)


@attend_functions
def test_values_of_another_batch(attend):
    with pytest.raises(ValueError, match=r"^values: got batch dims \(3,\), takes those of similarity, \(2,\)"):
        attend(torch.zeros(2, 3, 4, 4), torch.zeros(3, 16, 2))


@pytest.mark.parametrize(
    ("error", "p"),
    [
        (TypeError, [[0.5, 0.5]]),
        (TypeError, torch.ones(5, 3, dtype=torch.int64)),
        (ValueError, torch.ones(3)),
        (ValueError, torch.ones(5, 0)),
    ],
    ids=["list", "int64", "rank_1", "no_class"],
)
@divergences
def test_p(divergence, error, p):
    with pytest.raises(error, match=r"^p: got .*takes"):
        divergence(p)


@pytest.mark.parametrize(
    ("error", "q", "message"),
    [
        (TypeError, [[1.0, 0.0, 0.0]], "got list"),
        (TypeError, torch.ones(5, 3, dtype=torch.int64), "got dtype torch.int64"),
        (TypeError, ROWS.double(), "got dtype torch.float64, takes that of p, torch.float32"),
        (ValueError, torch.ones(3), "got shape"),
        (ValueError, torch.ones(5, 4), "got 4 classes, takes as many as p, 3"),
        (ValueError, torch.ones(2, 5, 3), r"got batch dims \(2,\), takes those of p, \(\)"),
        (ValueError, torch.ones(5, 3, device="meta"), "got device meta, takes that of p, cpu"),
    ],
    ids=["list", "int64", "dtype", "rank_1", "classes", "batch", "device"],
)
@divergences
def test_q(divergence, error, q, message):
    with pytest.raises(error, match=f"^q: {message}"):
        divergence(ROWS, q)


@pytest.mark.parametrize("value", ["JS", None, 1], ids=repr)
@divergences
def test_metric_of_the_divergence(divergence, value):
    with pytest.raises(ValueError, match=r"^metric: got .*takes one of"):
        divergence(ROWS, metric=value)


@pytest.mark.parametrize(
    ("error", "logits"),
    [
        (TypeError, [[1.0]]),
        (TypeError, torch.zeros(2, 4, dtype=torch.int64)),
        (ValueError, torch.zeros(4)),
        (ValueError, torch.zeros(0, 4)),
        (ValueError, torch.zeros(2, 0)),
    ],
    ids=["list", "int64", "rank_1", "no_class", "no_patch"],
)
def test_logits(error, logits):
    with pytest.raises(error, match=r"^logits: got .*takes"):
        cdam_fast.entropy_threshold(logits)


@pytest.mark.parametrize("knob", ["logit_scale", "alpha", "default"])
@pytest.mark.parametrize("name", NOT_POSITIVE)
def test_knobs_of_the_threshold(name, knob):
    error, value = NOT_POSITIVE[name]
    with pytest.raises(error, match=rf"^{knob}: got .*takes a positive"):
        cdam_fast.entropy_threshold(torch.zeros(2, 4), **{knob: value})


@pytest.mark.parametrize(
    ("error", "attention"),
    [
        (TypeError, [[1.0]]),
        (TypeError, torch.zeros(4, 4, dtype=torch.int64)),
        (ValueError, torch.zeros(4)),
        (ValueError, torch.zeros(4, 5)),
    ],
    ids=["list", "int64", "rank_1", "not_square"],
)
def test_attention_of_the_cls_token(error, attention):
    with pytest.raises(error, match=r"^attention: got .*takes"):
        cdam_fast.with_cls_token(attention)


@pytest.mark.parametrize("heads", [0, -12], ids=repr)
def test_too_few_heads(heads):
    with pytest.raises(ValueError, match=rf"^heads: got {heads}, takes None or an integer"):
        cdam_fast.with_cls_token(torch.zeros(1, 4, 4), heads=heads)


@pytest.mark.parametrize("heads", [True, False, 12.0, "12", [12], torch.tensor(12), np.float32(12)], ids=repr)
def test_heads_that_are_no_integer(heads):
    with pytest.raises(TypeError, match=r"^heads: got .*takes None or an integer"):
        cdam_fast.with_cls_token(torch.zeros(1, 4, 4), heads=heads)


def test_attention_without_a_second_axis():
    with pytest.raises(ValueError, match=r"^attention: got shape \(4,\), takes \[\.\.\., N, N\]"):
        cdam_fast.with_cls_token(torch.zeros(4), heads=12)
