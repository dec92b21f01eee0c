"""Whether the other processes of a run are there: a connection of each to the first, which ends with it."""

from __future__ import annotations

import contextlib
import os
import secrets
import selectors
import signal
import socket
import sys
import threading
from collections.abc import Callable

_DONE = b"."
"""What a process says that ends as it should. Anything else, up to the end of the connection, is a reason."""

_SECONDS_TO_END = 30
"""For a process that is told to stop; longer than a step of the model takes."""


class Watch:
    """Tells this process to stop, by SIGTERM, when another one of the run is gone before it said that it is done.

    Args:
        rank, count: of this process, and of all.
        agree: from what each process has to what the first one has.

    Raises:
        OSError: no connection.
    """

    def __init__(self, rank: int, count: int, agree: Callable[[list[object]], list[object]]) -> None:
        self._rank, self._count = rank, count
        self._reason: str | None = None
        self._told, self._left, self._over = threading.Event(), threading.Event(), threading.Event()
        self._others: dict[socket.socket, int] = {}
        self._thread = threading.Thread(target=self._run, daemon=True)
        token = secrets.token_hex(16)
        with _listening() if rank == 0 else contextlib.nullcontext() as server:
            port, token = agree([0 if server is None else server.getsockname()[1], token])  # type: ignore[assignment]
            if server is not None:
                self._accept(server, str(token))
            else:
                self._connect(int(str(port)), str(token))
        agree([])
        if hasattr(os, "register_at_fork"):  # a process that reads images would hold the connections open
            os.register_at_fork(after_in_child=self._close)

    def start(self) -> None:
        """Watch from now on."""
        self._thread.start()

    def _accept(self, server: socket.socket, token: str) -> None:
        server.settimeout(60)
        while len(self._others) < self._count - 1:
            connection, _ = server.accept()
            connection.settimeout(10)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a machine that is gone says nothing
            with contextlib.suppress(OSError, ValueError):
                said, _, rank = connection.makefile("rb").readline().decode().partition(" ")
                if secrets.compare_digest(said, token):
                    connection.settimeout(None)
                    self._others[connection] = int(rank)

    def _connect(self, port: int, token: str) -> None:
        near = os.environ.get("LOCAL_WORLD_SIZE") == str(self._count)
        connection = socket.create_connection(("localhost" if near else os.environ["MASTER_ADDR"], port), timeout=60)
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.sendall(f"{token} {self._rank}\n".encode())
        self._others[connection] = 0

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for connection in self._others:
                selector.register(connection, selectors.EVENT_READ, connection)
            while selector.get_map() and not self._left.is_set():
                for key, _ in selector.select(1):
                    said = b""
                    with contextlib.suppress(OSError):
                        said = key.data.recv(200)
                    selector.unregister(key.data)
                    if not said.startswith(_DONE):
                        self._stop(said.decode(errors="replace") or f"process {self._others[key.data]} has ended")
                        return

    def _stop(self, reason: str) -> None:
        if self._left.is_set():
            return
        self._reason = reason
        self._told.set()
        self._say(reason.encode())
        os.kill(os.getpid(), signal.SIGTERM)
        if not self._over.wait(_SECONDS_TO_END):  # it is held up, by an exchange with whom is gone
            sys.stderr.write(f"cdam-fast: error: process {self._rank} of {self._count}: {reason}\n")
            sys.stderr.flush()
            os._exit(1)

    def _say(self, content: bytes) -> None:
        for connection in self._others:
            with contextlib.suppress(OSError):
                connection.sendall(content)

    def reason(self) -> str | None:
        """Why this process is told to stop; None where nobody is known to be gone."""
        self._told.wait(2)  # an exchange may fail before this is told
        return self._reason

    def leave(self) -> None:
        """Done, as all others are; nobody goes before the first has heard it of each."""
        if self._rank == 0:
            self._thread.join(_SECONDS_TO_END)
            self._say(_DONE)
        else:
            self._say(_DONE)
            self._thread.join(_SECONDS_TO_END)
        self._left.set()

    def over(self) -> None:
        """Nothing more is to do with the others, and from here on nothing comes of them."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(2)

    def abandon(self) -> None:
        """Not done: the others hear of it now."""
        self._left.set()
        for connection in self._others:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._close()

    def _close(self) -> None:
        for connection in self._others:
            connection.close()


def _listening() -> socket.socket:
    """On a port that the system chooses, for any address of this machine."""
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):
            return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))
