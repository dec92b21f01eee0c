"""The command line: ``cdam-fast`` and its subcommands."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from cdam_fast import __version__, processes
from cdam_fast.commands import bench, demo, env, evaluate, kernels, map, segment, streams, tables, tune
from cdam_fast.errors import UsageError, missing_package, reason_of
from cdam_fast.processes import Stopped


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of the usage and the message."""
        self.exit(2, streams.one_line(f"{self.prog}: error: {message}") + "\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        """Argparse's own ignores a stream that fails."""
        stream = file or sys.stderr
        if message and stream is not None:
            with streams.writing(stream):
                stream.write(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="cdam-fast", description="CDAM: CLIP's attention by class distributions, exact and fast.")
    parser.add_argument("--version", action="version", version=f"cdam-fast {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (segment, map, evaluate, tables, demo, bench, kernels, tune, env):
        command.add_command(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    The exit status: 0; 1 where a backend was wrong, a photograph failed, a kernel is not fit to ship, another process
    of the run ended or a stream took nothing more; 2 for bad input; 130 interrupted.
    """
    status = _written(arguments)
    processes.end_at_once(status)
    return status


def _written(arguments: Sequence[str] | None) -> int:
    """The exit status, with all that was said handed over."""
    streams.prepare()
    try:
        status = _run(arguments)
        streams.close()
        return status
    except BrokenPipeError:  # who reads has read enough
        status = 1
    except streams.StreamError as error:
        status = 1
        with contextlib.suppress(BrokenPipeError, streams.StreamError):
            streams.tell(f"cdam-fast: error: {error}")
    except KeyboardInterrupt:
        status = 130
    streams.abandon()
    return status


def _run(arguments: Sequence[str] | None) -> int:
    name = "cdam-fast"
    try:
        parsed = _parser().parse_args(arguments)
        name = f"cdam-fast {parsed.command}"
        run: int = parsed.run(parsed)
        return run
    except SystemExit as stop:  # argparse's, after --help, --version or an error
        return stop.code if isinstance(stop.code, int) else 2
    except (BrokenPipeError, streams.StreamError):
        raise
    except Stopped as stopped:
        streams.tell(f"{name}: error: {stopped}")
        return 1
    except UsageError as error:
        reason = str(error)
    except ImportError as error:
        reason = missing_package(error)
    except Exception as error:
        what = f"{type(error).__name__}: {reason_of(error).removeprefix(f'{type(error).__name__}: ')}"
        reason = f"{what} ({_place(error)}); please report it with what cdam-fast env prints"
    streams.tell(f"{name}: error: {reason}")
    return 2


def _place(error: BaseException) -> str:
    """Where in this package something unforeseen came up."""
    place, trace = "cdam_fast", error.__traceback__
    while trace is not None:
        if str(trace.tb_frame.f_globals.get("__name__")).partition(".")[0] == "cdam_fast":
            place = f"{Path(trace.tb_frame.f_code.co_filename).name} line {trace.tb_lineno}"
        trace = trace.tb_next
    return place
