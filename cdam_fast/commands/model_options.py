"""What ``cdam-fast segment``, ``map`` and ``demo`` share: the model, its base, and how a photograph goes through it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cdam_fast.commands.devices import add_device, describe_device, parse_device
from cdam_fast.commands.messages import named_errors, note
from cdam_fast.commands.streams import tell
from cdam_fast.models import BASES
from cdam_fast.processes import local_device

_MODEL, _PRETRAINED = "ViT-B-16", "laion2b_s34b_b88k"

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


OF_MODEL = {"short_side": 448, "window": 448, "stride": 224, "logit_scale": 50.0}
"""Side of the resized photograph, of the windows over it, the step from window to window, and the factor of the
cosines: what they are for every model but the tiny one, which has its own."""


def add_weights(parser: argparse.ArgumentParser, default: str = _MODEL) -> None:
    """Add model and weights."""
    parser.add_argument(
        "--model",
        default=default,
        metavar="NAME|FILE.json",
        help="model of open_clip, or tiny, which comes with the package and needs no network (default: %(default)s)",
    )
    parser.add_argument(
        "--pretrained",
        metavar="TAG|FILE",
        help="its weights: a tag of open_clip, downloaded on first use, or a safetensors file "
        f"(default: {_PRETRAINED} for {_MODEL}; none for models that come with their weights)",
    )


def add_arithmetic(parser: argparse.ArgumentParser) -> None:
    """Add device and dtype."""
    add_device(parser)
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="float32", help="default: %(default)s")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add model, weights, base, sizes, folder and device."""
    add_weights(parser)
    parser.add_argument("--base", default="maskclip", metavar="NAME", help=f"{', '.join(BASES)} (default: %(default)s)")
    for name, default in OF_MODEL.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=type(default),
            metavar="K" if name == "logit_scale" else "PIXELS",
            help=("factor of the cosines before the softmax, " if name == "logit_scale" else "")
            + f"default: {default:g}, and the model's own for tiny",
        )
    parser.add_argument("--no-augmented", action="store_true", help="leave out the 80 augmented text prompts")
    parser.add_argument(
        "--out", default="cdam-fast-out", metavar="DIR", help="folder to write to (default: %(default)s)"
    )
    add_arithmetic(parser)


def make_segmenter(
    parsed: argparse.Namespace, classes: Any, options: dict[str, Any], notes: Sequence[str] = (), *, quiet: bool = False
) -> Any:
    """The `CDAMSegmenter` of the options, on this process's own device; unless quiet, it is said, then the notes."""
    from cdam_fast.segmentation import CDAMSegmenter

    device = local_device(parse_device(parsed.device))
    if not quiet:
        tell(describe_device(device))
        for line in notes:
            note(parsed, line)
    with named_errors(parsed):
        return CDAMSegmenter.from_pretrained(
            parsed.model,
            pretrained_of(parsed),
            classes,
            base=parsed.base,
            augmented_prompts=not parsed.no_augmented,
            **{name: getattr(parsed, name) for name in OF_MODEL if getattr(parsed, name) is not None},
            device=device,
            dtype=DTYPES[parsed.dtype],
            **options,
        )


def pretrained_of(parsed: argparse.Namespace) -> str | None:
    """The weights asked for; those of the default model where neither is."""
    given: str | None = parsed.pretrained
    return _PRETRAINED if given is None and parsed.model == _MODEL else given


def known(name: str | None) -> list[Any]:
    """Of a file name, size and time, and of a folder those of its files, so that other content is seen."""
    path = Path(name or "")
    if name is None or not (os.path.isfile(name) or os.path.isdir(name)):  # noqa: PTH112, PTH113 - never raise
        return [name]
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [path.name, *([file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files if file.is_file())]
