"""Work on several processes: shares, sums, and the end of one of them."""

import signal
import socket
import time

import pytest
import torch
from spawned import finish, start

from cdam_fast import processes
from cdam_fast.errors import UsageError
from cdam_fast.processes import ALONE, Processes

VARIABLES = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}

SUMS = """
import torch
from cdam_fast.processes import joined
with joined() as group:
    big = 2**60 + group.rank
    total = group.total(torch.tensor([[big, 1]]))
    gathered = group.gather({"rank": group.rank, "text": "é" * group.rank})
    share = list(group.share("abcdefg"))
    with group.first_alone():
        order = group.rank
    print(total.tolist(), gathered, share)
"""

DEATH = """
import os, signal, sys, time
from cdam_fast.cli import main
from cdam_fast.commands import env
from cdam_fast.processes import joined

def run(parsed):
    with joined(at_the_end=True) as group:
        if group.rank == int(sys.argv[1]):
            {what}
        print("at work", flush=True)
        time.sleep(100)

env._run = run
sys.exit(main(["env"]))
"""

OWN_REASONS = """
from cdam_fast.processes import Stopped, end_at_once, joined
try:
    with joined(at_the_end=True) as group:
        group.wait()
        raise ValueError(f"process {group.rank} by itself")
except (ValueError, Stopped) as error:
    print(error, flush=True)
end_at_once(0)
"""


WAITING = """
import sys, time
from cdam_fast import processes
from cdam_fast.cli import main
from cdam_fast.commands import env

def run(parsed):
    with processes.joined(at_the_end=True) as group:
        if group.first:
            print("at work", file=sys.stderr, flush=True)
            group.wait()
        time.sleep(100)

processes._SILENCE = 1
env._run = run
sys.exit(main(["env"]))
"""


def test_alone():
    with processes.joined() as group:
        assert group is ALONE
        assert group.first
        assert list(group.share([1, 2, 3])) == [1, 2, 3]
        assert group.gather({"a": 1}) == [{"a": 1}]
        counts = torch.tensor([3])
        assert group.total(counts) is not counts
        with group.first_alone():
            group.wait()


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_each_item_is_in_one_share(count):
    items = list(range(7))
    shares = [Processes(rank, count).share(items) for rank in range(count)]
    assert sorted(item for share in shares for item in share) == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"RANK": "x"}, "RANK: got 'x', takes a whole number"),
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE: got 'many', takes a whole number"),
        ({"RANK": "2"}, "RANK: got 2, takes a whole number from 0 to below WORLD_SIZE, 2"),
        ({"RANK": "-1"}, "RANK: got -1, takes"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT: got 'http', takes a whole number"),
        ({"MASTER_PORT": "65536"}, "MASTER_PORT: got 65536, takes a whole number from 1 to 65535"),
        ({"MASTER_PORT": "0"}, "MASTER_PORT: got 0, takes"),
    ],
    ids=["rank", "count", "too large", "negative", "no port", "no such port", "any port"],
)
def test_variables_that_are_none(monkeypatch, changed, message):
    for name, value in (VARIABLES | changed).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError) as caught, processes.joined():
        pass
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("missing", VARIABLES)
def test_a_cluster_that_sets_some_of_the_variables_is_one_process(monkeypatch, missing):
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(missing)
    with processes.joined() as group:
        assert group is ALONE


def test_devices_are_divided(monkeypatch):
    for name, value in (VARIABLES | {"WORLD_SIZE": "6", "RANK": "5", "LOCAL_RANK": "1"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert processes.local_device(torch.device("cuda")) == torch.device("cuda:1")
    assert processes.local_device(torch.device("cuda:3")) == torch.device("cuda:3")
    assert processes.local_device(torch.device("cpu")) == torch.device("cpu")
    monkeypatch.delenv("LOCAL_RANK")
    assert processes.local_device(torch.device("cuda")) == torch.device("cuda:1")  # 5 of 4
    monkeypatch.delenv("RANK")
    assert processes.local_device(torch.device("cuda")) == torch.device("cuda")


def test_a_device_number_that_is_none(monkeypatch):
    for name, value in (VARIABLES | {"LOCAL_RANK": "first"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="LOCAL_RANK: got 'first', takes a whole number"):
        processes.local_device(torch.device("cuda"))


def test_a_port_that_is_taken(monkeypatch):
    with socket.create_server(("", 0)) as other:
        port = str(other.getsockname()[1])
        for name, value in (VARIABLES | {"MASTER_PORT": port}).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(UsageError) as caught, processes.joined():
            pass
    said = f"MASTER_ADDR, MASTER_PORT: process 0 of 2 cannot meet the others at localhost:{port}: "
    assert str(caught.value).startswith(said)


def test_three_processes_sum_and_share():
    for rank, (status, printed, errors) in enumerate(finish(start(3, "-c", SUMS))):
        assert status == 0, errors
        gathered = [{"rank": each, "text": "é" * each} for each in range(3)]
        assert printed.strip() == f"{[[3 * 2**60 + 3, 3]]} {gathered} {list('abcdefg'[rank::3])}"


@pytest.mark.parametrize(
    ("dying", "what", "statuses"),
    [
        (1, "os.kill(os.getpid(), signal.SIGKILL)", (-signal.SIGKILL,)),
        pytest.param(0, "os.kill(os.getpid(), signal.SIGKILL)", (-signal.SIGKILL,), marks=pytest.mark.slow),
        pytest.param(2, "sys.exit(7)", (7,), marks=pytest.mark.slow),
        pytest.param(0, "raise ValueError('it is broken')", (2,), marks=pytest.mark.slow),
        pytest.param(1, "os.kill(os.getpid(), signal.SIGTERM)", (1,), marks=pytest.mark.slow),
    ],
    ids=["killed", "first killed", "sys.exit", "exception", "told to end"],
)
def test_one_that_ends_ends_all_with_a_message(dying, what, statuses):
    begin = time.monotonic()
    ends = finish(start(3, "-c", DEATH.format(what=what), dying))
    assert time.monotonic() - begin < 60  # they sleep for 100 s
    for rank, (status, _, errors) in enumerate(ends):
        if rank == dying:
            assert status in statuses
        else:
            assert status == 1
            assert errors.endswith(f"cdam-fast env: error: process {rank} of 3: process {dying} has ended\n"), errors


@pytest.mark.slow
def test_those_that_end_at_once_each_have_a_reason():
    ends = finish(start(3, "-c", OWN_REASONS))
    assert [status for status, _, _ in ends] == [0, 0, 0], ends
    for rank, (_, printed, _) in enumerate(ends):
        assert f"process {rank}" in printed, ends


def test_one_that_waits_for_another_hears_ctrl_c():
    running = start(2, "-c", WAITING)
    assert running[0].stderr.readline() == "at work\n"
    time.sleep(1)
    begin = time.monotonic()
    running[0].send_signal(signal.SIGINT)
    (status, _, _), (other, _, errors) = finish(running)
    assert time.monotonic() - begin < 20
    assert (status, other) == (130, 1)
    assert errors.endswith("error: process 1 of 2: process 0 has ended\n")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 1)], ids=["Ctrl-C", "torchrun"])
def test_one_whose_others_never_come_says_so_and_can_be_ended(number, status):
    waiting, other = start(2, "-c", WAITING)
    other.kill()  # before it has imported anything
    said = waiting.stderr.readline()
    assert said.startswith("process 0 of 2 waits for the others, whom RANK and WORLD_SIZE tell of, at localhost:")
    begin = time.monotonic()
    waiting.send_signal(number)
    (got, _, _), _ = finish([waiting, other])
    assert time.monotonic() - begin < 20
    assert got == status
