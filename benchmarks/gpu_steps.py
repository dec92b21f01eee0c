"""The steps of `gpu.py`: what each measures on a GPU. A step takes a `Run` and returns plain values for JSON."""

import csv
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from functools import partial
from pathlib import Path

import torch
from device_time import Timed, spread
from gpu_maps import BATCHES, FIRST, GRID, GRIDS, LISTS, LONGEST_STEP, errors, latency

from cdam_fast import cdam_attention

ROOT = Path(__file__).resolve().parent.parent
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


def environment(run):
    import triton

    found = {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "processors": os.cpu_count(),
    }
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


def pytest_of(run, options):
    """Of the tests that only a GPU shows: how many passed, failed and were skipped, and what failed how."""
    return run.once(_pytest_of, ("tests/test_gpu.py",) if run.dry else options)


def _pytest_of(run, options):
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


def host(run):
    from cdam_fast.measuring.host import HostReport, run_host

    report = HostReport({})
    run_host(report, run.device, run.grid(GRID), lambda step: None)
    return report.as_json()


def stages(run):
    """Microseconds of each kernel, by PyTorch's profiler."""
    measured = {}
    for classes, grid, width in ((161, GRID, 0.03), (161, GRID, 0.3), (284, (37, 37), 0.03)):
        similarity = run.like(classes, grid, width).to(run.device)
        call = partial(cdam_attention, similarity, backend="triton", **run.options)
        call()
        activity = torch.profiler.ProfilerActivity.CPU if run.dry else torch.profiler.ProfilerActivity.CUDA
        with torch.profiler.profile(activities=[activity]) as profile:
            for _ in range(1 if run.dry else 50):
                call()
            torch.cuda.synchronize()
        found = {}
        for event in profile.events():
            if "_kernel" in event.name and "at::" not in event.name:
                found.setdefault(event.name, []).append(float(getattr(event, "device_time", 0.0)))
        name = f"C={classes} {grid[0]}x{grid[1]} spread {width}"
        measured[name] = {kernel: sorted(times)[len(times) // 2] for kernel, times in found.items()}
    return measured


def floors(run):
    """What `cdam-fast kernels` says of this GPU: the least microseconds of each stage, and what spills."""
    from cdam_fast.ahead import compiler, gpus
    from cdam_fast.ahead.floors import all_floors

    target = "sm_{}{}".format(*torch.cuda.get_device_capability(0))
    own = next((gpu.name for gpu in gpus.gpus_of(target) if gpu.name in torch.cuda.get_device_name(0)), None)
    compiled = compiler.compile_shipped([target], lambda step: None)
    return {
        "not_compiled": {one.name: one.message[:300] for one in compiled if one.status != "compiled"},
        "spilled_bytes": {one.name: one.spilled_bytes for one in compiled if one.spills},
        "floors_us": [
            {"shape": floor.shape, "path": floor.path}
            | {stage: 1e6 * getattr(floor, stage).seconds for stage in ("distributions", "divergence", "attention")}
            for floor in all_floors(compiled)
            if floor.gpu == own
        ],
    }


def tune(run):
    from cdam_fast.measuring.tune import TuneReport, run_tune

    report = TuneReport({})
    run_tune(run.like(161, GRID, 0.03, (1,)).to(run.device), report, lambda step: None)
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
    found = counted(done.stdout)
    if not found:
        raise RuntimeError(f"ncu: {(done.stdout + done.stderr)[-800:]}")
    return found


def counted(printed):
    """Metrics of each kernel from what ncu prints."""
    found = {}
    lines = [line for line in printed.splitlines() if line.startswith('"')]
    for row in csv.DictReader(lines):
        found.setdefault(row["Kernel Name"], {})[row["Metric Name"]] = f"{row['Metric Value']} {row['Metric Unit']}"
    return found


def steps_of(compile_too):
    """Name and work of each step: the most telling first, the longest, of batch 64, last."""

    def latencies(batches, names=tuple(LISTS), grids=GRIDS):
        for batch in batches:
            for grid in grids:
                for name in names:
                    compiled = compile_too == "all" or (compile_too == "first" and (grid, batch) == (GRID, 1))
                    work = partial(latency, classes=LISTS[name], grid=grid, batch=batch, compile_too=compiled)
                    yield f"latency {name} {grid[0]}x{grid[1]} batch {batch}", work

    yield from {
        "environment": environment,
        "errors": errors,
        **dict(latencies((1,), (FIRST,), (GRID,))),
        "stages": stages,
        "host": host,
        **dict(latencies((8,), (FIRST,), (GRID,))),
        "ceilings": ceilings,
        "tests": partial(pytest_of, options=("-k", "not sanitizer")),
        "counters": counters,
        "floors": floors,
        **dict(latencies(BATCHES[:-1])),
        "tune": tune,
        "sanitizer": partial(pytest_of, options=("-k", "sanitizer")),
        **dict(latencies(BATCHES[-1:])),
    }.items()
