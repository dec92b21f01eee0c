"""The command line: ``cdam-fast segment``, ``map``, ``bench`` and ``kernels``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from typing import NoReturn

from cdam_fast import __version__
from cdam_fast.evaluation.commands import add_commands, run


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line instead of the usage and the message."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="cdam-fast", description="CDAM: CLIP's attention by class distributions, exact and fast.")
    parser.add_argument("--version", action="version", version=f"cdam-fast {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_commands(commands)
    bench = commands.add_parser(
        "bench",
        help="compute the map of a photograph with every backend, check it against float64 and time it",
        description="Compute the attention map of a photograph with every backend that runs here, check each "
        "against float64, and print milliseconds per image, ratios, memory and error.",
    )
    bench.add_argument("--image", metavar="PATH", help="photograph (default: scikit-image's astronaut)")
    bench.add_argument(
        "--pretrained", metavar="NAME|PATH", help="weights of ViT-B-16 (default: random ones of a fixed seed)"
    )
    bench.add_argument(
        "--classes",
        default="VOC21,Context60,COCO-Object",
        metavar="LIST",
        help="class lists, each plus the 80 augmented prompts, or numbers of prompts in all (default: %(default)s)",
    )
    bench.add_argument("--grid", default="28", metavar="N|HxW", help="patch grid (default: %(default)s, 448x448)")
    bench.add_argument("--batch", type=int, default=1, metavar="B", help="images in one call (default: %(default)s)")
    bench.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: %(default)s)")
    bench.add_argument(
        "--runs", type=int, default=30, metavar="R", help="timed calls of a backend, at most (default: %(default)s)"
    )
    bench.add_argument(
        "--compile",
        choices=("largest", "all", "none"),
        default="largest",
        help="class lists for which torch.compile of the eager code is measured too (default: %(default)s)",
    )
    bench.add_argument(
        "--end-to-end",
        action="store_true",
        help="time the whole way from pixels to labels: every base method, and what each part of CDAM adds",
    )
    bench.add_argument("--json", metavar="FILE", help="write everything measured as JSON")
    bench.add_argument("--plot", metavar="FILE.png", help="draw a chart")
    kernels = commands.add_parser(
        "kernels",
        help="compile the GPU kernels, without a GPU, and print what they cost",
        description="Compile every shipped configuration of the Triton kernels for GPUs that need not be there, and "
        "print registers, spills, shared memory, the loops' instructions, and floors: the least time that each stage "
        "can take on a GPU, computed from those counts. The exit status is 1 where one fails to compile or spills.",
    )
    kernels.add_argument(
        "--target",
        default="sm_80,sm_86,sm_90,sm_100,sm_120,gfx942",
        metavar="LIST",
        help="what to compile for (default: %(default)s)",
    )
    kernels.add_argument("--json", metavar="FILE", help="write everything found as JSON")
    tune = commands.add_parser(
        "tune",
        help="check and time other configurations of the kernels on this machine's GPU",
        description="Check, then time other configurations of the kernels than the shipped ones. Nothing is kept, and "
        "nothing is ever tuned without this command.",
    )
    tune.add_argument("--device", default="cuda", help="a GPU (default: %(default)s)")
    tune.add_argument("--grid", default="28", metavar="N|HxW", help="patch grid (default: %(default)s)")
    tune.add_argument("--classes", type=int, default=161, metavar="C", help="prompts in all (default: %(default)s)")
    tune.add_argument("--batch", type=int, default=1, metavar="B", help="images in one call (default: %(default)s)")
    tune.add_argument("--json", metavar="FILE", help="write every trial as JSON")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    The exit status: 0; 1 where a backend was wrong, a photograph failed or a kernel is not fit to ship; 2 for bad
    input; 130 interrupted.
    """
    parsed = _parser().parse_args(arguments)
    from cdam_fast.evaluation.errors import UsageError

    try:
        own = {"bench": _bench, "kernels": _kernels, "tune": _tune}
        return own.get(parsed.command, run)(parsed)
    except UsageError as error:
        print(f"cdam-fast {parsed.command}: error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except KeyboardInterrupt:
        return 130


def _bench(parsed: argparse.Namespace) -> int:
    from rich.console import Console

    from cdam_fast.evaluation import bench, end_to_end, inputs, report
    from cdam_fast.evaluation.errors import UsageError

    for option in ("batch", "runs"):
        if getattr(parsed, option) < 1:
            raise UsageError(f"--{option}: got {getattr(parsed, option)}, takes a whole number from 1")
    for option in ("json", "plot"):
        if getattr(parsed, option) is not None:
            report.check_writable(f"--{option}", getattr(parsed, option))
    options = bench.BenchOptions(
        class_lists=inputs.parse_class_lists(parsed.classes),
        device=bench.parse_device(parsed.device),
        image=parsed.image,
        pretrained=parsed.pretrained,
        grid=inputs.parse_grid(parsed.grid),
        batch=parsed.batch,
        runs=parsed.runs,
        compile=parsed.compile,
    )
    if parsed.end_to_end and parsed.plot is not None:
        raise UsageError("--plot: draws no --end-to-end; takes the bench of the map alone")
    environment = bench.describe_environment(options)
    measured: bench.Report | end_to_end.EndToEndReport
    if parsed.end_to_end:
        measured = end_to_end.EndToEndReport(environment)
        work = partial(end_to_end.run_end_to_end, options, measured)
    else:
        measured = bench.Report(environment)
        work = partial(bench.run_bench, options, measured)
    progress = Console(stderr=True)
    try:
        if progress.is_terminal:
            with progress.status("starting") as status:
                work(status.update)
        else:
            work(lambda step: print(step, file=sys.stderr))  # noqa: T201
    except KeyboardInterrupt:
        measured.interrupted = True
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    if isinstance(measured, bench.Report):
        console.print(report.table(measured))
    else:
        console.print(report.end_to_end_table(measured))
    for note in report.notes(measured):
        console.print(note, highlight=False, markup=False)
    if parsed.json is not None:
        report.write_json(measured.as_json(), parsed.json)
    if parsed.plot is not None and isinstance(measured, bench.Report):
        report.write_plot(measured, parsed.plot)
    if measured.interrupted:
        return 130
    return 1 if any(row.status == "wrong" for row in measured.rows) else 0


def _tune(parsed: argparse.Namespace) -> int:
    from rich.console import Console

    from cdam_fast.evaluation import bench, inputs, report, tune
    from cdam_fast.evaluation.errors import UsageError
    from cdam_fast.testing import clip_like

    for option in ("batch", "classes"):
        if getattr(parsed, option) < 1:
            raise UsageError(f"--{option}: got {getattr(parsed, option)}, takes a whole number from 1")
    if parsed.json is not None:
        report.check_writable("--json", parsed.json)
    device, grid = bench.parse_device(parsed.device), inputs.parse_grid(parsed.grid)
    if device.type != "cuda":
        raise UsageError(f"--device: got {parsed.device!r}, takes a GPU: there is nothing to time elsewhere")
    options = bench.BenchOptions(class_lists=[], device=device, grid=grid, batch=parsed.batch)
    measured = tune.TuneReport(bench.describe_environment(options) | {"classes": parsed.classes})
    similarity = clip_like(parsed.classes, *grid, batch=(parsed.batch,)).to(device)
    try:
        tune.run_tune(similarity, measured, lambda step: print(step, file=sys.stderr))  # noqa: T201
    finally:  # an interrupt keeps the trials that are done
        Console().print(tune.table(measured))
        if parsed.json is not None:
            report.write_json(measured.as_json(), parsed.json)
    return 0


def _kernels(parsed: argparse.Namespace) -> int:
    from rich.console import Console

    from cdam_fast.evaluation.ahead import compiler, floors, report
    from cdam_fast.evaluation.report import check_writable, write_json

    targets = compiler.parse_targets(parsed.target)
    if parsed.json is not None:
        check_writable("--json", parsed.json)
    results = compiler.compile_shipped(targets, lambda step: print(step, file=sys.stderr))  # noqa: T201
    found = floors.all_floors(results)
    console = Console()
    if not console.is_terminal:
        console = Console(width=150)
    console.print(report.kernel_table(results))
    if found:
        console.print(report.floor_table(found))
    for note in report.notes(results):
        console.print(note, highlight=False, markup=False)
    if parsed.json is not None:
        write_json(report.as_json(results, found), parsed.json)
    return 1 if any(map(report.failed, results)) else 0
