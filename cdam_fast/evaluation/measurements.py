"""``cdam-fast bench``, ``kernels``, ``tune`` and ``env``: their options, and what they print."""

from __future__ import annotations

import argparse
import os
from functools import partial
from typing import Any

from cdam_fast.evaluation import explaining
from cdam_fast.evaluation.commands import add_device
from cdam_fast.evaluation.errors import UsageError, require_matplotlib
from cdam_fast.evaluation.streams import say, show, tell

_TARGETS = "sm_80,sm_86,sm_90,sm_100,sm_120,gfx942"

_DEFAULTS: dict[str, Any] = {
    "classes": "VOC21,Context60,COCO-Object",
    "grid": "28",
    "batch": 1,
    "device": "auto",
    "runs": 30,
    "compile": "largest",
}
"""Of ``bench``, filled in late: what is given beside ``--from`` is refused."""

_SECONDS_PER_TARGET = 30
"""Of ``kernels`` on one core of 2023; a target's kernels are compiled side by side."""


def add_commands(commands: Any) -> None:
    """Add the four commands to argparse's."""
    bench = commands.add_parser(
        "bench",
        help="compute the map of a photograph with every backend, check it against float64 and time it",
        description="Compute the attention map of a photograph with every backend that runs here, check each "
        "against float64, and print milliseconds per image, ratios, memory and error.",
    )
    bench.add_argument("--image", metavar="PATH", help="photograph (default: an astronaut, from the package)")
    bench.add_argument(
        "--pretrained", metavar="NAME|PATH", help="weights of ViT-B-16 (default: random ones of a fixed seed)"
    )
    bench.add_argument(
        "--classes",
        metavar="LIST",
        help="class lists, each plus the 80 augmented prompts, or numbers of prompts in all "
        f"(default: {_DEFAULTS['classes']})",
    )
    bench.add_argument("--grid", metavar="N|HxW", help=f"patch grid (default: {_DEFAULTS['grid']}, 448x448)")
    bench.add_argument("--batch", type=int, metavar="B", help=f"images in one call (default: {_DEFAULTS['batch']})")
    add_device(bench, default=None)
    bench.add_argument(
        "--runs", type=int, metavar="R", help=f"timed calls of a backend, at most (default: {_DEFAULTS['runs']})"
    )
    bench.add_argument(
        "--compile",
        choices=("largest", "all", "none"),
        help=f"class lists for which torch.compile of the eager code is measured too (default: {_DEFAULTS['compile']})",
    )
    bench.add_argument(
        "--end-to-end",
        action="store_true",
        help="time the whole way from pixels to labels: every base method, and what each part of CDAM adds",
    )
    bench.add_argument(
        "--host",
        action="store_true",
        help="time what a call of the Triton backend does on the host, with nothing launched; needs no GPU",
    )
    bench.add_argument("--json", metavar="FILE", help="write everything measured as JSON")
    bench.add_argument("--plot", metavar="FILE.png", help="draw a chart; needs matplotlib")
    bench.add_argument(
        "--from",
        dest="from_files",
        nargs="+",
        metavar="JSON",
        help="measure nothing: print the tables of such files, and of those of benchmarks/gpu.py, as Markdown",
    )
    bench.set_defaults(run=_bench)
    kernels = commands.add_parser(
        "kernels",
        help="compile the GPU kernels, without a GPU, and print what they cost",
        description="Compile every shipped configuration of the Triton kernels for GPUs that need not be there, and "
        "print registers, spills, shared memory, the loops' instructions, and floors: the least time that each stage "
        "can take on a GPU, computed from those counts. The exit status is 1 where one fails to compile or spills.",
    )
    kernels.add_argument(
        "--target",
        metavar="LIST",
        help=f"what to compile for (default: {_TARGETS})",
    )
    kernels.add_argument("--json", metavar="FILE", help="write everything found as JSON")
    explaining.add_options(kernels)
    kernels.set_defaults(run=_kernels)
    tune = commands.add_parser(
        "tune",
        help="check and time other configurations of the kernels on this machine's GPU",
        description="Check, then time other configurations of the kernels than the shipped ones. Nothing is kept, and "
        "nothing is ever tuned without this command.",
    )
    add_device(tune)
    tune.add_argument("--grid", default="28", metavar="N|HxW", help="patch grid (default: %(default)s)")
    tune.add_argument("--classes", type=int, default=161, metavar="C", help="prompts in all (default: %(default)s)")
    tune.add_argument("--batch", type=int, default=1, metavar="B", help="images in one call (default: %(default)s)")
    tune.add_argument("--json", metavar="FILE", help="write every trial as JSON")
    tune.set_defaults(run=_tune)
    env = commands.add_parser(
        "env",
        help="print versions, devices and backends, and check every backend that serves here",
        description="Print what a report of a fault needs: versions, devices, which backend 'auto' takes here and why, "
        "and a check of every backend against float64. The exit status is 1 where one is wrong.",
    )
    env.set_defaults(run=_env)


def _bench(parsed: argparse.Namespace) -> int:
    if parsed.from_files is not None:
        return _tables(parsed)
    from cdam_fast.evaluation import bench, devices, durations, end_to_end, inputs, photos, report
    from cdam_fast.evaluation.progress import estimated

    for option, default in _DEFAULTS.items():
        if getattr(parsed, option) is None:
            setattr(parsed, option, default)
    for option in ("batch", "runs"):
        if getattr(parsed, option) < 1:
            raise UsageError(f"--{option}: got {getattr(parsed, option)}, takes a whole number from 1")
    other = [option for option in ("end_to_end", "host") if getattr(parsed, option)]
    if len(other) == 2:
        raise UsageError("--host: got --end-to-end too, takes one of them")
    if other and parsed.plot is not None:
        raise UsageError(f"--plot: draws no --{other[0].replace('_', '-')}; takes the bench of the map alone")
    if parsed.plot is not None:
        require_matplotlib("--plot")
    if parsed.image is not None:
        photos.check_photo("--image", parsed.image)
    for option in ("json", "plot"):
        if getattr(parsed, option) is not None:
            report.check_writable(f"--{option}", getattr(parsed, option))
    options = bench.BenchOptions(
        class_lists=inputs.parse_class_lists(parsed.classes),
        device=devices.parse_device(parsed.device),
        image=parsed.image,
        pretrained=parsed.pretrained,
        grid=inputs.parse_grid(parsed.grid),
        batch=parsed.batch,
        runs=parsed.runs,
        compile=parsed.compile,
    )
    tell(devices.describe_device(options.device, options.grid[0] * options.grid[1]))
    environment = bench.describe_environment(options)
    if parsed.host:
        return _host(environment, options, parsed.json)
    measured: bench.Report | end_to_end.EndToEndReport
    if parsed.end_to_end:
        measured = end_to_end.EndToEndReport(environment)
        work = partial(end_to_end.run_end_to_end, options, measured)
    else:
        measured = bench.Report(environment)
        work = partial(bench.run_bench, options, measured)
    try:
        with estimated(durations.of_bench(options, end_to_end=parsed.end_to_end)) as on_step:
            work(on_step)
    except KeyboardInterrupt:
        measured.interrupted = True
    show(report.table(measured) if isinstance(measured, bench.Report) else report.end_to_end_table(measured))
    for note in report.notes(measured):
        say(note)
    if parsed.json is not None:
        report.write_json(measured.as_json(), parsed.json)
    if parsed.plot is not None and isinstance(measured, bench.Report):
        report.write_plot(measured, parsed.plot)
    if measured.interrupted:
        return 130
    return 1 if any(row.status == "wrong" for row in measured.rows) else 0


def _tables(parsed: argparse.Namespace) -> int:
    from cdam_fast.evaluation import markdown

    for option in (*_DEFAULTS, "image", "pretrained", "end_to_end", "host", "json", "plot"):
        if getattr(parsed, option) not in (None, False):
            raise UsageError(f"--{option.replace('_', '-')}: takes no --from as well, which measures nothing")
    for line in markdown.tables(parsed.from_files):
        say(line)
    return 0


def _host(environment: dict[str, Any], options: Any, path: str | None) -> int:
    from cdam_fast.evaluation import host, report
    from cdam_fast.evaluation.progress import counted

    measured = host.HostReport(environment)
    with counted(host.STEPS, "timing") as on_step:
        host.run_host(measured, options.device, options.grid, on_step)
    show(host.table(measured))
    if measured.note:
        say(measured.note)
    if path is not None:
        report.write_json(measured.as_json(), path)
    return 0


def _tune(parsed: argparse.Namespace) -> int:
    from cdam_fast.evaluation import bench, devices, inputs, report, tune
    from cdam_fast.evaluation.progress import counted
    from cdam_fast.testing import clip_like

    for option in ("batch", "classes"):
        if getattr(parsed, option) < 1:
            raise UsageError(f"--{option}: got {getattr(parsed, option)}, takes a whole number from 1")
    if parsed.json is not None:
        report.check_writable("--json", parsed.json)
    device, grid = devices.parse_device(parsed.device), inputs.parse_grid(parsed.grid)
    if device.type != "cuda":
        raise UsageError(f"--device: got {parsed.device!r}, takes a GPU: there is nothing to time elsewhere")
    tell(devices.describe_device(device, grid[0] * grid[1]))
    options = bench.BenchOptions(class_lists=[], device=device, grid=grid, batch=parsed.batch)
    measured = tune.TuneReport(bench.describe_environment(options) | {"classes": parsed.classes})
    similarity = clip_like(parsed.classes, *grid, batch=(parsed.batch,)).to(device)
    tell(f"{tune.count()} trials, a few seconds each: every one is compiled, checked and timed")
    try:
        with counted(tune.count(), "trying") as on_step:
            tune.run_tune(similarity, measured, on_step)
    finally:  # an interrupt keeps the trials that are done
        show(tune.table(measured))
        if parsed.json is not None:
            report.write_json(measured.as_json(), parsed.json)
    return 0


def _kernels(parsed: argparse.Namespace) -> int:
    if parsed.explain:
        return explaining.run(parsed)
    explaining.refuse_options(parsed)
    from cdam_fast.evaluation.ahead import compiler, floors, report
    from cdam_fast.evaluation.progress import estimated
    from cdam_fast.evaluation.report import check_writable, write_json

    targets = compiler.parse_targets(_TARGETS if parsed.target is None else parsed.target)
    if parsed.json is not None:
        check_writable("--json", parsed.json)
    with estimated(_SECONDS_PER_TARGET * len(targets) / min(os.cpu_count() or 1, 8)) as on_step:
        results = compiler.compile_shipped(targets, on_step)
        found = floors.all_floors(results)
    show(report.kernel_table(results), width=150)
    if found:
        show(report.floor_table(found), width=150)
    for note in report.notes(results):
        say(note)
    if parsed.json is not None:
        write_json(report.as_json(results, found), parsed.json)
    return 1 if any(map(report.failed, results)) else 0


def _env(parsed: argparse.Namespace) -> int:
    from cdam_fast.evaluation import env

    return env.run(say)
