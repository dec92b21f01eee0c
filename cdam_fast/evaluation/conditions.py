"""What a result depends on: the segmenter's settings, versions, the commit of the code."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import cdam_fast
from cdam_fast.evaluation.dataset import Dataset
from cdam_fast.segmentation import CDAMSegmenter

_PACKAGES = {"numpy": "numpy", "pillow": "pillow", "open_clip": "open_clip_torch"}


def words_of(segmenter: CDAMSegmenter) -> list[list[str]]:
    """Of each class its synonyms."""
    words = segmenter.texts.words
    return [[word for word, of in zip(words.words, words.classes) if of == i] for i in range(len(words.names))]


def settings_of(segmenter: CDAMSegmenter, dataset: Dataset) -> dict[str, Any]:
    """Everything that decides a matrix, as plain values; see `Evaluation.settings`."""
    options = segmenter.options._asdict()
    del options["graph"]  # replays the same arithmetic
    settings = {
        "dataset": dataset.name,
        "classes": list(dataset.classes),
        "meaning": hashlib.sha256(dataset.meaning.tobytes()).hexdigest()[:16],
        "words": words_of(segmenter),
        "background_class": segmenter.texts.words.background,
        "image_tower": _digest(segmenter),
        "base": segmenter.base.name,
        **options.pop("map"),
        **options,
        **dict(zip(("image_mean", "image_std"), _pixels(segmenter))),
        "dtype": str(segmenter.tower.dtype).removeprefix("torch."),
        "device": segmenter.tower.device.type,
    }
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return plain


def answer_of(segmenter: CDAMSegmenter) -> list[float] | None:
    """Of each class the mean logit of a window of waves; None where that fails.

    It tells what neither the options nor the weights of the image tower do: activations, what a base of one's own does.
    """
    side = segmenter.options.window
    angles = torch.arange(side, dtype=torch.float32, device="cpu") * (6.25 / side)
    waves = [torch.sin(angles * k)[:, None] + torch.cos(angles * (k + 2)) for k in (3, 7, 13)]
    try:
        pixels = (torch.stack(waves)[None] / 4 + 0.5).to(segmenter.tower.device)
        logits = segmenter.patch_logits(segmenter.normalise(pixels))[0]
    except Exception:  # then each image says what it is
        return None
    return _rounded(logits.float().mean((1, 2)))


def texts_of(segmenter: CDAMSegmenter) -> list[float] | None:
    """Of the feature of each text its part along one direction; it tells templates, and features that were given."""
    features = segmenter.texts.features.detach().double().cpu()
    direction = torch.cos(torch.arange(features.shape[-1], dtype=torch.float64, device="cpu"))
    return _rounded(features @ (direction / direction.norm()))


def _rounded(values: torch.Tensor) -> list[float] | None:
    numbers = [round(number, 6) for number in values.tolist()]
    return numbers if all(map(math.isfinite, numbers)) else None


def _digest(segmenter: CDAMSegmenter) -> str:
    """Of the weights of the image tower."""
    digest = hashlib.sha256()
    for name, value in sorted(segmenter.tower.visual.state_dict().items()):
        if isinstance(value, torch.Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def _pixels(segmenter: CDAMSegmenter) -> list[list[float]]:
    return [values.flatten().tolist() for values in (segmenter._mean, segmenter._deviation)]


def versions() -> dict[str, str | None]:
    """Of what computes; None is not installed."""
    found: dict[str, str | None] = {
        "cdam_fast": cdam_fast.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }
    for name, distribution in _PACKAGES.items():
        try:
            found[name] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:  # noqa: PERF203 - one of three
            found[name] = None
    return found


def commit() -> dict[str, Any] | None:
    """``hash`` of the code's own git checkout and whether it is ``clean``; None where it runs from no checkout.

    Files that git does not track leave it clean.
    """
    root = Path(cdam_fast.__file__).resolve().parents[1]
    if not (root / ".git").exists() or not (root / "pyproject.toml").is_file():
        return None
    hash_, changes = (
        _git(root, *arguments) for arguments in (("rev-parse", "HEAD"), ("status", "--porcelain", "-uno"))
    )
    return None if hash_ is None or changes is None else {"hash": hash_, "clean": not changes}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
