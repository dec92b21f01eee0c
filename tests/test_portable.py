"""The portable map against float64."""

import pytest
import torch
from cases import every_metric, every_minmax, every_order, half_flat, needs_poison, one_hot, scales_for

import cdam_fast
from cdam_fast.constants import SCALES
from cdam_fast.testing import MAP_BUDGET, clip_like, largest_error, map_budget, oracle

CLIP_BUDGET = 1e-5
"""What eager float32 reaches on the recorded CLIP-like maps."""


def portable(similarity, **options):
    return cdam_fast.cdam_attention(similarity, backend="portable", **options)


def assert_within_budget(similarity, **options):
    result = portable(similarity, **options)
    assert result.dtype == similarity.dtype
    assert largest_error(result, oracle(similarity, **options)) <= map_budget(similarity.dtype)


@needs_poison
def test_memory_is_poisoned():
    assert torch.empty(1000).isnan().all()


GRIDS = [(1, 1), (1, 7), (7, 1), (4, 4), (13, 17), (14, 14)]


SIZES = [(*grid, classes) for grid in GRIDS for classes in (1, 2, 41, 161)] + [(28, 28, 101)]


@pytest.mark.parametrize(("height", "width", "classes"), SIZES, ids=[f"h{h}-w{w}-C{c}" for h, w, c in SIZES])
def test_grids_and_classes(height, width, classes):
    assert_within_budget(clip_like(classes, height, width), scales=scales_for(height, width))


@every_metric
@every_order
@every_minmax
@pytest.mark.parametrize("classes", [2, 41], ids="C{}".format)
def test_options(metric, order, minmax, classes):
    assert_within_budget(clip_like(classes, 8, 9), metric=metric, order=order, minmax=minmax)


@every_metric
def test_float64_input_keeps_float64_digits(metric):
    similarity = clip_like(41, 8, 9).double()
    assert largest_error(portable(similarity, metric=metric), oracle(similarity, metric=metric)) <= 1e-9


@pytest.mark.parametrize("scales", [(1.0, 0.25), (0.25, 1.0), (1.0, 0.5, 0.25), (1.0, 2.0), (0.3,)], ids=str)
@every_order
def test_scales_in_any_order_down_to_one_patch(scales, order):
    """At 0.25 a 4x4 grid has one patch, whose resized divergence is flat."""
    assert_within_budget(clip_like(41, 4, 4), scales=scales, order=order)


@pytest.mark.parametrize("batch", [(), (2,), (2, 3), (0,)], ids=["no_batch", "B2", "B2x3", "B0"])
@every_order
def test_leading_dims(batch, order):
    similarity = clip_like(23, 6, 5, batch=batch)
    result = portable(similarity, order=order)
    assert result.shape == (*batch, 30, 30)
    if 0 not in batch:
        assert largest_error(result, oracle(similarity, order=order)) <= MAP_BUDGET


@pytest.mark.parametrize("size", [(8, 9), (28, 28)], ids=["B3-h8-w9-C23", "B3-h28-w28-C23"])
@every_order
def test_images_of_a_batch_are_as_alone(size, order):
    similarity = clip_like(23, *size, batch=(3,))
    alone = torch.stack([portable(image, order=order) for image in similarity])
    assert torch.equal(portable(similarity, order=order), alone)


@pytest.mark.parametrize("value", [0.2, 0.0, -1.0])
def test_flat_similarity_gives_zero(value):
    assert torch.equal(portable(torch.full((41, 8, 9), value)), torch.zeros(72, 72))


@pytest.mark.parametrize("classes", [2, 41, 161], ids="C{}".format)
@pytest.mark.parametrize("make", [one_hot, half_flat], ids=["one_hot", "half_flat"])
@every_order
@every_minmax
def test_one_hot_patches(make, classes, order, minmax):
    similarity = make(classes, 8, 9)
    assert torch.softmax(similarity / 0.01, 0).amin() == 0
    assert_within_budget(similarity, temperature=0.01, order=order, minmax=minmax)


@pytest.mark.parametrize("spread", [0.3, 1.0], ids="spread{}".format)
@pytest.mark.parametrize("classes", [41, 161], ids="C{}".format)
@pytest.mark.parametrize("temperature", [0.09, 0.03], ids="T{}".format)
@every_order
def test_peaked_patches(spread, classes, temperature, order):
    similarity = clip_like(classes, 13, 17, spread=spread)
    smallest = torch.softmax(similarity.double() / temperature, 0).amin()
    assert smallest <= 1e-10
    assert_within_budget(similarity, temperature=temperature, order=order)


@pytest.mark.parametrize("seed", range(4))
def test_two_saturated_classes_are_no_worse_than_eager(seed):
    """Rows whose divergences all lie near float32's rounding of 1 are lost to any float32 softmax."""
    similarity = clip_like(2, 8, 9, spread=1.0, seed=seed)
    exact = oracle(similarity)
    eager = largest_error(cdam_fast.reference.cdam_attention(similarity), exact)
    assert largest_error(portable(similarity), exact) <= max(MAP_BUDGET, eager)


@pytest.mark.parametrize("spread", [0.001, 0.005, 0.01], ids="spread{}".format)
@every_minmax
def test_nearly_flat_patches(spread, minmax):
    assert_within_budget(clip_like(41, 8, 9, spread=spread), minmax=minmax)


@pytest.mark.parametrize("metric", ["kl", "wasserstein"])
@every_order
def test_low_contrast_of_the_other_metrics(metric, order):
    assert_within_budget(clip_like(41, 14, 14, spread=0.01), metric=metric, order=order)


def test_large_constant_does_not_cost_digits():
    """Logits in place of cosines: the softmax cancels an offset, which float32 adds to multiples of 1/2048 exactly."""
    similarity = (clip_like(41, 8, 9) * 2048).round() / 2048
    offset = similarity + 100
    assert torch.equal(offset - 100, similarity)
    assert largest_error(portable(offset), oracle(similarity)) <= MAP_BUDGET


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "similarity",
    [clip_like(41, 8, 9), clip_like(41, 8, 9, spread=1.0), half_flat(41, 8, 9)],
    ids=["clip", "peaked", "half_flat"],
)
def test_half_precision(similarity, dtype):
    assert_within_budget(similarity.to(dtype), temperature=0.05)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("out_dtype", [None, torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_dtypes_in_and_out(dtype, out_dtype):
    similarity = clip_like(11, 6, 6).to(dtype)
    result = portable(similarity, out_dtype=out_dtype)
    assert result.dtype == (out_dtype or dtype)
    assert largest_error(result, oracle(similarity)) <= map_budget(result.dtype)
    values = torch.ones(36, 2)
    assert cdam_fast.cdam_attend(similarity, values, out_dtype=out_dtype).dtype == (out_dtype or dtype)


LAYOUTS = {
    "transposed": lambda x: x.mT.contiguous().mT,
    "class_last": lambda x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "sliced": lambda x: torch.stack((x, x + 1), -1).flatten(-2)[..., ::2],
    "expanded": lambda x: x[:1].expand(2, -1, -1, -1),
    "batch_inside": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@every_order
def test_layouts(layout, order):
    strided = LAYOUTS[layout](clip_like(23, 6, 8, batch=(2,)))
    dense = strided.contiguous(memory_format=torch.contiguous_format).clone()
    assert strided.stride() != dense.stride()
    assert largest_error(portable(strided, order=order), oracle(dense, order=order)) <= MAP_BUDGET


def test_input_is_not_written_to():
    similarity = clip_like(23, 6, 8)
    before = similarity.clone()
    portable(similarity)
    assert torch.equal(similarity, before)


def test_requires_grad_does_not_change_the_result():
    similarity = clip_like(23, 6, 8)
    result = portable(similarity.clone().requires_grad_())
    assert result.requires_grad
    assert torch.equal(result.detach(), portable(similarity))
    with torch.inference_mode():
        assert torch.equal(portable(similarity), result)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf], ids=str)
@every_metric
@every_order
def test_not_finite_stays_in_its_image(value, metric, order):
    similarity = clip_like(5, 6, 7, batch=(3,))
    clean = portable(similarity, metric=metric, order=order)
    similarity[1, 2, 3, 4] = value
    result = portable(similarity, metric=metric, order=order)
    assert result[1].isnan().all()
    assert torch.equal(result[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize("metric", ["js", "wasserstein"])
def test_user_matmul_precision_is_not_taken(metric):
    similarity = clip_like(161, 14, 14)
    exact = oracle(similarity, metric=metric)
    setting = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        result = portable(similarity, metric=metric)
    finally:
        torch.set_float32_matmul_precision(setting)
    assert largest_error(result, exact) <= MAP_BUDGET


@every_metric
@every_order
def test_autocast_is_not_taken(metric, order):
    similarity, values = clip_like(41, 8, 9), torch.randn(72, 4)
    options = {"metric": metric, "order": order}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = portable(similarity, **options)
        attended = cdam_fast.cdam_attend(similarity, values, **options)
    assert result.dtype == torch.float32
    assert torch.equal(result, portable(similarity, **options))
    assert torch.equal(attended, cdam_fast.cdam_attend(similarity, values, **options))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_attend_is_the_exact_map_times_values(dtype):
    similarity = clip_like(41, 8, 9, batch=(2,))
    values = torch.randn(2, 72, 5).to(dtype)
    expected = oracle(similarity) @ values.double()
    # every product may be off by the map's budget, and the sums by float32's rounding
    allowed = MAP_BUDGET * values.double().abs().sum(-2, keepdim=True) + 1e-6 * expected.abs().max()
    result = cdam_fast.cdam_attend(similarity, values, backend="portable")
    assert result.dtype == torch.float32
    assert ((result.double() - expected).abs() <= allowed).all()


@pytest.mark.parametrize("backend", ["auto", "portable", "reference"])
def test_released_code_on_a_14x14_grid(golden_single, backend):
    budget = MAP_BUDGET if backend == "reference" else CLIP_BUDGET
    logits, rows = golden_single["logits"], golden_single["scales_rows_idx"]
    result = cdam_fast.cdam_attention(logits, backend=backend)
    assert largest_error(result, golden_single["map"].double()) <= budget
    if backend != "reference":
        single = portable(logits, scales=(1.0,))
        assert largest_error(single, golden_single["map_single"].double()) <= budget
        assert golden_single["sizes"].tolist() == list(SCALES[:-1])
        for scale, expected in zip(SCALES, golden_single["scales_rows"]):
            assert largest_error(portable(logits, scales=(scale,))[rows], expected.double()) <= budget


def test_released_code_on_a_clip_of_four_layers(golden_clip):
    result = portable(golden_clip["base_logits"])[golden_clip["rows_idx"]]
    assert largest_error(result, golden_clip["map_rows_fp64run"].double()) <= CLIP_BUDGET
