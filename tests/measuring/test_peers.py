"""`cdam-fast bench --peers`: every package's result as the divergence in nats, and no time for a wrong one."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from cdam_fast import cli
from cdam_fast.commands import bench_peers, devices
from cdam_fast.errors import UsageError
from cdam_fast.measuring import peer_bench, peer_table, peers
from cdam_fast.measuring.measure import COMPILED, EAGER

CPU = torch.device("cpu")
HERE = [peer for peer in peers.PEERS if "cpu" in peer.devices]
BUILDERS = ("KeOps", COMPILED)
"""Whose first call takes a compiler, and seconds."""

ROWS = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.25, 0.25, 0.5], [0.5, 0.25, 0.25]], dtype=torch.float64)


def by_hand(p):
    """A sum over pairs and classes in Python's floats, one logarithm for each share that is not 0."""
    result = torch.zeros(len(p), len(p), dtype=torch.float64)
    for i, x in enumerate(p.tolist()):
        for j, y in enumerate(p.tolist()):
            for a, b in zip(x, y):
                middle = (a + b) / 2
                result[i, j] += sum(share * math.log(share / middle) / 2 for share in (a, b) if share > 0)
    return result


def name_of(peer):
    return f"{peer.name}, {str(peer.dtype).removeprefix('torch.')}"


def report():
    return peer_bench.PeerReport({"device_name": "a CPU", "threads": 1})


def row_of(peer, p):
    return peer_bench.PeerRow("by hand", *p.shape, peer.name, peer.package, "float32", peer.returns)


@pytest.fixture
def stub():
    """A package that is right, in bits and of its square root where asked for."""

    def stub(factor=1.0, root=False, **changes):
        def prepare(p):
            def run():
                exact = by_hand(p.double()) * factor
                return (exact.sqrt() if root else exact).to(p.dtype)

            return peers.Call(run, "by hand")

        convert = peers.of_distance if root else peers.of_divergence
        made = peers.Peer("stub", "Stub", "json", "stub", torch.float32, "JS, nats", prepare, convert, 0.1)
        return dataclasses.replace(made, **changes)

    return stub


# --- what each package computes


def test_the_divergence_by_hand():
    exact = by_hand(ROWS)
    assert exact[0, 1] == pytest.approx((math.log(4 / 3) + 0.5 * math.log(2 / 3) + 0.5 * math.log(2)) / 2)
    assert torch.equal(exact, exact.mT)
    assert by_hand(torch.eye(2))[0, 1] == pytest.approx(math.log(2))


@pytest.mark.parametrize("peer", [peer for peer in HERE if peer.name not in BUILDERS], ids=name_of)
@pytest.mark.parametrize("zeros", [True, False], ids=["zeros", "none"])
def test_each_package_in_nats(peer, zeros):
    if not peer.installed():
        pytest.skip(f"no {peer.package}")
    if peer.name == "FAISS pairs, its JS" and zeros:
        pytest.skip("FAISS's own metric is NaN there")
    p = ROWS if zeros else torch.cat((ROWS, torch.rand(9, 3, dtype=torch.float64))).add(0.01)
    p = (p / p.sum(1, keepdim=True)).to(peer.dtype)
    found = peer.convert(peer.prepare(p).run()).double()
    exact = by_hand(p)
    share = peer_bench.BUDGETS[peer.dtype] if peer.name != EAGER else 1e-5
    assert found.shape == exact.shape
    assert (found - exact).abs().max() <= share * exact.max()


@pytest.mark.slow
@pytest.mark.parametrize("peer", [peer for peer in HERE if peer.name in BUILDERS], ids=name_of)
def test_each_package_that_compiles_in_nats(peer):
    if not peer.installed():
        pytest.skip(f"no {peer.package}")
    row = row_of(peer, ROWS)
    p = ROWS if peer.name == "KeOps" else ROWS.add(0.01) / 1.03  # torch.compile's logarithms of 0 differ by version
    if peer_bench.check_peer(row, peer, p.to(peer.dtype), by_hand(p), CPU) is None:
        assert row.status == "failed"  # no compiler
        pytest.skip(row.note)
    assert row.error < 1e-4


def test_conversions_of_the_definitions():
    exact = by_hand(ROWS)
    squared, order = (2 * exact).sort(1)
    assert torch.allclose(peers.of_distance(exact.sqrt().numpy()), exact)
    assert torch.allclose(peers.of_squared_distances((2 * exact).numpy()), exact)
    assert torch.equal(peers.of_neighbours((squared.numpy(), order.numpy())), exact)
    assert peers.of_neighbours((squared.numpy()[:, :2], order.numpy()[:, :2])).isnan().sum() == 8  # a pair is missing


# --- who takes part


def test_a_package_that_is_not_there_is_named(stub):
    measured = report()
    absent = stub(package="Nowhere", module="no_such_package_here", install='"nowhere[fast]"')
    chosen = peer_bench.chosen_peers(measured, CPU, [absent, stub()])
    assert [peer.package for peer in chosen] == ["Stub"]
    assert measured.absent == {"Nowhere": 'not installed: pip install "nowhere[fast]"'}
    assert list(measured.versions) == ["Stub"]
    assert "Nowhere: not installed" in next(peer_table.notes(measured))


def test_a_package_for_a_gpu_is_not_measured_on_a_cpu():
    measured = report()
    chosen = peer_bench.chosen_peers(measured, CPU)
    assert measured.absent["cuVS"] == "not measured: takes a GPU"
    assert {peer.name for peer in chosen} >= {"portable", EAGER, COMPILED}
    assert "triton" not in {peer.name for peer in chosen}


def test_every_package_says_what_installs_it():
    for peer in peers.PEERS:
        assert peer.own == (peer.package == peers.OURS) == (peer.install == "")
        assert peer.returns in ("JS, nats", "sqrt(JS), nats", "2 JS, nats")
    assert len({name_of(peer) for peer in peers.PEERS}) == len(peers.PEERS)


# --- right first, then timed


def measure(made, **options):
    measured = report()
    chosen = peer_bench.PeerOptions(((4, 4),), (5,), CPU, **{"runs": 4, "compile": "none"} | options)
    peer_bench.run_peers(chosen, measured, made, lambda step: None)
    return measured


def test_a_right_result_is_timed(stub):
    measured = measure([stub(), stub(root=True, dtype=torch.float64)])
    assert len(measured.rows) == 2 * len(peer_bench.KINDS)
    for row in measured.rows:
        assert (row.status, row.patches, row.classes, row.how) == ("ok", 16, 5, "by hand")
        assert row.error < 1e-6
        assert 0 < row.p20_ms <= row.p50_ms <= row.p80_ms
        assert row.runs == 4 == len(row.seconds) == len(row.cpu_seconds)


@pytest.mark.parametrize(
    "changes",
    [{"factor": 1 / math.log(2)}, {"factor": 1 + 1e-4}, {"root": True, "convert": peers.of_divergence}],
    ids=["bits", "off", "square-root"],
)
def test_a_wrong_result_gets_no_time(stub, changes):
    for row in measure([stub(**changes)]).rows:
        assert row.status == "wrong"
        assert row.error > 3e-5
        assert row.p50_ms is None
        assert not row.seconds
        assert "not timed" in row.note


def test_one_that_raises_is_a_row_that_says_so(stub):
    def prepare(p):
        raise KeyError("no such kernel")

    rows = measure([stub(prepare=prepare), stub()]).rows
    assert [row.status for row in rows] == ["failed", "ok"] * len(peer_bench.KINDS)
    assert rows[0].note.startswith("KeyError: 'no such kernel'")


def test_nan_is_wrong(stub):
    def prepare(p):
        return peers.Call(lambda: by_hand(p).fill_diagonal_(torch.nan))

    rows = measure([stub(prepare=prepare)]).rows
    assert {(row.status, row.error) for row in rows} == {("wrong", None)}  # JSON has no NaN
    assert all(row.note.startswith("NaN") for row in rows)


def test_the_eager_code_that_does_not_fit_is_not_tried(monkeypatch):
    (eager,) = (peer for peer in peers.PEERS if peer.name == EAGER)
    monkeypatch.setattr(peer_bench, "available_memory", lambda device: 1e4)
    assert {row.status for row in measure([eager]).rows} == {"does not fit"}


def test_compiling_where_it_is_asked_for(stub):
    for asked, expected in (("none", []), ("largest", [(16, 6)]), ("all", [(16, 5), (16, 6)])):
        measured = report()
        options = peer_bench.PeerOptions(((4, 4),), (5, 6), CPU, 1, asked)
        peer_bench.run_peers(options, measured, [stub(name=COMPILED)], lambda step: None)
        found = dict.fromkeys((row.patches, row.classes) for row in measured.rows)
        assert list(found) == expected


def test_distributions_are_distributions():
    for kind in peer_bench.KINDS:
        p = peer_bench.distributions(kind, 11, (3, 5))
        assert p.shape == (15, 11)
        assert p.dtype == torch.float64
        assert (p >= 0).all()
        assert torch.allclose(p.sum(1), torch.ones(15, dtype=torch.float64), atol=1e-12, rtol=0)
        assert (p > 0).sum(1).tolist() == [8 if kind == "sparse" else 11] * 15


@pytest.mark.parametrize(
    "ones", [lambda: np.ones(25_000_000).sum(), lambda: torch.ones(50_000_000).sum()], ids=["NumPy", "PyTorch"]
)
def test_memory_is_that_of_any_allocator(ones):
    if peer_bench._reset_peak() is None:
        pytest.skip("no peak here")
    memory, *_ = peer_bench._measured(ones, CPU)
    assert 190e6 < memory < 240e6  # 200 of the array; other threads of the process come and go


# --- the command


@pytest.fixture
def few(monkeypatch, stub):
    """The command with this package and stubs alone."""
    own = [peer for peer in peers.PEERS if peer.own]
    made = [*own, stub(), stub(name="wrong", factor=2.0), stub(package="Absent", module="no_such_package", install="x")]
    chosen = peer_bench.chosen_peers
    monkeypatch.setattr(peer_bench, "chosen_peers", lambda measured, device: chosen(measured, device, made))


def test_the_command(few, tmp_path, capsys):
    file = tmp_path / "peers.json"
    arguments = ["--grid", "5,4", "--classes", "9", "--device", "cpu", "--runs", "2", "--compile", "none"]
    assert cli.main(["bench", "--peers", *arguments, "--json", str(file)]) == 0  # another package's fault is not ours
    printed = capsys.readouterr()
    assert "portable" in printed.out
    assert "WRONG" in printed.out
    assert "Absent: not installed: pip install x" in printed.out
    assert "takes about" in printed.err
    content = json.loads(file.read_text())
    assert content["grids"] == [[4, 4], [5, 5]]
    assert content["classes"] == [9]
    assert {"torch", "device_name", "threads", "versions", "absent", "budgets", "interrupted"} <= set(content)
    assert content["absent"] == {"Absent": "not installed: pip install x"}
    assert {(row["kind"], row["patches"]) for row in content["rows"]} == {
        (kind, patches) for kind in peer_bench.KINDS for patches in (16, 25)
    }
    for row in content["rows"]:
        assert (row["status"] == "wrong") == (row["peer"] == "wrong")
        assert (row["p50_ms"] is None) == (row["status"] != "ok")
    own = [row["over_portable"] for row in content["rows"] if (row["peer"], row["dtype"]) == ("portable", "float32")]
    assert own == [1.0] * 6


def test_where_auto_is_neither_it_is_the_cpu(monkeypatch):
    monkeypatch.setattr(devices, "parse_device", lambda text: torch.device("mps" if text != "cpu" else text))
    parser = cli._parser()
    assert bench_peers.parse_peers(parser.parse_args(["bench", "--peers"])).device == CPU
    with pytest.raises(UsageError, match="--device: got mps, takes cpu or cuda with --peers"):
        bench_peers.parse_peers(parser.parse_args(["bench", "--peers", "--device", "mps"]))


def test_a_fault_of_ours_is_an_exit_status(few, monkeypatch, stub, capsys):
    monkeypatch.setattr(
        peer_bench, "chosen_peers", lambda measured, device: [stub(factor=2.0, package=peers.OURS, module="")]
    )
    assert cli.main(["bench", "--peers", "--grid", "4", "--classes", "9", "--device", "cpu", "--runs", "1"]) == 1
    assert "not timed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--grid", "14,2"], "--grid: got '2', takes N or HxW patches"),
        (["--grid", ""], "--grid: got '', takes N or HxW patches"),
        (["--classes", "0"], "--classes: got '0'"),
        (["--classes", "161,1"], "--classes: got 1, takes 2 or more with --peers"),
        (["--runs", "0"], "--runs: got 0, takes a whole number from 1"),
        (["--device", "meta"], "--device: got"),
        (["--batch", "2"], "--batch: takes no --peers as well"),
        (["--plot", "x.png"], "--plot: takes no --peers as well"),
    ],
)
def test_wrong_options(arguments, message, capsys):
    assert cli.main(["bench", "--peers", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
