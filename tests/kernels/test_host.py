"""What the host keeps from call to call, and what a call spends there."""

import concurrent.futures
import json
import subprocess
import sys

import pytest
import torch
from cases import clip_rows

import cdam_fast
from cdam_fast import arguments, cli
from cdam_fast.testing import clip_like

pytest.importorskip("triton", minversion="3.2")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CALLS = [
    ((5, 3, 3), {}),
    ((5, 3, 3), {"scales": (1.0,)}),
    ((5, 3, 3), {"scales": [1.0]}),
    ((5, 3, 3), {"temperature": 0.2}),
    ((5, 3, 3), {"attention_temperature": 0.2}),
    ((5, 3, 3), {"metric": "kl"}),
    ((5, 3, 3), {"order": "paper"}),
    ((5, 3, 3), {"minmax": (True, False)}),
    ((5, 3, 3), {"out_dtype": torch.float16}),
    ((6, 3, 3), {}),
    ((5, 4, 3), {}),
    ((2, 5, 3, 3), {}),
]


def called(shape, options):
    *batch, classes, height, width = shape
    similarity = clip_like(classes, height, width, batch=tuple(batch), seed=sum(shape)).to(DEVICE)
    return cdam_fast.cdam_attention(similarity, **({"backend": "triton", "scales": (0.7, 1.0)} | options))


def forget():
    from cdam_fast.kernels import stages

    stages.forget()
    arguments._known_options.cache_clear()


def alone(shape, options):
    forget()
    return called(shape, options)


def test_a_call_is_as_if_it_were_the_first():
    expected = [alone(*call) for call in CALLS]
    for call, first in zip(CALLS, expected):
        assert torch.equal(called(*call), first), call


def test_threads_share_what_is_kept(monkeypatch):
    """The interpreter itself is for one thread."""
    from cdam_fast.kernels import launch

    seen = []

    class Kernel:
        def __getitem__(self, grid):
            return lambda *arguments, **options: seen.append((grid, arguments[-1], sorted(options.items())))

    for name in ("distributions_kernel", "divergence_kernel", "attention_kernel", "normalise_kernel"):
        monkeypatch.setattr(launch, name, Kernel())
    for call in CALLS:
        alone(*call)
    expected = sorted(seen * 8, key=str)
    seen.clear()
    forget()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda call: called(*call), CALLS * 8))
    assert sorted(seen, key=str) == expected


def test_a_second_call_checks_and_prepares_nothing(monkeypatch):
    from cdam_fast.kernels import configurations, plan, stages

    p = clip_rows(6, 5, batch=(1,)).to(DEVICE)
    first = called(*CALLS[0]), cdam_fast.pairwise_divergence(p, backend="triton")
    for module, name in (
        (arguments, "_check_options"),
        (configurations, "distributions"),
        (configurations, "divergence"),
        (configurations, "attention"),
        (plan, "_on_device"),
        (stages, "map_plan"),
        (stages, "divergence_plan"),
    ):
        monkeypatch.setattr(module, name, None)
    assert torch.equal(called(*CALLS[0]), first[0])
    assert torch.equal(cdam_fast.pairwise_divergence(p, backend="triton"), first[1])


def test_grad_mode_and_inference_mode_change_nothing():
    forget()
    with torch.inference_mode():
        first = called(*CALLS[0]).clone()
    similarity = clip_like(5, 3, 3, seed=11).to(DEVICE)
    with torch.no_grad():
        plain = cdam_fast.cdam_attention(similarity.requires_grad_(), backend="triton", scales=(0.7, 1.0))
    assert not plain.requires_grad
    assert torch.equal(plain, first)
    tracked = cdam_fast.cdam_attention(similarity, backend="triton", scales=(0.7, 1.0))
    assert tracked.requires_grad
    tracked.sum().backward()
    assert torch.equal(called(*CALLS[0]), first)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ({"temperature": 1.0}, {"temperature": True}),
        ({"attention_temperature": 1}, {"attention_temperature": True}),
        ({"scales": (1.0,)}, {"scales": (True,)}),
        ({"scales": (1,)}, {"scales": [True]}),
        ({"minmax": (True, True)}, {"minmax": (1, 1)}),
        ({"minmax": [True, False]}, {"minmax": (True, 0)}),
        ({"metric": "js"}, {"metric": ["js"]}),
        ({"scales": (1.0,)}, {"scales": ([1.0],)}),
    ],
    ids=str,
)
def test_what_is_equal_to_something_known_is_still_refused(right, wrong):
    similarity = clip_like(3, 4, 4)
    cdam_fast.cdam_attention(similarity, **right)
    for _ in range(2):
        with pytest.raises((TypeError, ValueError), match=rf"^{next(iter(wrong))}"):
            cdam_fast.cdam_attention(similarity, **wrong)


def test_bench(tmp_path, monkeypatch, capsys):
    from cdam_fast.kernels import launch
    from cdam_fast.measuring import host

    monkeypatch.setattr(host, "CALLS", 1)
    monkeypatch.setattr(host, "IN_A_ROW", 1)
    kernels = [getattr(launch, name) for name in host.KERNELS]
    assert cli.main(["bench", "--host", "--device", "cpu", "--json", str(tmp_path / "host.json")]) == 0
    assert kernels == [getattr(launch, name) for name in host.KERNELS]
    printed = capsys.readouterr().out
    rows = json.loads((tmp_path / "host.json").read_text())["rows"]
    assert [row["call"] for row in rows] == [
        "cdam_attention",
        'cdam_attention, order="paper"',
        "cdam_attend",
        "pairwise_divergence",
    ]
    assert all(row["own_us"] > 0 and row["call"] in printed for row in rows)
    if DEVICE == "cpu":
        assert "TRITON_INTERPRET is set" in printed


def test_bench_measures_the_launcher_where_it_can():
    """In a process whose kernels are compiled and not interpreted."""
    code = (
        "import os; os.environ.pop('TRITON_INTERPRET', None)\n"
        "import sys, triton\n"
        "from cdam_fast import cli\n"
        "from cdam_fast.measuring import host\n"
        "from triton.runtime import driver\n"
        "host.CALLS = host.IN_A_ROW = 1\n"
        "assert cli.main(['bench', '--host', '--device', 'cpu']) == 0\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Host time of a call" in done.stdout
    import triton

    if tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 6):
        assert "not measured" not in done.stdout


@pytest.mark.parametrize("other", [["--end-to-end"], ["--plot", "chart.png"]], ids=str)
def test_bench_refuses_what_goes_with_nothing(other, capsys):
    assert cli.main(["bench", "--host", *other]) == 2
    assert "error: --" in capsys.readouterr().err
