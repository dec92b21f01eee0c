"""How long a command takes: said before, and with every step what is left."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from cdam_fast.commands.streams import one_line, tell

Tell = Callable[[str], None]


def spoken(seconds: float) -> str:
    """A duration as one says it: "40 s", "3 min", "1 h 20 min"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s" if seconds < 20 else f"{round(seconds / 10) * 10} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@contextlib.contextmanager
def counted(total: int, what: str) -> Iterator[Tell]:
    """A bar on a terminal, anywhere else a line for each of so many, with the time that the rest will take."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    begin, done = time.monotonic(), 0
    if console.is_terminal:
        with Progress(console=console) as progress:
            task = progress.add_task(what, total=total)

            def advance(line: str) -> None:
                progress.console.print(one_line(line), highlight=False, markup=False)
                progress.advance(task)

            yield advance
    else:

        def say(line: str) -> None:
            nonlocal done
            done += 1
            left = (time.monotonic() - begin) / done * (total - done)
            tell(f"[{done}/{total}] {line}" + (f" ({spoken(left)} left)" if left >= 1 else ""))

        yield say


@contextlib.contextmanager
def estimated(seconds: float) -> Iterator[Tell]:
    """A line for each step, or one that changes on a terminal, with the time that is gone of what it may take."""
    from rich.console import Console

    console = Console(stderr=True)
    begin = time.monotonic()

    def line(step: str) -> str:
        gone = time.monotonic() - begin
        return f"[{f'{gone:.0f} s' if gone < 90 else spoken(gone)} of about {spoken(seconds)}] {one_line(step)}"

    tell(f"takes about {spoken(seconds)} here")
    if console.is_terminal:
        with console.status("starting") as status:
            yield lambda step: status.update(line(step).replace("[", r"\["))
    else:
        yield lambda step: tell(line(step))
