"""What is printed: any text, on any stream, and a stream that stops taking it."""

from __future__ import annotations

import contextlib
import os
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from cdam_fast.files import readable

_UNSEEN = ("Cc", "Cs", "Zl", "Zp")
"""Unicode categories: control characters, lone surrogates, line and paragraph separators."""


class StreamError(Exception):
    """Standard output or standard error takes nothing more."""


def prepare() -> None:
    """What a stream's encoding lacks is printed as an escape, whatever the locale."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def one_line(text: str) -> str:
    """As `readable`, line breaks and other control characters as escapes too."""
    return "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char) in _UNSEEN else char
        for char in readable(text)
    )


@contextlib.contextmanager
def writing(stream: TextIO) -> Iterator[None]:
    """A stream that takes nothing more raises StreamError, or BrokenPipeError where nobody reads on."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        name = "standard error" if stream is sys.stderr else "standard output"
        raise StreamError(f"cannot write to {name}: {error.strerror or error}") from None


def say(text: str) -> None:
    """A line on standard output."""
    _write(sys.stdout, text)


def tell(text: str) -> None:
    """A line on standard error."""
    _write(sys.stderr, text)


def _write(stream: TextIO, text: str) -> None:
    with writing(stream):
        print(f"{one_line(text)}\n", end="", file=stream)  # at once: a signal may come between two


def show(renderable: Any, width: int = 120) -> None:
    """One of rich's tables on standard output; as wide as this where that is no terminal."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=width)
    with writing(sys.stdout):
        console.print(renderable)


def close() -> None:
    """Hand over what is still held back. BrokenPipeError or StreamError where that fails."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with writing(stream):
                stream.flush()


def abandon() -> None:
    """Throw away what the streams still hold, so that Python's own last flush raises nothing."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            _abandon(stream)


def _abandon(stream: TextIO) -> None:
    try:
        stream.flush()
    except OSError:
        with contextlib.suppress(OSError, ValueError), Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), stream.fileno())
