"""``cdam-fast kernels --explain``: which path each backend takes for an input, scale by scale."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import math
import os
import sys
from collections.abc import Iterator
from typing import Any

from cdam_fast.commands.messages import named_errors
from cdam_fast.commands.streams import say, tell
from cdam_fast.errors import UsageError

_DEFAULTS = {"classes": "COCO-Object", "grid": "28", "spread": 0.03, "image": None, "pretrained": None}

_INTERPRET = "TRITON_INTERPRET"


def add_options(kernels: argparse.ArgumentParser) -> None:
    """Add ``--explain`` and what goes with it."""
    group = kernels.add_argument_group(
        "explain", "compile nothing: print which path each backend takes for an input, scale by scale, and why"
    )
    group.add_argument(
        "--explain",
        action="store_true",
        help="for --target (default: the device, and sm_90 without a GPU, where the kernels' first stage is "
        "interpreted, which takes up to a minute)",
    )
    group.add_argument(
        "--classes",
        metavar="LIST",
        help="class lists, each plus the 80 augmented prompts, or numbers of prompts in all "
        f"(default: {_DEFAULTS['classes']})",
    )
    group.add_argument("--grid", metavar="N|HxW", help=f"patch grid (default: {_DEFAULTS['grid']})")
    group.add_argument(
        "--spread",
        type=float,
        metavar="S",
        help="standard deviation over patches of a class's cosine similarity, of a random input "
        f"(default: {_DEFAULTS['spread']}, CLIP's)",
    )
    group.add_argument("--image", metavar="PATH", help="a photograph through ViT-B-16, in place of a random input")
    group.add_argument(
        "--pretrained", metavar="NAME|PATH", help="weights for --image (default: random ones of a fixed seed)"
    )
    group.add_argument(
        "--device", help="where to compute (default: auto, the first that is there of a GPU and the CPU)"
    )


def refuse_options(parsed: argparse.Namespace) -> None:
    """Raise where an option of ``--explain`` is given without it."""
    for name in (*_DEFAULTS, "device"):
        if getattr(parsed, name) is not None:
            raise UsageError(f"--{name}: takes --explain as well")


def run(parsed: argparse.Namespace) -> int:
    """Print, and write, what `cdam_fast.explain` says of every class list and target."""
    from cdam_fast.arguments import check_target
    from cdam_fast.commands import devices, photos
    from cdam_fast.measuring import inputs, report

    for name in ("spread", "pretrained"):
        if getattr(parsed, name) is not None and (parsed.image is None) == (name == "pretrained"):
            raise UsageError(f"--{name}: takes {'an' if name == 'pretrained' else 'no'} --image as well")
    for name, default in (_DEFAULTS | {"device": "auto"}).items():
        if getattr(parsed, name) is None:
            setattr(parsed, name, default)
    if not 0 <= parsed.spread < math.inf:
        raise UsageError(f"--spread: got {parsed.spread}, takes a finite number from 0")
    class_lists, grid = inputs.parse_class_lists(parsed.classes), inputs.parse_grid(parsed.grid)
    targets: list[str | None] = (
        [None] if parsed.target is None else list(dict.fromkeys(map(str.strip, parsed.target.split(","))))
    )
    with named_errors(parsed):
        for target in targets:
            check_target(target)
    if parsed.json is not None:
        report.check_writable("--json", parsed.json)
    if parsed.image is not None:
        photos.check_photo("--image", parsed.image)
    device = devices.parse_device(parsed.device)
    with _interpreting(device.type):
        explained = _explain(parsed, class_lists, grid, targets, device)
    if parsed.json is not None:
        report.write_json({"explanations": explained}, parsed.json)
    return 0


def _explain(
    parsed: argparse.Namespace, class_lists: Any, grid: tuple[int, int], targets: list[str | None], device: Any
) -> list[dict[str, Any]]:
    from cdam_fast import explain, testing
    from cdam_fast.measuring import inputs

    if parsed.image is None:
        origin = f"random, spread {parsed.spread:g}"
        similarities = {
            entry.name: testing.clip_like(len(entry.words), *grid, spread=parsed.spread).to(device)
            for entry in class_lists
        }
    else:
        built = inputs.build_inputs(
            class_lists,
            image=parsed.image,
            pretrained=parsed.pretrained,
            grid=grid,
            batch=1,
            device=device,
            on_step=tell,
        )
        origin, similarities = f"{built.photograph}, weights: {built.weights}", built.similarities
    explained = []
    for name, similarity in similarities.items():
        for target in targets:
            with named_errors(parsed):
                explanation = explain(similarity, target=target)
            say(f"{name}, {origin}")
            for line in str(explanation).splitlines():
                say(line)
            explained.append({"classes": name, "input": origin, **explanation.as_dict()})
    return explained


@contextlib.contextmanager
def _interpreting(device: str) -> Iterator[None]:
    """On a CPU the kernels that the body imports are Triton's interpreter's, if this process has none yet."""
    if device != "cpu" or "triton" in sys.modules or importlib.util.find_spec("triton") is None:
        yield
        return
    before = os.environ.get(_INTERPRET)
    os.environ[_INTERPRET] = "1"
    tell("no GPU: the kernels' first stage is interpreted, which takes up to a minute")
    try:
        yield
    finally:
        del os.environ[_INTERPRET]
        if before is not None:
            os.environ[_INTERPRET] = before
