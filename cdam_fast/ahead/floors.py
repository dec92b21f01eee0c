"""The least time of each stage of the map, from the counts of the compiled loops and how often each runs.

What runs once per program (addresses, reductions, stores) is left out, and so is what starting a launch costs. Branches
inside a loop count as taken: seldom-used parts of float64 functions, and the attention's scale that needs no resize, of
which one whole iteration is left out instead. On sm_100 the opcodes of matrix instructions do not tell their size, so
that pipe never limits there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from cdam_fast.ahead.compiler import Compiled
from cdam_fast.ahead.gpus import Floor, Work, floor_time, gpus_of, loop_work
from cdam_fast.ahead.listing import Loop
from cdam_fast.constants import SCALES

Shape = tuple[int, int, int]  # classes, height, width

SHAPES: tuple[Shape, ...] = ((101, 28, 28), (140, 28, 28), (161, 28, 28), (284, 37, 37), (284, 64, 64))
"""VOC21, Context60 and COCO-Object with the augmented prompts, and the two larger grids."""

PATHS = {
    "js by features": ("js", "_js_by_features"),
    "js by wide features": ("js", "_js_by_features"),
    "js by logarithms": ("js", "_js_by_logarithms"),
    "js by definition": ("js", "_js_by_definition"),
    "kl": ("kl", "_kl"),
    "wasserstein": ("wasserstein", "_wasserstein"),
}
"""Name of each way to a divergence: metric, and the kernel's function with its loops."""

OTHER_METRICS_SHAPE = (161, 28, 28)


class StageFloors(NamedTuple):
    """Floors of one image on one GPU."""

    gpu: str
    target: str
    shape: Shape
    path: str
    distributions: Floor
    divergence: Floor
    attention: Floor

    @property
    def seconds(self) -> float:
        """Of the three launches, one after the other."""
        return self.distributions.seconds + self.divergence.seconds + self.attention.seconds


def loop_range(loop: Loop, names: Mapping[str, Any]) -> range:
    """The range that a loop goes over, its names replaced by numbers, and the kernels' own constants by theirs."""
    from cdam_fast.kernels import divergence, js_by_logarithms

    constants = {**vars(divergence), **vars(js_by_logarithms)}
    values = {name: getattr(value, "value", None) for name, value in constants.items()} | dict(names)
    found = eval(loop.range.removeprefix("tl."), {"__builtins__": {}, "range": range}, values)
    assert isinstance(found, range)
    return found


def pair_classes(compiled: Compiled, loop: Loop, warp: int) -> float | None:
    """Pair-classes of one thread in one iteration of a divergence's loop over classes; None for any other loop."""
    constants = compiled.constants or {}
    if loop.function not in {function for _, function in PATHS.values()} or "classes" not in loop.range:
        return None
    step = loop_range(loop, constants | {"classes": 1, "padded_classes": 1}).step
    return float(constants["BLOCK"] ** 2 * step / (warp * compiled.num_warps))


def all_floors(results: Sequence[Compiled]) -> list[StageFloors]:
    """Floors of all shapes and paths on every GPU of the targets for which everything compiled."""
    floors: list[StageFloors] = []
    for target in dict.fromkeys(result.target for result in results):
        compiled = {result.name: result for result in results if result.target == target}
        if all(result.status == "compiled" for result in compiled.values()):
            floors += _target_floors(compiled, target)
    return floors


def _target_floors(compiled: Mapping[str, Compiled], target: str) -> Iterator[StageFloors]:
    for gpu in gpus_of(target):
        for shape in SHAPES:
            for path, (metric, _) in PATHS.items():
                if metric == "js" or shape == OTHER_METRICS_SHAPE:
                    work = _stage_work(compiled, shape, path, gpu.warp)
                    yield StageFloors(gpu.name, target, shape, path, *(floor_time(gpu, stage) for stage in work))


def _stage_work(compiled: Mapping[str, Compiled], shape: Shape, path: str, warp: int) -> tuple[Work, Work, Work]:
    from cdam_fast.kernels.plan import map_plan
    from cdam_fast.kernels.stages import CLASS_MULTIPLE

    metric, function = PATHS[path]
    classes, height, width = shape
    grids = tuple((int(height * scale), int(width * scale)) for scale in SCALES)
    plan = map_plan((height, width), grids, metric != "kl", None, torch.device("cpu"))
    padded = -(-classes // CLASS_MULTIPLE) * CLASS_MULTIPLE
    names = {"classes": classes, "padded_classes": padded, "n_scales": len(SCALES)}
    planes = 4.0 * padded * plan.rows * (2 if metric == "kl" else 1)
    pairs = 4.0 * plan.pairs

    launch = compiled[f"distributions {metric}"]
    distributions = Work(streamed=4.0 * classes * height * width, passed_on=planes)
    distributions += _loops_work(launch, "distributions_kernel", len(plan.blocks), names, warp)

    launch = compiled[f"divergence {metric}"]
    divergence = Work(passed_on=planes + pairs)
    loops = [loop for loop in launch.loops if loop.function == function]
    if function == "_js_by_features":  # compiled for both sets of features: the wide one has more of them
        loops.sort(key=lambda loop: loop.instructions)
        loops = loops[-1:] if "wide" in path else loops[:1]
    divergence += _loops_work(launch, function, len(plan.tiles), names, warp, loops)

    patches = height * width
    launch = compiled[f"attention N={patches}"]
    attention = Work(streamed=4.0 * patches**2, passed_on=pairs)
    programs = -(-patches // (launch.constants or {})["BLOCK_ROWS"])
    # A scale as large as the map is not resized, and left out as a whole.
    for grid in grids:
        if grid != (height, width):
            once = names | {"n_scales": 1, "count": grid[0] * grid[1]}
            attention += _loops_work(launch, "attention_kernel", programs, once, warp)
    return distributions, divergence, attention


def _loops_work(
    compiled: Compiled,
    function: str,
    programs: int,
    names: Mapping[str, Any],
    warp: int,
    loops: Sequence[Loop] | None = None,
) -> Work:
    """Work of the loops of one function of a kernel, each inside the one before it where it is nested deeper."""
    if loops is None:
        loops = [loop for loop in compiled.loops if loop.function == function]
    if not loops:
        raise LookupError(f"{compiled.name} for {compiled.target}: no loop of {function} in the listing")
    values = {**(compiled.constants or {}), **names}
    total = Work()
    for loop in loops:
        around = [other for other in loops if other.depth < loop.depth]
        iterations = programs * compiled.num_warps
        for each in (*around, loop):
            iterations *= len(loop_range(each, values))
        total += loop_work(loop, iterations, warp)
    return total
