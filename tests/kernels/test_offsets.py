"""Offsets beyond 32 bits: tensors that only their strides make so large, and kernels whose every index has 64 bits."""

import ast
import importlib
import sys
from pathlib import Path

import pytest
import torch
from cases import clip_rows, every_metric, every_order, one_hot

import cdam_fast
from cdam_fast.testing import clip_like

pytest.importorskip("triton", minversion="3.2")

BEYOND = 1 << 31  # elements
KERNELS = Path(cdam_fast.__file__).parents[1] / "kernels"
OPTIONS = {"scales": (1.0,), "backend": "triton"}

interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="the bits of the interpreter")


# --- Tensors of more than 2^31 elements, of which few are touched -----------------------------------------------


def spread_out(tensor, strides):
    """The same values in memory that is reserved, and not used, in between."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, strides))
    assert last >= BEYOND
    try:  # a storage of its own: what torch.empty makes here is filled
        storage = torch.UntypedStorage((last + 1) * tensor.element_size())
    except RuntimeError as error:
        pytest.skip(f"this machine reserves no {last * tensor.element_size() / 2**30:.0f} GiB: {error}")
    return torch.empty(0, dtype=tensor.dtype).set_(storage, 0, tensor.shape, strides).copy_(tensor)


@interpreted
@pytest.mark.parametrize("dim", range(4), ids=["batch", "classes", "height", "width"])
def test_strides(dim):
    similarity = clip_like(4, 2, 2, batch=(2 if dim == 0 else 1,)).half()
    strides = list(similarity.stride())
    strides[dim] = BEYOND // (similarity.shape[dim] - 1) + 1
    apart = spread_out(similarity, strides)
    assert torch.equal(cdam_fast.cdam_attention(apart, **OPTIONS), cdam_fast.cdam_attention(similarity, **OPTIONS))


@pytest.fixture
def replanned(monkeypatch):
    """The result of a call whose tables are changed, and so its buffers, which this machine need not have at once."""
    from cdam_fast.kernels import stages

    def run(name, change, call):
        made = getattr(stages, name)
        monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
        monkeypatch.setattr(stages, name, lambda *arguments: change(made(*arguments)))
        stages.forget()
        try:
            return call()
        except RuntimeError as error:
            if "alloc" not in str(error):
                raise
            pytest.skip(f"this machine does not reserve so much: {error}")
        finally:
            stages.forget()

    return run


@interpreted
@every_metric
def test_planes_of_distributions(metric, replanned):
    """Of so many rows and classes that a plane of them has 2^31 elements: all but a few rows are never there."""
    p = torch.softmax(3 * torch.randn(1, 3, 32), -1)

    def divergence():
        return cdam_fast.pairwise_divergence(p, metric=metric, backend="triton")

    expected, rows = divergence(), BEYOND // 31 // 64 * 64 + 64
    assert torch.equal(replanned("divergence_plan", lambda plan: plan._replace(rows=rows), divergence), expected)


@interpreted
@every_order
def test_pairs(order, replanned):
    """Each scale's behind 2^31 pairs that are never there."""
    similarity = clip_like(4, 2, 2)

    def attention():
        return cdam_fast.cdam_attention(similarity, order=order, scales=(0.5, 1.0), backend="triton")

    def behind(plan):
        scales = plan.scales.clone()
        scales[:, 3] += BEYOND
        return plan._replace(scales=scales, pairs=plan.pairs + BEYOND)

    expected = attention()
    assert torch.equal(replanned("map_plan", behind, attention), expected)


# --- Kernels in which every index has 64 bits -------------------------------------------------------------------


def cast(node):
    return ast.Call(ast.Attribute(node, "to"), [ast.parse("tl.int64", mode="eval").body], [])


class Widened(ast.NodeTransformer):
    """Program ids, ranges, numbers of a launch and casts to 32 bits: what every index is made of."""

    def visit_Call(self, node):
        self.generic_visit(node)
        name = ast.unparse(node.func)
        if name in ("tl.arange", "tl.program_id"):
            return cast(node)
        if isinstance(node.func, ast.Attribute) and node.func.attr == "to":
            to, inner = [ast.unparse(argument) for argument in node.args], node.func.value
            if to == ["tl.int32"] and not node.keywords:
                return cast(node)
            if node.keywords and ast.unparse(inner).endswith(".to(tl.int64)"):  # the bits of a number, no index
                node.func.value = inner.func.value
        return node

    def visit_For(self, node):
        self.generic_visit(node)
        if ast.unparse(node.iter).startswith("range("):
            node.body.insert(0, ast.parse(f"{node.target.id} = tl.full([], {node.target.id}, tl.int64)").body[0])
        return node

    def visit_FunctionDef(self, node):
        self.generic_visit(node)
        numbers = [a.arg for a in node.args.args if a.annotation is None and not a.arg.endswith("_ptr")]
        if node.name.endswith("_kernel"):
            integers = [name for name in numbers if name not in ("inverse_temperature", "rounding")]
            node.body[1:1] = [ast.parse(f"{name} = {name}.to(tl.int64)").body[0] for name in integers]
        return node


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The launches of the kernels as they are, and of a copy of them with wide indices."""
    folder = tmp_path_factory.mktemp("built") / "wide_kernels"
    folder.mkdir()
    for path in KERNELS.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.stem == "plan":
            text = text.replace("dtype=torch.int32, device", "dtype=torch.int64, device")
        elif "triton.language" in text:
            text = ast.unparse(ast.fix_missing_locations(Widened().visit(ast.parse(text))))
        (folder / path.name).write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder.parent))
        yield [importlib.import_module(f"{package}.launch") for package in ("cdam_fast.kernels", "wide_kernels")]
        for name in [name for name in sys.modules if name.startswith("wide_kernels")]:
            del sys.modules[name]


def maps_of(launches, similarity, metric="js", order="official", minmax=(True, True)):
    grids = ((1, 1), tuple(similarity.shape[-2:]))
    return [
        launch.attention_map(similarity, launch.Options(grids, 0.1, 0.1, metric, order, minmax), torch.float32)
        for launch in launches
    ]


SIMILARITIES = {
    "features": lambda: clip_like(20, 2, 2, batch=(1,), spread=0.01),
    "logarithms": lambda: clip_like(20, 2, 2, batch=(1,), spread=0.3),
    "definition": lambda: one_hot(5, 2, 2)[None],
    "half": lambda: clip_like(5, 2, 1, batch=(2,)).mT.half(),
}


@interpreted
@pytest.mark.parametrize("kind", SIMILARITIES)
def test_wide_indices_give_the_same_bits(kind, both):
    narrow, wide = maps_of(both, SIMILARITIES[kind]())
    assert torch.equal(narrow, wide)


@interpreted
@pytest.mark.parametrize("metric", ["kl", "wasserstein"])
def test_wide_indices_of_the_other_metrics(metric, both):
    narrow, wide = maps_of(both, SIMILARITIES["half"](), metric, "paper", (True, False))
    assert torch.equal(narrow, wide)


@interpreted
def test_wide_indices_of_attend_and_the_divergence(both, monkeypatch):
    similarity, values = clip_like(5, 2, 2, batch=(1,)), torch.randn(1, 4, 3)
    p, q = clip_rows(3, 5, batch=(2,)), clip_rows(2, 5, batch=(2,), seed=1)
    results = []
    for launch in both:
        monkeypatch.setattr(launch, "STRIP_BYTES", 64)  # in strips
        options = launch.Options(((2, 2),), 0.1, 0.1, "js", "official", (True, True))
        attended = launch.attend(similarity, values, options, torch.float32)
        results.append((attended, launch.pairwise_divergence(p, q, "js"), launch.choices(similarity, options, "sm_90")))
    for narrow, wide in zip(*results):
        assert torch.equal(narrow, wide) if isinstance(narrow, torch.Tensor) else str(narrow) == str(wide)


@interpreted
def test_no_index_of_the_wide_kernels_has_32_bits(both, monkeypatch):
    from cdam_fast.kernels.plan import FIELDS
    from triton.runtime import interpreter

    builder, seen = interpreter.interpreter_builder, set()
    add = builder.create_addptr

    def recorded(pointer, offset):
        least, most = int(offset.data.min()), int(offset.data.max())
        if least < most or most >= FIELDS:  # the others are numbers in the code
            seen.add(str(offset.data.dtype))
        return add(pointer, offset)

    monkeypatch.setattr(builder, "create_addptr", recorded)
    maps_of(both[:1], SIMILARITIES["half"]())
    assert "int32" in seen
    seen.clear()
    for order, metric in (("official", "js"), ("paper", "kl")):
        maps_of(both[1:], SIMILARITIES["half"](), metric, order)
    assert seen == {"int64"}
