"""The page on an address of this machine, until it is interrupted."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from cdam_fast.demo.session import Session
from cdam_fast.errors import UsageError, reason_of

LOOPBACK = "127.0.0.1"
FIRST_PORT, TRIED = 7860, 100

_NO_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EINVAL)


def find_port(host: str, port: int | None) -> int:
    """The port, if it is free, or the first free one of a hundred from 7860.

    Raises:
        UsageError: none is, or the host is no address of this machine.
    """
    ports = [port] if port is not None else range(FIRST_PORT, FIRST_PORT + TRIED)
    reason = "none is free"
    for candidate in ports:
        taken = _taken(host, candidate)
        if taken is None:
            return candidate
        reason = taken
    which = f"{port}" if port is not None else f"any from {FIRST_PORT} to {FIRST_PORT + TRIED - 1}"
    raise UsageError(f"--port: cannot listen on {which}: {reason}")


def _taken(host: str, port: int) -> str | None:
    """Why a port cannot be listened on."""
    takes = f"--host: got {host!r}, takes an address of this machine, such as {LOOPBACK}"
    try:
        socket.getaddrinfo(host, port)
    except (OSError, UnicodeError):  # no name that there is, or that there can be
        raise UsageError(takes) from None
    try:
        socket.create_server((host, port), family=_family(host)).close()
    except OSError as error:
        if error.errno in _NO_ADDRESS:
            raise UsageError(takes) from None
        return os.strerror(error.errno) if error.errno else reason_of(error)
    return None


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def launch(page: Any, host: str, port: int, most_bytes: int) -> str:
    """Serve a page in the background; its address.

    No link to share, no telemetry, no server-side rendering; gradio's own limit on uploads is the page's.
    """
    from cdam_fast.demo.page import CSS, theme

    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        max_file_size=most_bytes,
        theme=theme(),
        css=CSS.read_text(encoding="utf-8"),
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        inbrowser=False,
        inline=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
        footer_links=[],
    )
    return str(address)


def serve(session: Session, host: str, port: int, most_bytes: int, tell: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C, with a folder for what is dropped that goes when the server does.

    tell hears the address. KeyboardInterrupt is passed on.
    """
    with _folder_for_uploads():
        from cdam_fast.demo.page import make_page

        page = make_page(session, most_bytes)
        try:
            tell(launch(page, host, port, most_bytes))
            while True:
                time.sleep(0.5)  # Windows interrupts no wait without an end
        finally:
            page.close(verbose=False)


@contextlib.contextmanager
def _folder_for_uploads() -> Iterator[None]:
    changed = {"GRADIO_ANALYTICS_ENABLED": "False"}
    if any(name.lower().endswith("_proxy") for name in os.environ):  # gradio asks itself whether it is there
        for name in ("no_proxy", "NO_PROXY"):
            changed[name] = ",".join(filter(None, (os.environ.get(name), "localhost", LOOPBACK)))
    with tempfile.TemporaryDirectory(prefix="cdam-fast-demo-", ignore_cleanup_errors=True) as folder:
        changed["GRADIO_TEMP_DIR"] = folder
        before = {name: os.environ.get(name) for name in changed}
        os.environ.update(changed)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
