"""One piece of work on several processes, as torchrun starts them: who does what, sums, and the end of one of them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

from cdam_fast.errors import UsageError, reason_of
from cdam_fast.watch import Watch

Item = TypeVar("Item")
Result = TypeVar("Result")

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""All of them are there where torchrun, or whoever does its work, has started several processes."""

_JOIN, _WORK = timedelta(minutes=10), timedelta(days=365)
"""How long to wait for processes that start, and for those at work: their end is seen by `Watch`."""

_EXCHANGES: set[threading.Thread] = set()
"""Those that are going on: one whose others are gone, stopped or never came may not end."""

_LEFT: list[bool] = []
"""Of each `joined` that was left by an exception, whether it was at the end of its process."""

_SECONDS_TO_FAIL = 5
"""For an exchange with a process that is gone."""

_SILENCE = 20
"""Seconds of waiting for processes that start, after which it is said."""


class Stopped(BaseException):
    """Another process has ended, or this one is told to; no image's own failure, so no Exception."""


class Processes:
    """Those that share the work: this one is number ``rank`` of ``count``."""

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count
        self._group: Any = None
        self._watch: Watch | None = None

    @property
    def first(self) -> bool:
        """Whether this is the one that prints and writes results."""
        return self.rank == 0

    @property
    def of_machine(self) -> int:
        """How many of them are on this machine, as far as torchrun says it."""
        text = os.environ.get("LOCAL_WORLD_SIZE", "")
        return int(text) if self.count > 1 and text.isdecimal() and int(text) else self.count

    @property
    def name(self) -> str:
        """For messages."""
        return f"process {self.rank} of {self.count}"

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Those of this process; each is some process's."""
        return items[self.rank :: self.count]

    def total(self, counts: Tensor) -> Tensor:
        """Sum over the processes of int64 on the CPU."""
        total = counts.clone()
        if self.count > 1:
            with self._meeting():
                _interruptible(lambda: torch.distributed.all_reduce(total, group=self._group))
        return total

    def gather(self, value: Any) -> list[Any]:
        """What each process has, in order, on each of them; plain values, as JSON keeps them."""
        if self.count == 1:
            return [value]
        content = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8, device="cpu")
        with self._meeting():
            sizes = [int(size) for size in self._all(torch.tensor([len(content)], device="cpu"))]
            rows = self._all(torch.nn.functional.pad(content, (0, max(sizes) - len(content))))
        return [json.loads(bytes(row[:size].tolist())) for row, size in zip(rows, sizes)]

    def _all(self, mine: Tensor) -> list[Tensor]:
        """Each process's, of one shape."""
        rows = [torch.zeros_like(mine) for _ in range(self.count)]
        _interruptible(lambda: torch.distributed.all_gather(rows, mine, group=self._group))
        return rows

    def wait(self) -> None:
        """For all others to be here."""
        self.gather(None)

    @contextlib.contextmanager
    def first_alone(self) -> Iterator[None]:
        """The first process goes before the others: what it downloads and caches is there for them."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()

    @contextlib.contextmanager
    def _meeting(self) -> Iterator[None]:
        """An exchange fails where another process is gone."""
        try:
            yield
        except RuntimeError as error:
            raise Stopped(self._ended(reason_of(error))) from None

    def _ended(self, reason: str) -> str:
        return self._why(f"another process has ended ({reason})")

    def _why(self, otherwise: str) -> str:
        known = self._watch.reason() if self._watch is not None else None
        return f"{self.name}: {known or otherwise}"

    def _join(self) -> None:
        distributed = torch.distributed
        if not distributed.is_available():
            raise UsageError("WORLD_SIZE: this PyTorch has no torch.distributed, takes one process")
        _port()
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        waiting = f"{self.name} waits for the others, whom RANK and WORLD_SIZE tell of, at {place}"
        try:
            _interruptible(self._meet, said_late=f"{waiting}, {_JOIN.seconds // 60} min at most")
        except (RuntimeError, ValueError) as error:
            reason = f"{self.name} cannot meet the others at {place}: {reason_of(error)}"
            raise UsageError(f"MASTER_ADDR, MASTER_PORT: {reason}") from None
        self._group = _interruptible(lambda: distributed.new_group(backend="gloo", timeout=_WORK))
        try:
            self._watch = Watch(self.rank, self.count, lambda mine: self.gather(mine)[0])
            self._watch.start()
        except OSError as error:
            raise Stopped(self._ended(reason_of(error))) from None

    def _meet(self) -> None:
        distributed: Any = torch.distributed
        store: Any = None
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":  # torchrun's agent has one otherwise
            # PyTorch 1.13 lets no other thread of Python run while it waits for workers
            place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            store = distributed.TCPStore(*place, self.count, self.first, _JOIN, wait_for_workers=False)
        distributed.init_process_group("gloo", store=store, rank=self.rank, world_size=self.count, timeout=_JOIN)

    def _leave(self) -> None:
        """All are done."""
        assert self._watch is not None
        self._watch.leave()
        self._part()

    def _part(self) -> None:
        """Python would end the threads of the group too late; of one that still waits in it PyTorch would abort."""
        self._group = None
        for thread in tuple(_EXCHANGES):
            thread.join(_SECONDS_TO_FAIL)
        with contextlib.suppress(RuntimeError, ValueError, AssertionError):
            if torch.distributed.is_initialized() and not _EXCHANGES:
                torch.distributed.destroy_process_group()
        if self._watch is not None:
            self._watch.over()


def _interruptible(exchange: Callable[[], Result], *, said_late: str = "") -> Result:
    """What PyTorch does in a thread of its own: it waits without an end, and this one hears signals meanwhile.

    Args:
        exchange: what it is.
        said_late: a line for standard error, once it takes long.
    """
    outcome: list[Result] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(exchange())
        except BaseException as error:
            failure.append(error)
        _EXCHANGES.discard(thread)

    thread = threading.Thread(target=run, daemon=True)
    _EXCHANGES.add(thread)
    thread.start()
    thread.join(_SILENCE)
    if said_late and thread.is_alive():
        sys.stderr.write(f"{said_late}\n")
        sys.stderr.flush()
    while thread.is_alive():
        thread.join(1)
    if failure:
        raise failure[0]
    return outcome[0]


def end_at_once(status: int) -> None:
    """End this process, which ends otherwise than the others think; PyTorch's group may abort or hold the usual end.

    Where no `joined` at the end was left by an exception, and no exchange waits, nothing is done.
    """
    if _EXCHANGES or any(_LEFT):
        os._exit(status)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


ALONE = Processes()


@contextlib.contextmanager
def joined(*, at_the_end: bool = False) -> Iterator[Processes]:
    """All processes of a run of torchrun, at whose end they wait for each other; `ALONE` where there is just one.

    Where one of them ends otherwise, by an exception, ``sys.exit`` or a signal, each other one gets `Stopped` within
    seconds. For a main thread. The counts go by gloo, on the CPU.

    Args:
        at_the_end: whether this process ends right afterwards, by `end_at_once` where an exception left this. SIGTERM
            is then ignored, which torchrun sends as soon as one process has ended with another status than 0.

    Raises:
        UsageError: RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT that are none, or under which nobody answers.
    """
    rank, count = _of_environment()
    if count == 1:
        yield ALONE
        return
    processes = Processes(rank, count)
    told = threading.Event()

    def stop(number: int, frame: object) -> None:
        if not told.is_set():
            told.set()  # a second one would fall into the first one's way out
            raise Stopped(processes._why("told to end by SIGTERM, which torchrun sends when another process has ended"))

    before = signal.signal(signal.SIGTERM, stop)
    try:
        processes._join()
        yield processes
        processes.wait()
        signal.signal(signal.SIGTERM, signal.SIG_IGN if at_the_end else before)  # before anyone else can end
        processes._leave()
    except BaseException:
        stopped = told.is_set()
        told.set()  # on its way out already, so nobody else's end takes the place of its own reason
        if processes._watch is not None:
            processes._watch.abandon()
            _LEFT.append(at_the_end)
        if not at_the_end:
            processes._part()
        signal.signal(signal.SIGTERM, signal.SIG_IGN if stopped or at_the_end else before)
        raise


def _of_environment() -> tuple[int, int]:
    """Number of this process and of all."""
    if not all(os.environ.get(name) for name in _VARIABLES):
        return 0, 1
    rank, count = _whole("RANK"), _whole("WORLD_SIZE")
    if not 0 <= rank < count:
        raise UsageError(f"RANK: got {rank}, takes a whole number from 0 to below WORLD_SIZE, {count}")
    return rank, count


def _port() -> None:
    if not 0 < _whole("MASTER_PORT") < 65536:
        raise UsageError(f"MASTER_PORT: got {os.environ['MASTER_PORT']}, takes a whole number from 1 to 65535")


def _whole(name: str) -> int:
    try:
        return int(os.environ[name])
    except ValueError:
        raise UsageError(f"{name}: got {os.environ[name]!r}, takes a whole number") from None


def local_device(device: torch.device) -> torch.device:
    """A device of this process's own among those of its machine, where it is named without a number."""
    rank, count = _of_environment()
    if count == 1 or device.index is not None or device.type not in ("cuda", "xpu"):
        return device
    there = getattr(torch, device.type).device_count()
    return torch.device(device.type, (_whole("LOCAL_RANK") if os.environ.get("LOCAL_RANK") else rank) % max(1, there))
