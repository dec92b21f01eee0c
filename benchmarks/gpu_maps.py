"""Of the steps of `gpu.py`, those that compare maps: every backend's errors, and its times. And where they run."""

import contextlib
import importlib.util
import math
import time
from functools import partial

import torch
from device_time import FLUSHED, Timed

from cdam_fast import cdam_attention, compat, graphed, reference, testing
from cdam_fast.testing import clip_like

LONGEST_STEP = 480  # seconds
LISTS = {"COCO-Object": 161, "VOC21": 101, "Context60": 140}  # with the 80 augmented prompts
FIRST, GRID = "COCO-Object", (28, 28)
GRIDS = (GRID, (14, 14), (37, 37), (64, 64))
BATCHES = (1, 8, 64)
ROUNDS = 10
LEAST_ROUNDS = 2
SECONDS_PER_BACKEND = 12.0  # of rounds, each with samples of three kinds


class Run:
    """Where the steps run, and how large."""

    def __init__(self, dry):
        self.dry = dry
        self.device = torch.device("cpu" if dry else "cuda:0")
        self.options = {"scales": (0.5, 1.0)} if dry else {}  # of the maps
        self.has_xdist = importlib.util.find_spec("xdist") is not None
        self._compiled, self._results = None, {}

    def grid(self, grid):
        return (4, 4) if self.dry else grid

    def classes(self, classes):
        return min(classes, 5) if self.dry else classes

    def batch(self, batch):
        return min(batch, 2) if self.dry else batch

    def like(self, classes, grid, spread, batch=()):
        """Similarity like CLIP's, on the CPU."""
        sizes = tuple(self.batch(one) for one in batch)
        return clip_like(self.classes(classes), *self.grid(grid), batch=sizes, spread=spread)

    def compiled(self):
        """PyTorch's compiler on the eager code; compiled anew, but in a dry run."""
        if self._compiled is None or not self.dry:
            torch._dynamo.reset()
            self._compiled = compat.compiled(
                reference.cdam_attention, dynamic=False, **({"backend": "eager"} if self.dry else {})
            )
        return self._compiled

    def once(self, function, *arguments):
        """What a function gives; in a dry run, where many steps come to the same sizes, from the first of them."""
        if not self.dry:
            return function(self, *arguments)
        if arguments not in self._results:
            self._results[arguments] = function(self, *arguments)
        return self._results[arguments]


def errors(run):
    """Largest error of the map against float64: every metric, order and kind of input, of the kernels as they run."""
    odd = (13, 17)
    cases = []
    for width in (0.003, 0.01, 0.02, 0.03, 0.035, 0.05, 0.1, 0.3, 1.0):
        cases += (
            (f"clip-like spread {width} C={classes}", partial(run.like, classes, GRID, width), {})
            for classes in (161, 101, 5, 2)
        )
    for metric in ("js", "kl", "wasserstein"):
        for order in ("official", "paper"):
            options = {"metric": metric, "order": order}
            cases.append((f"{metric} {order}", partial(run.like, 41, odd, 0.03), options))
            cases.append((f"{metric} {order} peaked", partial(run.like, 41, odd, 0.5), options))
    cases += (
        (kind, partial(testing.degenerate, kind, run.classes(101), *run.grid(odd)), {}) for kind in testing.DEGENERATE
    )
    cases.append(("C=1300", partial(run.like, 1300, odd, 0.03), {}))
    cases.append(("batch 3, bfloat16", lambda: run.like(41, odd, 0.03, (3,)).bfloat16(), {"out_dtype": torch.float32}))
    cases.append(("float16", lambda: run.like(161, GRID, 0.03).half(), {"out_dtype": torch.float32}))
    rows = []
    for number, (name, make, options) in enumerate(cases):
        similarity = make().to(run.device)
        if run.dry and number % 18 != 4:  # left are two widths, another metric and float16
            continue
        options = run.options | options
        kernel_options = {key: value for key, value in options.items() if key != "out_dtype"}
        exact = testing.oracle(similarity, device=run.device, **kernel_options)
        row = {"case": name}
        for backend in ("triton", "portable"):
            row |= _error_of(similarity, backend, options, exact)
        rows.append(row)
    worst = max(rows, key=lambda row: row["triton"])
    on_cpu = testing.oracle(run.like(41, odd, 0.03)).to(run.device)
    oracle_difference = float((testing.oracle(run.like(41, odd, 0.03), device=run.device) - on_cpu).abs().max())
    return {
        "budget": testing.MAP_BUDGET,
        "over": [row["case"] for row in rows if not row["triton"] <= testing.MAP_BUDGET],
        "worst": worst,
        "float64_on_the_device_and_on_the_cpu_differ_by": oracle_difference,
        "rows": rows,
    }


def _error_of(similarity, backend, options, exact):
    """By the backend's name; infinity where it fails, for the other inputs still tell."""
    try:
        with poisoned():
            result = cdam_attention(similarity, backend=backend, **options)
        return {backend: testing.largest_error(result, exact)}
    except Exception as error:
        return {backend: math.inf, f"{backend} failed": said(error)}


def said(error):
    return f"{type(error).__name__}: {str(error)[:300]}"


@contextlib.contextmanager
def poisoned():
    """New memory is NaN, so that an element nobody wrote shows."""
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = fill


def latency(run, classes, grid, batch, compile_too):
    """Every backend on the same input, checked, then timed in turns."""
    return run.once(_latency, run.classes(classes), run.grid(grid), run.batch(batch), compile_too)


def _latency(run, classes, grid, batch, compile_too):
    from cdam_fast.measuring.measure import available_memory

    begin = time.monotonic()
    similarity = run.like(classes, grid, 0.03, (batch,)).to(run.device)
    ends = [0, batch - 1] if batch > 1 else [0]
    exact = testing.oracle(similarity[ends], device=run.device, **run.options)
    eager_bytes = 3 * batch * (grid[0] * grid[1]) ** 2 * classes * 4
    together = eager_bytes < available_memory(run.device)

    def one_at_a_time(function):
        function = partial(function, **run.options)
        return function if together else lambda images: torch.cat([function(image[None]) for image in images])

    backends = {"eager": lambda: partial(one_at_a_time(reference.cdam_attention), similarity)}
    if compile_too:
        backends["torch.compile"] = lambda: partial(one_at_a_time(run.compiled()), similarity)
    for name in ("portable", "triton"):
        backends[name] = lambda name=name: partial(cdam_attention, similarity, backend=name, **run.options)
    backends["triton, graphed"] = lambda: partial(graphed(similarity, **run.options), similarity)
    rows, timed = {}, {}
    flush = torch.empty(1024 if run.dry else FLUSHED, dtype=torch.int8, device=run.device)
    with torch.no_grad():
        for name, make in backends.items():
            rows[name] = {}
            if call := _checked(run, name, make, rows[name], lambda result: testing.largest_error(result[ends], exact)):
                timed[name] = Timed(call)
        for turn in range(ROUNDS):
            for one in timed.values():
                short = one.spent < SECONDS_PER_BACKEND and time.monotonic() - begin < LONGEST_STEP / 2
                if turn < LEAST_ROUNDS or short:
                    one.round(flush)
    for name, one in timed.items():
        rows[name] |= one.summary()
    medians = {name: rows[name]["device_us"]["median"] for name in timed}
    for name in rows:
        rows[name]["over"] = {rival: medians[rival] / medians[name] for rival in medians if name in medians}
    return {"classes": classes, "grid": list(grid), "batch": batch, "eager_in_one": together, "backends": rows}


def _checked(run, name, make, row, error_of):
    """The call of a backend where it is right, its error and memory in row; else None, and why in row."""
    from cdam_fast.measuring.measure import peak_memory

    try:
        begin = time.perf_counter()
        call = make()
        with poisoned() if name.startswith("triton") else contextlib.nullcontext():
            result = call()
        torch.cuda.synchronize()
        row["first_call_s"] = time.perf_counter() - begin
        row["error"] = error_of(result)
        budget = testing.map_budget(eager=name in ("eager", "torch.compile"))
        if not row["error"] <= budget:
            row["status"] = f"wrong: over {budget:.0e}, not timed"
            return None
        row["memory_bytes"] = peak_memory(call, run.device)[0]
    except Exception as error:  # Triton's and PyTorch's compilers have many kinds
        row["status"] = f"failed: {said(error)}"
        return None
    row["status"] = "ok"
    return call
