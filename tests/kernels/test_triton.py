"""The Triton kernels against float64: interpreted on the CPU, for real where there is a GPU."""

import ast
from pathlib import Path

import pytest
import torch
from cases import clip_rows, every_metric, every_minmax, every_order, half_flat, one_hot

import cdam_fast
from cdam_fast import ops
from cdam_fast.testing import DEGENERATE, MAP_BUDGET, clip_like, degenerate, largest_error, map_budget, oracle

pytest.importorskip("triton", minversion="3.2")

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


# --- the map applied to values ----------------------------------------------------------------------------------


@pytest.mark.slow
@every_order
@every_metric
@pytest.mark.parametrize("strip_bytes", [1 << 28, 1 << 14], ids=["map", "strips"])
def test_attend(order, metric, strip_bytes, monkeypatch):
    from cdam_fast.kernels import launch

    monkeypatch.setattr(launch, "STRIP_BYTES", strip_bytes)
    similarity, values = clip_like(6, 8, 7, batch=(2,)), torch.randn(2, 56, 5)
    options = {"order": order, "metric": metric, "scales": (0.6, 1.0)}
    result = cdam_fast.cdam_attend(similarity.to(DEVICE), values.to(DEVICE), backend="triton", **options)
    exact = oracle(similarity, **options) @ values.double()
    assert largest_error(result, exact) <= MAP_BUDGET * float(values.abs().sum(-2).max())


def test_strips_hold_no_map(monkeypatch):
    from cdam_fast.kernels import launch

    sizes = []
    empty = torch.empty

    def recorded(*shape, **options):
        tensor = empty(*shape, **options)
        sizes.append(tensor.numel())
        return tensor

    monkeypatch.setattr(launch, "STRIP_BYTES", 1 << 14)
    monkeypatch.setattr(launch.torch, "empty", recorded)
    similarity, values = clip_like(3, 9, 8), torch.randn(72, 2)
    cdam_fast.cdam_attend(similarity.to(DEVICE), values.to(DEVICE), backend="triton", scales=(1.0,))
    assert max(sizes) < 72 * 72


# --- gradients --------------------------------------------------------------------------------------------------


@every_metric
def test_gradients_are_those_of_the_portable_backend(metric):
    def gradients(backend):
        similarity = clip_like(6, 5, 4).to(DEVICE).requires_grad_()
        values = torch.linspace(-1, 1, 60, device=DEVICE).reshape(20, 3).requires_grad_()
        options = {"scales": TWO_SCALES, "metric": metric, "backend": backend}
        result = cdam_fast.cdam_attention(similarity, **options).square().sum()
        result = result + cdam_fast.cdam_attend(similarity, values, **options).square().sum()
        p = torch.softmax(similarity.flatten(-2).mT / 0.1, -1)
        result = result + cdam_fast.pairwise_divergence(p, p[:7], metric=metric, backend=backend).square().sum()
        return torch.autograd.grad(result, (similarity, values))

    for ours, theirs in zip(gradients("triton"), gradients("portable")):
        assert (ours - theirs).abs().max() <= 1e-3 * theirs.abs().max()


# --- operators --------------------------------------------------------------------------------------------------

OPTIONS = (list(TWO_SCALES), 0.1, 0.1, "js", "official", True, True, torch.float32)
OPERATORS = {
    "triton_map": lambda: (clip_like(4, 4, 5, batch=(2,)).to(DEVICE), *OPTIONS),
    "triton_attend": lambda: (
        clip_like(4, 4, 5, batch=(1,)).to(DEVICE),
        torch.randn(1, 20, 3, device=DEVICE),
        *OPTIONS,
    ),
    "triton_divergence": lambda: (clip_rows(6, 4, batch=(2,)).to(DEVICE), None, "js"),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck(name):
    torch.library.opcheck(getattr(torch.ops.cdam_fast, name), OPERATORS[name]())


def test_opcheck_of_a_gradient():
    p = clip_rows(6, 4, batch=(1,)).to(DEVICE).requires_grad_()
    torch.library.opcheck(torch.ops.cdam_fast.triton_divergence, (p, p.detach()[:, :3].clone(), "kl"))


def all_three(similarity, values):
    options = {"backend": "triton", "scales": (1.0,)}
    attention = cdam_fast.cdam_attention(similarity * 1.5, **options)
    attended = cdam_fast.cdam_attend(similarity * 1.5, values, **options)
    p = torch.softmax(similarity.flatten(-2).mT / 0.1, -1)
    return attention + 1, attended * 2, cdam_fast.pairwise_divergence(p, backend="triton") + 1


@pytest.mark.parametrize("dynamic", [pytest.param(False, marks=pytest.mark.slow), True], ids=["static", "dynamic"])
def test_fullgraph(dynamic):
    torch.compiler.reset()
    compiled = torch.compile(all_three, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for height in (5, 6):
        arguments = clip_like(4, height, 5).to(DEVICE), torch.randn(height * 5, 3, device=DEVICE)
        for result, expected in zip(compiled(*arguments), all_three(*arguments)):
            assert torch.equal(result, expected)


def test_export():
    class Module(torch.nn.Module):
        def forward(self, similarity, values):
            return all_three(similarity, values)

    arguments = clip_like(4, 5, 5).to(DEVICE), torch.randn(25, 3, device=DEVICE)
    exported = torch.export.export(Module(), arguments)
    graphs = [module.graph for module in exported.graph_module.modules() if isinstance(module, torch.fx.GraphModule)]
    called = {str(node.target) for graph in graphs for node in graph.nodes if node.op == "call_function"}
    assert {f"cdam_fast.{name}.default" for name in OPERATORS} <= called
    for result, expected in zip(exported.module()(*arguments), all_three(*arguments)):
        assert torch.equal(result, expected)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_jit():
    def both(similarity, values):
        options = {"backend": "triton", "scales": TWO_SCALES}
        return cdam_fast.cdam_attention(similarity, **options), cdam_fast.cdam_attend(similarity, values, **options)

    def example(height):
        return clip_like(4, height, 5, batch=(2,)).to(DEVICE), torch.randn(2, height * 5, 3, device=DEVICE)

    traced = torch.jit.trace(both, example(4), check_trace=False)
    for arguments in (example(4), example(6)):
        for result, expected in zip(traced(*arguments), both(*arguments)):
            assert torch.equal(result, expected)


def test_derivatives_with_respect_to_something_else():
    """What a transform makes is wrapped, and nothing of it may be kept for later calls."""
    similarity, factor = clip_like(4, 7, 5).to(DEVICE), torch.ones((), device=DEVICE)  # a grid of its own

    def call(factor):
        return (cdam_fast.cdam_attention(similarity, backend="triton", scales=TWO_SCALES) * factor).sum()

    assert torch.equal(torch.func.grad(call)(factor), call(factor))
    assert torch.equal(call(factor), call(factor))


# --- bad input --------------------------------------------------------------------------------------------------


def test_float64_is_refused():
    with pytest.raises(RuntimeError, match=r"^backend: 'triton' got torch.float64 input, takes float16"):
        triton(clip_like(3, 4, 4).double())


def test_more_patches_than_a_row_holds_are_refused():
    with pytest.raises(RuntimeError, match=r"^backend: 'triton' got a map of 8193 patches, takes 8192 at most"):
        triton(torch.zeros(1, 1, 8193), scales=(1.0,))


def test_map_that_does_not_fit_is_refused_before_any_launch(monkeypatch):
    from cdam_fast.kernels import launch

    monkeypatch.setattr(launch, "_distributions", None)
    similarity = torch.zeros(1, 1, 80, 100, device=DEVICE).expand(1 << 22, 1, 80, 100)
    with pytest.raises(torch.OutOfMemoryError, match=r"^similarity: got 4194304 maps .*GiB.*cdam_attend"):
        triton(similarity, scales=(1.0,))


def refusal_of(device):
    ops._refusal_of_device.cache_clear()
    try:
        return ops._refusal_of_device(torch.device(device))
    finally:
        ops._refusal_of_device.cache_clear()


def test_old_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    monkeypatch.setattr(torch.version, "hip", None)
    assert refusal_of("cuda") == "got a GPU of compute capability 7.0, takes 7.5 or newer"


def test_old_triton_is_refused(monkeypatch):
    monkeypatch.setattr(ops, "_triton_version", lambda: "3.1.0+git")
    assert refusal_of("cuda") == "got Triton 3.1.0+git, takes 3.2 or newer"


def test_missing_triton_is_refused(monkeypatch):
    monkeypatch.setattr(ops.importlib.util, "find_spec", lambda name: None)
    assert refusal_of("cuda") == "Triton is not installed; takes triton 3.2 or newer"


def test_cpu_tensors_without_the_interpreter_are_refused(monkeypatch):
    monkeypatch.setattr(ops, "_interpreted", lambda: False)
    assert "got CPU tensors, takes GPU tensors" in refusal_of("cpu")


def test_other_devices_are_refused():
    with pytest.raises(RuntimeError, match=r"^backend: 'triton' got meta tensors, takes CUDA, ROCm or XPU tensors"):
        cdam_fast.cdam_attention(torch.zeros(2, 4, 4, device="meta"), backend="triton")


def test_auto_on_the_cpu_is_portable(monkeypatch):
    monkeypatch.setattr(ops, "cdam_attention", None)
    cdam_fast.cdam_attention(clip_like(3, 4, 4))
