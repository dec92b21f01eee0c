"""``cdam-fast demo``: its options, and the server that it starts."""

from __future__ import annotations

import argparse
from typing import Any

from cdam_fast.commands.messages import named_errors, plain_messages
from cdam_fast.commands.model_options import DTYPES, add_arithmetic, add_weights, pretrained_of
from cdam_fast.commands.streams import close, say, tell
from cdam_fast.errors import UsageError


def add_command(commands: Any) -> None:
    """Add it to argparse's."""
    demo = commands.add_parser(
        "demo",
        help="open a page to try it: drop a photograph, type words, look at labels and attention",
        description="Serve a page on this machine: drop a photograph, type words, choose the base, see labels and "
        "areas with and without CDAM, and click a place to see where it attends. Needs no network with the tiny model. "
        "Ctrl-C ends it.",
    )
    add_weights(demo, default="tiny")
    add_arithmetic(demo)
    demo.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen on; 0.0.0.0 lets other machines in (default: %(default)s, this machine alone)",
    )
    demo.add_argument("--port", type=int, metavar="N", help="default: the first free one from 7860")
    demo.add_argument(
        "--max-mb", type=float, default=20.0, metavar="MB", help="largest file of a photograph (default: 20)"
    )
    demo.set_defaults(run=_run)


def _run(parsed: argparse.Namespace) -> int:
    with plain_messages(parsed):
        return _demo(parsed)


def _demo(parsed: argparse.Namespace) -> int:
    from cdam_fast.commands.devices import describe_device, parse_device
    from cdam_fast.demo.server import find_port, serve
    from cdam_fast.demo.session import Session

    if not 0 < parsed.max_mb < 10_000:  # NaN is not
        raise UsageError(f"--max-mb: got {parsed.max_mb:g}, takes megabytes above 0 and below 10000")
    if parsed.port is not None and not 0 < parsed.port < 65536:
        raise UsageError(f"--port: got {parsed.port}, takes a number from 1 to 65535")
    port = find_port(parsed.host, parsed.port)
    import gradio  # noqa: F401 - before the model is loaded

    device = parse_device(parsed.device)
    tell(describe_device(device))
    with named_errors(parsed):
        session = Session.load(parsed.model, pretrained_of(parsed), device, DTYPES[parsed.dtype])

    def ready(address: str) -> None:
        say(f"open {address} (Ctrl-C ends it)")
        close()

    serve(session, parsed.host, port, round(parsed.max_mb * 1e6), ready)
    return 0
