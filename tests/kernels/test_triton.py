"""The Triton kernels against float64: interpreted on the CPU, for real where there is a GPU."""

import ast
from pathlib import Path

import pytest
import torch
from cases import clip_rows, every_metric, every_minmax, every_order, half_flat, one_hot
from triton_calls import DEVICE, TWO_SCALES, assert_within_budget, triton

import cdam_fast
from cdam_fast import ops
from cdam_fast.testing import DEGENERATE, MAP_BUDGET, clip_like, degenerate

pytest.importorskip("triton", minversion="3.2")


# --- what every Triton reads alike -----------------------------------------------------------------------------


def kernel_files():
    return sorted(path for path in Path(ops.__file__).parents[1].joinpath("kernels").glob("*.py"))


def is_constant(node, names):
    """Whether an expression is made of numbers and constexpr names alone."""
    if isinstance(node, ast.Name):
        return node.id in names
    if isinstance(node, ast.BinOp):
        return is_constant(node.left, names) and is_constant(node.right, names)
    return isinstance(node, ast.Constant)


@pytest.mark.parametrize("path", kernel_files(), ids=lambda path: path.stem)
def test_no_constexpr_is_left_of_a_tensor(path):
    """Triton 3.7 and 3.8 interpret ``constexpr * tensor`` as a constexpr, which no comparison takes."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {
        node.targets[0].id
        for node in tree.body
        if isinstance(node, ast.Assign) and "constexpr" in ast.unparse(node.value)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and is_constant(node.left, names) and not is_constant(node.right, names):
            assert not any(isinstance(part, ast.Name) for part in ast.walk(node.left)), ast.unparse(node)


# --- rows that are constant, few classes --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in DEGENERATE if kind != "near-flat"])
@pytest.mark.parametrize("order", ["official", pytest.param("paper", marks=pytest.mark.slow)])
def test_constant_rows(kind, order):
    for seed, (height, width) in enumerate(((9, 7), (5, 9))):
        assert_within_budget(degenerate(kind, 5, height, width, seed=seed), order=order, scales=(0.25, 1.0))


@pytest.mark.parametrize("metric", ["kl", "wasserstein"])
@pytest.mark.parametrize("kind", ["two regions", "checkerboard"])
def test_constant_rows_of_other_metrics(kind, metric):
    assert_within_budget(degenerate(kind, 5, 9, 7), metric=metric, scales=(0.25, 1.0))


@every_metric
@every_order
def test_one_repeated_distribution_gives_nothing(metric, order):
    assert not triton(degenerate("flat", 17, 9, 7), metric=metric, order=order, scales=(0.25, 1.0)).any()


@pytest.mark.parametrize("classes", [2, 5, 17])
@pytest.mark.parametrize("spread", [0.01, 0.1, 1.0])
def test_few_classes(classes, spread):
    assert_within_budget(clip_like(classes, 9, 8, spread=spread, seed=classes), scales=(0.5, 1.0))


# --- shapes, options, dtypes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width", "classes"),
    [(1, 1, 5), (1, 7, 41), (7, 1, 3), (4, 4, 1), (9, 8, 2), (8, 9, 16), (5, 13, 17), (11, 6, 161)],
    ids=lambda size: str(size),
)
def test_grids_and_classes(height, width, classes):
    scales = TWO_SCALES if min(height, width) > 3 else (1.0,)
    assert_within_budget(clip_like(classes, height, width), scales=scales)


@every_metric
@every_order
@every_minmax
def test_options(metric, order, minmax):
    assert_within_budget(clip_like(11, 6, 7), metric=metric, order=order, minmax=minmax)


@pytest.mark.slow
def test_default_scales_on_a_grid_of_more_than_one_tile():
    assert_within_budget(clip_like(9, 12, 13), scales=cdam_fast.SCALES)


@pytest.mark.parametrize("scales", [(1.0,), (0.5,), (2.0, 1.0), (0.3, 0.9)], ids=str)
@every_order
def test_scales(scales, order):
    assert_within_budget(clip_like(7, 6, 5), scales=scales, order=order)


@pytest.mark.parametrize("temperatures", [(0.01, 0.1), (0.1, 0.02), (1.0, 1.0)], ids=str)
def test_temperatures(temperatures):
    assert_within_budget(clip_like(41, 6, 7), temperature=temperatures[0], attention_temperature=temperatures[1])


@pytest.mark.parametrize("dtype", [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.slow)], ids=str)
@every_metric
def test_half_precision(dtype, metric):
    assert_within_budget(clip_like(9, 6, 5).to(dtype), metric=metric)


@pytest.mark.parametrize("out_dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_out_dtype(out_dtype):
    assert_within_budget(clip_like(9, 6, 5), out_dtype=out_dtype)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [(3,), (2, 2), (0,)], ids=str)
@every_order
def test_batches_are_their_images(batch, order):
    similarity = clip_like(6, 5, 4, batch=batch)
    result = triton(similarity, scales=TWO_SCALES, order=order).cpu()
    assert result.shape == (*batch, 20, 20)
    images = similarity.reshape(-1, 6, 5, 4)
    for image, attention in zip(images, result.reshape(-1, 20, 20)):
        alone = triton(image, scales=TWO_SCALES, order=order).cpu()
        # PyTorch's softmax, the first step of the paper's order, rounds a batch otherwise than an image
        assert (alone - attention).abs().max() <= (0 if order == "official" else MAP_BUDGET)


@pytest.mark.slow
def test_any_strides():
    similarity = clip_like(6, 5, 4, batch=(2,))
    expected = triton(similarity, scales=TWO_SCALES)
    channels_last = similarity.to(DEVICE).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(triton(channels_last, scales=TWO_SCALES), expected)
    every_second = torch.stack((similarity, similarity + 1), -1).flatten(-2)[..., ::2]
    assert torch.equal(triton(every_second, scales=TWO_SCALES), expected)
    same = similarity[:1].expand(2, -1, -1, -1)
    assert torch.equal(triton(same, scales=TWO_SCALES)[1], expected[0])


def test_input_is_left_alone():
    similarity = clip_like(6, 5, 4).to(DEVICE)
    before = similarity.clone()
    triton(similarity)
    assert torch.equal(similarity, before)


# --- distributions of every kind: each path of the divergence ---------------------------------------------------


def saturated(classes, height, width):
    """One class nearly certain everywhere; the others differ."""
    similarity = 0.3 * torch.randn(classes, height, width, generator=torch.Generator().manual_seed(0))
    similarity[0] += 1
    return similarity


@pytest.mark.slow
@pytest.mark.parametrize(
    "similarity",
    [
        *(clip_like(41, 7, 8, spread=spread) for spread in (0.003, 0.01, 0.03, 0.06, 0.1, 0.3, 1.0, 3.0)),
        one_hot(41, 7, 8),
        half_flat(41, 7, 8),
        saturated(41, 7, 8),
        clip_like(41, 7, 8) + 30,
        -clip_like(41, 7, 8) - 3,
        torch.cat((one_hot(20, 7, 8), clip_like(21, 7, 8))),
    ],
    ids=[
        *(f"spread{spread}" for spread in (0.003, 0.01, 0.03, 0.06, 0.1, 0.3, 1.0, 3.0)),
        *("one_hot", "half_flat", "saturated", "large", "negative", "mixed"),
    ],
)
def test_distributions(similarity):
    assert_within_budget(similarity)


def test_equal_distributions_give_a_flat_map():
    assert torch.equal(triton(torch.full((5, 7, 8), 0.2), scales=TWO_SCALES).cpu(), torch.zeros(56, 56))


@pytest.mark.parametrize("seed", range(4))
def test_fresh_random_inputs(seed):
    generator = torch.Generator().manual_seed(1000 + seed)
    height, width, classes = (int(torch.randint(4, 10, (), generator=generator)) for _ in range(3))
    spread = float(torch.rand((), generator=generator)) ** 3
    assert_within_budget(clip_like(classes + 3, height, width, spread=spread, seed=seed))


@pytest.mark.slow
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
@every_metric
@every_order
def test_not_finite_gives_nan(value, metric, order):
    """A NaN touches every row through the softmax over patches; the other image stays as it was."""
    similarity = clip_like(6, 5, 4, batch=(2,))
    expected = triton(similarity, scales=(1.0,), metric=metric, order=order)[1]
    similarity[0, 3, 2, 1] = value
    result = triton(similarity, scales=(1.0,), metric=metric, order=order)
    assert result[0].isnan().all()
    assert torch.equal(result[1], expected)


# --- pairwise divergence ----------------------------------------------------------------------------------------


def exact_divergence(p, q, metric):
    return cdam_fast.reference.pairwise_divergence(p.double(), None if q is None else q.double(), metric=metric)


def divergence(p, q=None, **options):
    q = None if q is None else q.to(DEVICE)
    return cdam_fast.pairwise_divergence(p.to(DEVICE), q, backend="triton", **options).cpu()


@every_metric
@pytest.mark.parametrize(("rows", "columns"), [(1, None), (63, None), (65, None), (3, 70), (66, 5)], ids=str)
def test_divergence(metric, rows, columns):
    p = clip_rows(rows, 13, batch=(2,))
    q = None if columns is None else clip_rows(columns, 13, batch=(2,), seed=1)
    exact = exact_divergence(p, q, metric)
    error = (divergence(p, q, metric=metric) - exact).abs().max()
    assert error <= MAP_BUDGET * exact.amax().clamp_min(1e-3)


@every_metric
def test_divergence_of_zeros_and_nan(metric):
    p = clip_rows(20, 7)
    p[3] = float("nan")
    p[5] = torch.eye(7)[2]
    p[6] = torch.eye(7)[4]
    result, exact = divergence(p, metric=metric), exact_divergence(p, None, metric)
    assert torch.equal(result.isnan(), exact.isnan())
    assert torch.equal(result.isinf(), exact.isinf())
    finite = exact.isfinite()
    assert (result - exact)[finite].abs().max() <= 1e-6


@every_metric
def test_empty_divergence(metric):
    assert divergence(torch.ones(0, 4, 3), metric=metric).shape == (0, 4, 4)
    assert divergence(torch.ones(2, 0, 3), torch.ones(2, 4, 3), metric=metric).shape == (2, 0, 4)
