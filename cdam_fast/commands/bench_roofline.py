"""``cdam-fast bench --roofline``: what each stage reaches of what the machine can do."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from cdam_fast.commands.bench_options import one_number, value
from cdam_fast.commands.streams import say, show, tell
from cdam_fast.errors import UsageError

TAKES = ("grid", "classes", "device", "json")

if TYPE_CHECKING:
    import torch

_CLASSES = "161"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the option that chooses it."""
    parser.add_argument(
        "--roofline",
        action="store_true",
        help="time each stage of the map, at --grid and --classes (a number), beside a matrix product of its shape or "
        "a copy of its bytes; on a GPU beside the kernels' floors; needs no model",
    )


def run(parsed: argparse.Namespace) -> int:
    """Measure, print the table, write the JSON."""
    from cdam_fast.commands import devices
    from cdam_fast.commands.progress import counted
    from cdam_fast.measuring import bench, inputs, report, roofline

    classes = one_number("--classes", _CLASSES if parsed.classes is None else parsed.classes, "--roofline")
    grid = inputs.parse_grid(value(parsed, "grid"))
    if parsed.json is not None:
        report.check_writable("--json", parsed.json)
    device = devices.parse_device(value(parsed, "device"))
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device: got {device}, takes cpu or cuda with --roofline")
    tell(devices.describe_device(device, grid[0] * grid[1]))
    environment = bench.describe_environment(bench.BenchOptions(class_lists=[], device=device, grid=grid))
    measured = roofline.RooflineReport(environment | {"classes": classes, "input": "cdam_fast.testing.clip_like"})
    with counted(roofline.ROUNDS + 1, "timing") as on_step:
        if device.type == "cpu":
            roofline.run_cpu(measured, classes, grid, on_step)
        else:
            roofline.run_gpu(measured, classes, grid, device, _floors((classes, *grid), device, on_step))
    show(roofline.table(measured), width=140)
    for note in roofline.notes(measured):
        say(note)
    if parsed.json is not None:
        report.write_json(measured.as_json(), parsed.json)
    return 0


def _floors(
    shape: tuple[int, int, int], device: torch.device, on_step: Callable[[str], None]
) -> dict[str, list[tuple[float, str]]]:
    """By stage, of every way to JS on this GPU; empty where nobody knows its rates, or for other shapes."""
    import torch

    from cdam_fast.ahead import compiler, floors, gpus
    from cdam_fast.measuring.roofline import KERNEL_STAGES

    target = "sm_{}{}".format(*torch.cuda.get_device_capability(device))
    name = torch.cuda.get_device_name(device)
    product = next((gpu.name for gpu in gpus.gpus_of(target) if gpu.name in name), None)
    if product is None or shape not in floors.SHAPES:
        tell(f"no floors of {name} for C = {shape[0]} on {shape[1]}x{shape[2]} patches")
        return {}
    found = floors.all_floors(compiler.compile_shipped((target,), on_step))
    own = [each for each in found if each.gpu == product and each.shape == shape and each.path.startswith("js")]
    return {stage: [tuple(getattr(each, stage)) for each in own] for stage in KERNEL_STAGES}
