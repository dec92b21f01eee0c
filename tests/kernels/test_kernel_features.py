"""The kernels' features: that they are what their script writes, and that their bound is one."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

import cdam_fast

ROOT = Path(cdam_fast.__file__).parent.parent


def load_script():
    spec = importlib.util.spec_from_file_location("feature_table", ROOT / "benchmarks" / "feature_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = load_script()
SHIPPED = (ROOT / "kernels" / "features.py").read_text()


def shipped_number(name):
    return float(re.search(rf"^{name} = tl\.constexpr\((\S+)\)", SHIPPED, re.M)[1])


def shipped_polynomial(lines):
    """Coefficients, lowest first, of the Horner steps in lines of source."""
    steps = re.findall(r"(?:f =|return) (?:s|square|f) \* (\S+) ([+-]) (\S+)", lines)
    constants = [float(sign + number) for _, sign, number in steps]
    return np.array([float(steps[0][0]), *constants])[::-1]


def shipped_features(name):
    """[rank, terms]: row r starts at power r."""
    condition = "WIDE" if name == "WIDE" else "not WIDE"
    blocks = re.split(r"\n    (?:if|elif) ", SHIPPED.split("def feature")[1].split("return f")[0])
    rows = [shipped_polynomial(block) for block in blocks if block.startswith(f"{condition} and r ==")]
    table = np.zeros((len(rows), len(rows[0])))
    for r, row in enumerate(rows):
        table[r, r:] = row
    return table


def class_kernel(s, u):
    """``k = j(x, 1) + j(y, 1) - j(x, y)`` of every pair of classes, by its definition.  # [S, U]"""
    x, y = ((1 + s) / (1 - s))[:, None] ** 2, ((1 + u) / (1 - u))[None, :] ** 2

    def j(a, b):
        return (a * np.log(a) + b * np.log(b)) / 2 - (a + b) / 2 * np.log((a + b) / 2)

    return j(x, 1.0) + j(1.0, y) - j(x, y)


def root_step(s):
    """``w = sqrt x - 1``"""
    return (1 + s) / (1 - s) - 1


@pytest.mark.parametrize("name", script.SHAPES)
def test_table_is_what_the_script_writes(name):
    """By products and bounds: eigenvectors come from LAPACK, whose last digits differ between machines."""
    shape = script.SHAPES[name]
    assert shipped_number(f"{name}_RANK") == shape.rank
    assert shipped_number(f"{name}_SPLIT") == shape.split
    assert shipped_number(f"{name}_REACH") == shape.reach
    made, shipped = script.features(shape), shipped_features(name)
    powers = np.vander(np.linspace(-shape.reach, shape.reach, 31), shape.terms, increasing=True)
    assert np.allclose(powers @ made.T @ made @ powers.T, powers @ shipped.T @ shipped @ powers.T, rtol=0, atol=2e-8)
    floor, growth = script.bound(shape, made)
    assert shipped_number(f"{name}_FLOOR") == pytest.approx(floor, rel=0.05)
    assert shipped_number(f"{name}_GROWTH") == pytest.approx(growth, rel=0.05)


def test_divergence_to_the_base():
    s = np.linspace(0.01, shipped_number("WIDE_REACH"), 60)
    for signed in (s, -s):
        expected = np.diagonal(class_kernel(signed, signed)) / 2 / root_step(signed) ** 2
        found = np.polyval(shipped_polynomial(SHIPPED.split("def js_to_base_of")[1])[::-1], s**2)
        assert np.abs(found - expected).max() < 4e-9


@pytest.mark.parametrize("name", script.SHAPES)
def test_bound_of_every_pair_of_classes(name):
    """What the features leave out, and what rounding to TF32 may do to the products that are not split."""
    reach, split = shipped_number(f"{name}_REACH"), int(shipped_number(f"{name}_SPLIT"))
    s = np.concatenate((np.linspace(-reach, -1e-3, 401), np.linspace(1e-3, reach, 402)))
    table = shipped_features(name)
    values = np.vander(s, table.shape[1], increasing=True) @ table.T * root_step(s)[:, None]
    left_out = np.abs(class_kernel(s, s) - values @ values.T)
    rest = np.abs(values[:, split:])
    h = root_step(s) ** 2 * (shipped_number(f"{name}_FLOOR") + shipped_number(f"{name}_GROWTH") * s**4)
    bound = np.sqrt(h[:, None] * h[None, :])
    noise = 1e-15  # of float64, where k is small
    share = (left_out + 2.0**-10 * (rest @ rest.T) - noise) / bound
    assert share.max() <= 1
    assert share.max() > 0.9, "the bound is loose"


def to_tf32(x):
    bits = (x.astype(np.float32).view(np.int32) + 4096) & -8192
    return bits.view(np.float32).astype(np.float64)


def attacks(rng, reach):
    """Positions s of rows of classes, [rows, classes], built against the bound."""
    classes = int(rng.choice([1, 2, 3, 16, 17, 101, 161, 1300]))
    rows = 8
    kind = rng.integers(6)
    edge = reach * (1 - 1e-6)
    if kind == 0:  # every class at an edge, by turns or all on one side
        s = edge * rng.choice([-1.0, 1.0], (rows, classes))
        s[0], s[1] = edge, -edge
    elif kind == 1:  # one class off by all that a table serves, the others near the base
        s = rng.normal(0, 0.02, (rows, classes))
        s[np.arange(rows), rng.integers(classes, size=rows)] = edge * rng.choice([-1.0, 1.0], rows)
    elif kind == 2:  # the same place in every class: rounding that cannot average
        s = np.repeat(rng.uniform(-edge, edge, (rows, 1)), classes, 1)
    elif kind == 3:  # where what is left out is largest against its mean
        s = rng.choice(reach * np.cos(np.pi * np.arange(9) / 9) * (1 - 1e-6), (rows, classes))
    elif kind == 4:  # two groups that are as far apart as the table allows
        s = np.where(np.arange(classes) % 2 == 0, edge, -edge) * rng.choice([-1.0, 1.0], (rows, 1))
    else:  # uniform
        s = rng.uniform(-edge, edge, (rows, classes))
    return np.clip(s, -edge, edge)


@pytest.mark.parametrize("name", script.SHAPES)
def test_bound_of_sums_over_classes_under_attack(name):
    """Rows of many classes, 1,500 sets of them: the rule's two sums bound the error of every pair."""
    reach, split = shipped_number(f"{name}_REACH"), int(shipped_number(f"{name}_SPLIT"))
    floor, growth = shipped_number(f"{name}_FLOOR"), shipped_number(f"{name}_GROWTH")
    table = shipped_features(name)
    rng = np.random.default_rng(int(reach * 100))
    worst = 0.0
    for _ in range(1500):
        s = attacks(rng, reach)
        base = rng.dirichlet(np.ones(s.shape[1]) * rng.choice([0.3, 1.0, 100.0]))
        w = np.sqrt(base) * root_step(s)
        # [rows, classes, rank]
        values = (np.vander(s.ravel(), table.shape[1], increasing=True) @ table.T).reshape(*s.shape, -1) * w[..., None]
        values[..., split:] = to_tf32(values[..., split:])
        x = ((1 + s) / (1 - s)) ** 2
        m = (x[:, None] + x[None]) / 2
        xlogx = x * np.log(x)
        j = (xlogx[:, None] + xlogx[None]) / 2 - m * np.log(m)
        to_base = (xlogx - (x + 1) * np.log((x + 1) / 2)) / 2
        exact = ((to_base[:, None] + to_base[None] - j) * base).sum(-1)
        error = np.abs(np.einsum("icr,jcr->ij", values, values) - exact)
        length, tail = (w**2).sum(1).max(), (w**2 * s**4).sum(1).max()
        worst = max(worst, float((error - 1e-15).max() / (floor * length + growth * tail)))
    assert worst <= 1
    assert worst > 0.3, "the attack is weak"
