"""``cdam-fast demo``: what is refused before anything is served."""

import importlib.util
import socket
import sys

import pytest

from cdam_fast import cli
from cdam_fast.demo import server
from cdam_fast.errors import UsageError


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--max-mb", "0"], "--max-mb: got 0, takes megabytes above 0"),
        (["--max-mb", "nan"], "--max-mb: got nan"),
        (["--port", "0"], "--port: got 0, takes a number from 1 to 65535"),
        (["--port", "70000"], "--port: got 70000"),
        (["--host", "no host"], "--host: got 'no host', takes an address of this machine"),
        (["--host", "192.0.2.1"], "--host: got '192.0.2.1', takes an address of this machine"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refused(options, said, capsys):
    assert cli.main(["demo", *options]) == 2
    assert f"cdam-fast demo: error: {said}" in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="no gradio")
def test_a_model_that_there_is_not(capsys):
    assert cli.main(["demo", "--model", "nothing"]) == 2
    assert "cdam-fast demo: error: --model: got 'nothing'" in capsys.readouterr().err


def test_ports_that_are_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"--port: cannot listen on {port}: "):
            server.find_port("127.0.0.1", port)
    assert server.find_port("127.0.0.1", port) == port


def test_the_first_free_port_is_taken(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(server, "FIRST_PORT", taken.getsockname()[1])
        assert server.find_port("127.0.0.1", None) > taken.getsockname()[1]
        monkeypatch.setattr(server, "TRIED", 1)
        with pytest.raises(UsageError, match="--port: cannot listen on any from"):
            server.find_port("127.0.0.1", None)


def test_the_package_is_asked_for_before_the_model(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr("cdam_fast.demo.session.Session.load", lambda *arguments: pytest.fail("loaded"))
    assert cli.main(["demo"]) == 2
    assert 'gradio is not installed; pip install "cdam_fast[demo]"' in capsys.readouterr().err
