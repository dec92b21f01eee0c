"""CUDA's graphs on a CPU: a graph notes the calls that are made while it is recorded, and makes them again."""

import contextlib

import pytest
import torch

from cdam_fast import graphs

needs_interpreter = pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels on CPU tensors: no GPU")


class Graph:
    """Stands in for torch.cuda.CUDAGraph; `made` are those there are, in order."""

    made = ()
    recording = None

    def __init__(self):
        self.calls, self.replays = [], 0
        Graph.made += (self,)

    def replay(self):
        """Everything is computed from the memory that was read, into the memory that was written."""
        self.replays += 1
        for function, arguments, options, result in self.calls:
            result.copy_(function(*arguments, **options))


@contextlib.contextmanager
def _record(graph, **options):
    assert options == {"capture_error_mode": "thread_local"}
    assert Graph.recording is None
    Graph.recording = graph
    try:
        yield
    finally:
        Graph.recording = None


def _noted(function):
    def call(*arguments, **options):
        result = function(*arguments, **options)
        if Graph.recording is not None:
            Graph.recording.calls.append((function, arguments, options, result))
        return result

    return call


class Stream:
    """Stands in for a stream."""

    cuda_stream = 0


@pytest.fixture
def stand_ins(monkeypatch):
    """CUDA's graphs by stand-ins; what was recorded is in ``Graph.made``."""
    Graph.made = ()
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", _record)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    monkeypatch.setattr(graphs, "GRAPH_DEVICES", ("cpu",))
    for name in ("cdam_attention", "cdam_attend"):
        monkeypatch.setattr(graphs, name, _noted(getattr(graphs, name)))
