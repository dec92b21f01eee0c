"""The package's errors and warnings as lines of the command line."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any

from cdam_fast.commands.streams import tell
from cdam_fast.errors import UsageError

_OPTIONS = {"class_names": "--classes", "model_name": "--model"}
"""Of arguments whose option has another name."""

_OURS = "background:|batch_size:|cache:|class_names|image_mean:|legend:|threshold:|QuickGELU|quick_gelu"
"""How the warnings begin that are worth a line."""


def note(parsed: argparse.Namespace, line: str) -> None:
    """A line that is no error."""
    tell(f"cdam-fast {parsed.command}: note: {line}")


@contextlib.contextmanager
def named_errors(parsed: argparse.Namespace) -> Iterator[None]:
    """The package's errors name an argument; here it is an option."""
    try:
        yield
    except (TypeError, ValueError, RuntimeError) as error:
        name, colon, rest = str(error).partition(":")
        name = name.partition("[")[0]
        if not colon or (name not in _OPTIONS and not hasattr(parsed, name)):
            raise
        raise UsageError(f"{_OPTIONS.get(name, '--' + name.replace('_', '-'))}:{rest}") from None


@contextlib.contextmanager
def plain_messages(parsed: argparse.Namespace, *, once: bool = False) -> Iterator[None]:
    """A line for each of our warnings; libraries' remarks on random weights and deprecated imports stay away.

    once: the first of a kind is enough.
    """
    kinds: set[str] = set()

    def show(message: Warning | str, *args: Any, **options: Any) -> None:
        kind = str(message).partition(":")[0]
        if not once or kind not in kinds:
            kinds.add(kind)
            note(parsed, str(message))

    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("default", message=_OURS, category=UserWarning)
            warnings.showwarning = show
            yield
    finally:
        logging.disable(previous)
