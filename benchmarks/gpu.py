"""The first hour on a GPU: everything that only a GPU shows, step by step, into one JSON file.

    python benchmarks/gpu.py --json benchmarks/results/gpu-NAME.json

Each step is there as soon as it is done; the same command goes on where the last one stopped. `--minutes` starts no
step later than that, the most telling ones first. Kernels are timed only where they are right. `--dry-run` goes
through every line on a CPU, at 4 x 4 patches, with stand-ins for the clock and the graphs of CUDA.
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from functools import partial
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
LONGEST_STEP = 480  # seconds
LISTS = {"COCO-Object": 161, "VOC21": 101, "Context60": 140}  # with the 80 augmented prompts
GRIDS = ((28, 28), (14, 14), (37, 37), (64, 64))
BATCHES = (1, 8, 64)
ROUNDS = 10
SECONDS_PER_BACKEND = 4.0
NCU_METRICS = (
    "gpu__time_duration.sum",
    "sm__cycles_elapsed.max",
    "smsp__inst_executed.sum",
    "sm__inst_executed_pipe_tensor.sum",
    "smsp__issue_active.avg.pct_of_peak_sustained_active",
    "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active",
    "sm__warps_active.avg.pct_of_peak_sustained_active",
    "l1tex__data_bank_conflicts_pipe_lsu.sum",
    "l1tex__data_pipe_lsu_wavefronts_mem_shared.sum",
    "dram__bytes.sum",
    "lts__t_bytes.sum",
    "launch__registers_per_thread",
    "launch__shared_mem_per_block",
    "launch__waves_per_multiprocessor",
)


# --- Steps --------------------------------------------------------------------------------------------------------


def environment(run):
    import torch
    import triton

    found = {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "processors": os.cpu_count(),
    }
    if not run.dry:
        properties = torch.cuda.get_device_properties(0)
        found |= {name: getattr(properties, name) for name in ("name", "multi_processor_count", "total_memory")}
        found["capability"] = list(torch.cuda.get_device_capability(0))
    return found | {"nvidia_smi": nvidia_smi()}


def nvidia_smi():
    fields = "name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu,persistence_mode"
    try:
        command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(zip(fields.split(","), (value.strip() for value in done.stdout.splitlines()[0].split(","))))


def pytest_of(run, *options):
    """Of the tests that only a GPU shows: how many passed, failed and were skipped, and what failed how."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", f"--junitxml={report}", "-p", "no:cacheprovider"]
        command += ["-n", "0"] if run.has_xdist else []
        done = subprocess.run(
            [*command, *options], cwd=ROOT, capture_output=True, text=True, timeout=LONGEST_STEP, check=False
        )
        if not report.exists():
            raise RuntimeError(f"pytest: {(done.stdout + done.stderr)[-1500:]}")
        suite = next(iter(ET.parse(report).getroot().iter("testsuite")))
    failed = {}
    for case in suite.iter("testcase"):
        for kind in ("failure", "error"):
            for problem in case.iter(kind):
                failed[f"{case.get('classname')}::{case.get('name')}"] = (problem.get("message") or "")[:600]
    counts = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    return counts | {"failed": failed}


def ceilings(run):
    """What this GPU reaches in large copies and products: bytes a second, read and written; operations a second."""
    import torch
    from device_time import Timed, spread

    side = 64 if run.dry else 8192
    source = torch.randn(side, side * 4, device=run.device)
    target = torch.empty_like(source)
    copy = Timed(lambda: target.copy_(source))
    left, right = (torch.randn(side, side, device=run.device) for _ in range(2))
    products = {}
    for name, allowed in (("float32", False), ("tf32", True)):
        torch.backends.cuda.matmul.allow_tf32 = allowed
        product = Timed(lambda: left @ right)
        for _ in range(3):
            product.round()
        products[f"{name}_flop_per_s"] = 2 * side**3 / (spread(product.seconds)["median"] / 1e6)
    torch.backends.cuda.matmul.allow_tf32 = False
    for _ in range(5):
        copy.round()
    seconds = spread(copy.seconds)["median"] / 1e6
    return {"copy_bytes_per_s": 2 * source.numel() * 4 / seconds, **products}


def errors(run):
    """Largest error of the map against float64: every metric, order and kind of input, of the kernels as they run."""
    import torch

    from cdam_fast import cdam_attention, testing

    grid = run.grid((28, 28))
    odd = run.grid((13, 17))
    cases = []
    for spread in (0.003, 0.01, 0.02, 0.03, 0.035, 0.05, 0.1, 0.3, 1.0):
        cases += (
            (f"clip-like spread {spread} C={classes}", partial(like, classes, grid, spread), {})
            for classes in (161, 101, 5, 2)
        )
    for metric in ("js", "kl", "wasserstein"):
        for order in ("official", "paper"):
            options = {"metric": metric, "order": order}
            cases.append((f"{metric} {order}", partial(like, 41, odd, 0.03), options))
            cases.append((f"{metric} {order} peaked", partial(like, 41, odd, 0.5), options))
    cases += ((kind, partial(testing.degenerate, kind, 101, *odd), {}) for kind in testing.DEGENERATE)
    cases.append(("C=1300", partial(like, 1300, odd, 0.03), {}))
    cases.append(("batch 3, bfloat16", lambda: like(41, odd, 0.03, (3,)).bfloat16(), {"out_dtype": torch.float32}))
    cases.append(("float16", lambda: like(161, grid, 0.03).half(), {"out_dtype": torch.float32}))
    rows = []
    for name, make, options in cases[:: 8 if run.dry else 1]:
        similarity = make().to(run.device)
        kernel_options = {key: value for key, value in options.items() if key != "out_dtype"}
        exact = testing.oracle(similarity, device=run.device, **kernel_options)
        row = {"case": name}
        for backend in ("triton", "portable"):
            with poisoned():
                result = cdam_attention(similarity, backend=backend, **options)
            row[backend] = testing.largest_error(result, exact)
        rows.append(row)
    worst = max(rows, key=lambda row: row["triton"])
    on_cpu = testing.oracle(like(41, odd, 0.03)).to(run.device)
    oracle_difference = float((testing.oracle(like(41, odd, 0.03), device=run.device) - on_cpu).abs().max())
    return {
        "budget": testing.MAP_BUDGET,
        "over": [row["case"] for row in rows if not row["triton"] <= testing.MAP_BUDGET],
        "worst": worst,
        "float64_on_the_device_and_on_the_cpu_differ_by": oracle_difference,
        "rows": rows,
    }


def like(classes, grid, spread, batch=(), seed=0):
    from cdam_fast.testing import clip_like

    return clip_like(classes, *grid, batch=batch, spread=spread, seed=seed)


@contextlib.contextmanager
def poisoned():
    """New memory is NaN, so that an element nobody wrote shows."""
    import torch

    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def latency(run, classes, grid, batch, compile_too):
    """Every backend on the same input, checked, then timed in turns."""
    import torch
    from device_time import FLUSHED, Timed

    from cdam_fast import cdam_attention, compat, graphed, reference, testing
    from cdam_fast.evaluation.measure import available_memory, peak_memory

    grid, batch = run.grid(grid), min(batch, 2) if run.dry else batch
    similarity = like(classes, grid, 0.03, (batch,)).to(run.device)
    ends = [0, batch - 1] if batch > 1 else [0]
    exact = testing.oracle(similarity[ends], device=run.device)
    eager_bytes = 3 * batch * (grid[0] * grid[1]) ** 2 * classes * 4
    together = eager_bytes < available_memory(run.device)

    def one_at_a_time(function):
        return function if together else lambda images: torch.cat([function(image[None]) for image in images])

    torch._dynamo.reset()
    backends = {"eager": lambda: partial(one_at_a_time(reference.cdam_attention), similarity)}
    if compile_too:
        compiled = compat.compiled(reference.cdam_attention, dynamic=False, **run.compiler)
        backends["torch.compile"] = lambda: partial(one_at_a_time(compiled), similarity)
    backends["portable"] = lambda: partial(cdam_attention, similarity, backend="portable")
    backends["triton"] = lambda: partial(cdam_attention, similarity, backend="triton")
    backends["triton, graphed"] = lambda: partial(graphed(similarity), similarity)
    rows, timed = {}, {}
    flush = torch.empty(1024 if run.dry else FLUSHED, dtype=torch.int8, device=run.device)
    with torch.no_grad():
        for name, make in backends.items():
            rows[name] = row = {}
            try:
                begin = time.perf_counter()
                call = make()
                with poisoned() if name.startswith("triton") else contextlib.nullcontext():
                    result = call()
                torch.cuda.synchronize()
                row["first_call_s"] = time.perf_counter() - begin
                row["error"] = testing.largest_error(result[ends], exact)
                budget = testing.map_budget(eager=name in ("eager", "torch.compile"))
                if not row["error"] <= budget:
                    row["status"] = f"wrong: over {budget:.0e}, not timed"
                    continue
                row["memory_bytes"] = peak_memory(call, run.device)[0]
                timed[name] = Timed(call)
                row["status"] = "ok"
            except (RuntimeError, OSError) as error:
                row["status"] = f"failed: {type(error).__name__}: {str(error)[:300]}"
        for turn in range(ROUNDS):
            for one in timed.values():
                if turn < 3 or one.estimate * one.calls * turn < SECONDS_PER_BACKEND:
                    one.round(flush)
    for name, one in timed.items():
        rows[name] |= one.summary()
    medians = {name: one.summary()["device_us"]["median"] for name, one in timed.items()}
    for name in rows:
        rows[name]["over"] = {rival: medians[rival] / medians[name] for rival in medians if name in medians}
    return {"classes": classes, "grid": list(grid), "batch": batch, "eager_in_one": together, "backends": rows}


def host(run):
    from cdam_fast.evaluation.host import HostReport, run_host

    report = HostReport({})
    run_host(report, run.device, run.grid((28, 28)), lambda step: None)
    return report.as_json()


def stages(run):
    """Microseconds of each kernel, by PyTorch's profiler, beside the floors of `cdam-fast kernels` for this GPU."""
    import torch

    from cdam_fast import cdam_attention
    from cdam_fast.evaluation.ahead import compiler, floors, gpus

    measured = {}
    for classes, grid, spread in ((161, (28, 28), 0.03), (161, (28, 28), 0.3), (284, (37, 37), 0.03)):
        similarity = like(classes, run.grid(grid), spread).to(run.device)
        cdam_attention(similarity, backend="triton")
        activity = torch.profiler.ProfilerActivity.CPU if run.dry else torch.profiler.ProfilerActivity.CUDA
        with torch.profiler.profile(activities=[activity]) as profile:
            for _ in range(1 if run.dry else 50):
                cdam_attention(similarity, backend="triton")
            torch.cuda.synchronize()
        found = {}
        for event in profile.events():
            if "_kernel" in event.name and "at::" not in event.name:
                seconds = getattr(event, "device_time", 0.0)
                found.setdefault(event.name, []).append(float(seconds))
        name = f"C={classes} {grid[0]}x{grid[1]} spread {spread}"
        measured[name] = {kernel: sorted(times)[len(times) // 2] for kernel, times in found.items()}
    result = {"measured_us": measured}
    if not run.dry:
        major, minor = torch.cuda.get_device_capability(0)
        target = f"sm_{major}{minor}"
        names = [gpu.name for gpu in gpus.gpus_of(target)]
        own = next((name for name in names if name in torch.cuda.get_device_name(0)), None)
        compiled = compiler.compile_shipped([target], lambda step: None)
        result["spilled"] = {one.name: one.spill_bytes for one in compiled if getattr(one, "spill_bytes", 0)}
        result["floors_us"] = [
            {"shape": floor.shape, "path": floor.path}
            | {stage: 1e6 * getattr(floor, stage).seconds for stage in ("distributions", "divergence", "attention")}
            for floor in floors.all_floors(compiled)
            if floor.gpu == own
        ]
    return result


def tune(run):
    from cdam_fast.evaluation.tune import TuneReport, run_tune

    report = TuneReport({})
    run_tune(like(161, run.grid((28, 28)), 0.03, (1,)).to(run.device), report, lambda step: None)
    return report.as_json()


NCU_SCRIPT = """
import torch, cdam_fast
from cdam_fast.testing import clip_like
similarity = clip_like(161, 28, 28).cuda()
for _ in range(3):
    cdam_fast.cdam_attention(similarity, backend="triton")
torch.cuda.synchronize()
"""


def counters(run):
    """What Nsight Compute counts in each kernel of one map."""
    if shutil.which("ncu") is None:
        return {"note": "no ncu"}
    command = ["ncu", "--csv", "--clock-control", "none", "--metrics", ",".join(NCU_METRICS)]
    command += ["--kernel-name", "regex:(distributions|divergence|attention)_kernel", "--launch-skip", "3"]
    done = subprocess.run(
        [*command, "--launch-count", "3", sys.executable, "-c", NCU_SCRIPT],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LONGEST_STEP,
        check=False,
    )
    found = {}
    lines = [line for line in done.stdout.splitlines() if line.startswith('"')]
    if not lines:
        raise RuntimeError(f"ncu: {(done.stdout + done.stderr)[-800:]}")
    import csv

    for row in csv.DictReader(lines):
        found.setdefault(row["Kernel Name"], {})[row["Metric Name"]] = f"{row['Metric Value']} {row['Metric Unit']}"
    return found


def steps_of(compile_too):
    """Name and work of each step, the most telling first."""
    shapes = [(name, (28, 28), 1) for name in LISTS]
    shapes += [("COCO-Object", (28, 28), batch) for batch in (8, 64)]
    shapes += [("COCO-Object", grid, batch) for batch in BATCHES for grid in GRIDS[1:]]
    shapes += [(name, grid, batch) for grid in GRIDS for batch in BATCHES for name in list(LISTS)[1:]]
    yield "environment", environment
    yield "errors", errors
    for index, (name, grid, batch) in enumerate(dict.fromkeys(shapes)):
        compiled = compile_too == "all" or (compile_too == "first" and index < len(LISTS))
        work = partial(latency, classes=LISTS[name], grid=grid, batch=batch, compile_too=compiled)
        yield f"latency {name} {grid[0]}x{grid[1]} batch {batch}", work
        if index == 0:
            yield "stages", stages
            yield "host", host
            yield "tests", lambda run: pytest_of(run, "-k", "not sanitizer")
            yield "counters", counters
            yield "ceilings", ceilings
        if index == len(LISTS) + 1:
            yield "tune", tune
    yield "sanitizer", lambda run: pytest_of(run, "-k", "sanitizer")


# --- Running them -------------------------------------------------------------------------------------------------


class Run:
    """Where the steps run."""

    def __init__(self, dry):
        import importlib.util

        import torch

        self.dry = dry
        self.device = torch.device("cpu" if dry else "cuda:0")
        self.compiler = {"backend": "eager"} if dry else {}
        self.has_xdist = importlib.util.find_spec("xdist") is not None

    def grid(self, grid):
        return (4, 4) if self.dry else grid


class Event:
    """Stands in for CUDA's, by the host's clock."""

    def __init__(self, enable_timing=False):
        self.at = 0.0

    def record(self):
        self.at = time.perf_counter()

    def elapsed_time(self, stop):
        return 1e3 * (stop.at - self.at)

    def query(self):
        return False


class Graph:
    """Stands in for CUDA's: what was computed while it was recorded stays."""

    def replay(self):
        """Nothing changes in a dry run."""


def no_context(*arguments, **options):
    return contextlib.nullcontext()


@contextlib.contextmanager
def stand_ins():
    """CUDA's clock and graphs on a CPU."""
    import torch

    from cdam_fast import graphs

    nothing = {"synchronize": None, "_sleep": None, "clock_rate": 0}
    with contextlib.ExitStack() as stack:
        for name, value in nothing.items():
            patch = mock.patch.object(torch.cuda, name, lambda *arguments, value=value: value)
            stack.enter_context(patch)
        stack.enter_context(mock.patch.object(torch.cuda, "Event", Event))
        stack.enter_context(mock.patch.object(torch.cuda, "CUDAGraph", Graph))
        stack.enter_context(mock.patch.object(torch.cuda, "graph", no_context))
        stack.enter_context(mock.patch.object(torch.cuda, "device", no_context))
        stack.enter_context(mock.patch.object(graphs, "GRAPH_DEVICES", ("cpu",)))
        yield


def too_long(number, frame):
    raise TimeoutError(f"took over {LONGEST_STEP} s")


def write(path, content):
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")
    temporary.replace(path)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, help="where the results go; what is done there is kept")
    parser.add_argument("--steps", default="", help="only steps that begin with one of these, separated by commas")
    parser.add_argument("--compile", choices=("all", "first", "none"), default="all", help="for which latencies")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no step later (default: no limit)")
    parser.add_argument("--dry-run", action="store_true", help="every line on a CPU, at 4 x 4 patches")
    parsed = parser.parse_args(arguments)
    if parsed.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"
    import torch

    if not parsed.dry_run and not torch.cuda.is_available():
        parser.error("no GPU; --dry-run goes through the steps without one")
    content = json.loads(parsed.json.read_text()) if parsed.json.exists() else {"dry_run": parsed.dry_run, "steps": {}}
    if content["dry_run"] != parsed.dry_run:
        parser.error(f"--json: {parsed.json} is of a run with{'out' * (not content['dry_run'])} --dry-run")
    begin = time.monotonic()
    run = Run(parsed.dry_run)
    prefixes = tuple(parsed.steps.split(","))
    chosen = [(name, work) for name, work in steps_of(parsed.compile) if name.startswith(prefixes)]
    signal.signal(signal.SIGALRM, too_long)
    with stand_ins() if parsed.dry_run else contextlib.nullcontext():
        for number, (name, work) in enumerate(chosen, 1):
            if content["steps"].get(name, {}).get("status") == "done" and name != "environment":
                continue
            if time.monotonic() - begin > 60 * parsed.minutes:
                print(f"{parsed.minutes:g} minutes are over: {len(chosen) - number + 1} steps left", flush=True)  # noqa: T201
                break
            step = {"date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")}
            started = time.monotonic()
            signal.alarm(LONGEST_STEP)
            try:
                step["result"] = work(run)
                step["status"] = "done"
            except Exception as error:  # a step that fails leaves the others their time
                step["status"] = f"failed: {type(error).__name__}: {str(error)[:1500]}"
            finally:
                signal.alarm(0)
            step["seconds"] = round(time.monotonic() - started, 1)
            content["steps"][name] = step
            write(parsed.json, content)
            print(f"[{number}/{len(chosen)}] {name}: {step['status'][:300]}, {step['seconds']} s", flush=True)  # noqa: T201
    return 1 if any(step["status"] != "done" for step in content["steps"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
