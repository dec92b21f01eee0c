"""What stands in for a GPU in the dry run of `gpu.py`, so that every line of the steps runs on a CPU."""

import contextlib
import inspect
import time
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import device_time
import gpu_maps
import torch

from cdam_fast import graphs
from cdam_fast.ahead import compiler, listing
from cdam_fast.kernels import configurations, launch

PROPERTIES = SimpleNamespace(name="no GPU: stand-in for an H200", multi_processor_count=0, total_memory=0)


class Event:
    """CUDA's, by the host's clock."""

    def __init__(self, enable_timing=False):
        self.at = 0.0

    def record(self):
        self.at = time.perf_counter()

    def elapsed_time(self, stop):
        return 1e3 * (stop.at - self.at)

    def query(self):
        return False


class Graph:
    """CUDA's: what was computed while it was recorded stays."""

    def replay(self):
        """Nothing changes in a dry run."""


def no_context(*arguments, **options):
    return contextlib.nullcontext()


def remembered(function):
    """The kernels' map, computed once for an input: the interpreter takes seconds for each."""
    known = {}

    def attention_map(similarity, options, out_dtype):
        content = similarity.float().contiguous().numpy().tobytes()
        # the host's step replaces the kernels
        key = launch.attention_kernel, content, similarity.shape, similarity.dtype, repr(options), out_dtype
        with torch.profiler.record_function("attention_kernel"):
            if key not in known:
                known[key] = function(similarity, options, out_dtype)
            return known[key].clone()

    return attention_map


def as_written(targets, on_step):
    """The shipped configurations, not compiled: each loop as it stands in the source, of one instruction."""
    folder = Path(inspect.getsourcefile(configurations)).parent
    loops = tuple(loop for file in sorted(folder.glob("*.py")) for loop in written_loops(str(file)))
    for target in targets:
        for each in configurations.shipped(target):
            yield compiler.Compiled(
                each.name,
                target,
                "compiled",
                num_warps=each.num_warps,
                constants=dict(each.constants),
                loops=loops,
            )


def written_loops(file):
    loops = []
    for one in listing.loop_statements(file):
        around = [other for other in listing.loop_statements(file) if other.first < one.first <= one.last <= other.last]
        depth = 1 + len(around)
        loops.append(listing.Loop(one.function, one.range, one.first, depth, False, 1, 1, {}, 0.0))
    return tuple(loops)


@contextlib.contextmanager
def stand_ins():
    """CUDA's clock, graphs and properties; maps that are computed once; loops that are not compiled; one round."""
    replaced = (
        (torch.cuda, "synchronize", lambda *arguments: None),
        (torch.cuda, "_sleep", lambda cycles: None),
        (torch.cuda, "clock_rate", lambda: 0),
        (torch.cuda, "get_device_capability", lambda index: (9, 0)),
        (torch.cuda, "get_device_name", lambda index: PROPERTIES.name),
        (torch.cuda, "get_device_properties", lambda index: PROPERTIES),
        (torch.cuda, "Event", Event),
        (torch.cuda, "CUDAGraph", Graph),
        (torch.cuda, "graph", no_context),
        (torch.cuda, "device", no_context),
        (graphs, "GRAPH_DEVICES", ("cpu",)),
        (launch, "attention_map", remembered(launch.attention_map)),
        (compiler, "compile_shipped", lambda *arguments: list(as_written(*arguments))),
        (device_time, "SECONDS_PER_ROUND", 0.0),
        (gpu_maps, "ROUNDS", 1),
    )
    with contextlib.ExitStack() as stack:
        for place, name, value in replaced:
            stack.enter_context(mock.patch.object(place, name, value))
        yield
