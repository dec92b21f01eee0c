"""``cdam-fast bench``: its options, and what it prints."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from cdam_fast.commands.devices import add_device
from cdam_fast.commands.streams import say, show, tell
from cdam_fast.errors import UsageError, require_matplotlib

_DEFAULTS: dict[str, Any] = {
    "classes": "VOC21,Context60,COCO-Object",
    "grid": "28",
    "batch": 1,
    "device": "auto",
    "runs": 30,
    "compile": "largest",
}
"""Of ``bench``, filled in late: what is given beside ``--from`` is refused."""


def add_command(commands: Any) -> None:
    """Add it to argparse's."""
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


def _bench(parsed: argparse.Namespace) -> int:
    if parsed.from_files is not None:
        return _tables(parsed)
    from cdam_fast.commands import devices, photos
    from cdam_fast.commands.progress import estimated
    from cdam_fast.measuring import bench, durations, end_to_end, inputs, report

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
    from cdam_fast.measuring import markdown

    for option in (*_DEFAULTS, "image", "pretrained", "end_to_end", "host", "json", "plot"):
        if getattr(parsed, option) not in (None, False):
            raise UsageError(f"--{option.replace('_', '-')}: takes no --from as well, which measures nothing")
    for line in markdown.tables(parsed.from_files):
        say(line)
    return 0


def _host(environment: dict[str, Any], options: Any, path: str | None) -> int:
    from cdam_fast.commands.progress import counted
    from cdam_fast.measuring import host, report

    measured = host.HostReport(environment)
    with counted(host.STEPS, "timing") as on_step:
        host.run_host(measured, options.device, options.grid, on_step)
    show(host.table(measured))
    if measured.note:
        say(measured.note)
    if path is not None:
        report.write_json(measured.as_json(), path)
    return 0
