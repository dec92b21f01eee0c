"""The bench's input: a photograph and class prompts through open_clip's ViT-B-16 to a similarity."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cdam_fast.errors import UsageError
from cdam_fast.models import dense_features, text_features
from cdam_fast.prompts import AUGMENTED_TEXT_PROMPTS, CLASS_LISTS
from cdam_fast.segmentation.load import load_clip

MODEL = "ViT-B-16"
PATCH = 16
TEMPLATE = "a photo of a {}."
SEED = 0

PHOTOGRAPH = Path(__file__).parents[1] / "data" / "photograph.jpg"
PHOTOGRAPH_NAME = "the astronaut Eileen Collins (NASA, public domain)"


@dataclass(frozen=True)
class ClassList:
    """Prompts of one row of the bench: the target classes, then the augmented ones."""

    name: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Inputs:
    """Similarities ``[B, C, h, w]`` by class list, and what they were made from."""

    similarities: dict[str, Tensor]
    photograph: str
    weights: str


def parse_class_lists(text: str) -> list[ClassList]:
    """``"VOC21,Context60"``, or whole numbers: C prompts in all, the augmented ones included."""
    by_name = {name.lower(): name for name in CLASS_LISTS}
    lists = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        if item.lower() in by_name:
            name = by_name[item.lower()]
            lists.append(ClassList(name, CLASS_LISTS[name] + AUGMENTED_TEXT_PROMPTS))
        elif item.isdecimal() and 1 <= int(item) <= len(_many_words()):
            lists.append(ClassList(f"C={int(item)}", _many_words()[: int(item)]))
        else:
            raise UsageError(
                f"--classes: got {item!r}, takes {', '.join(CLASS_LISTS)} or a number of prompts "
                f"from 1 to {len(_many_words())}, separated by commas"
            )
    if not lists:
        raise UsageError(f"--classes: got {text!r}, takes at least one of {', '.join(CLASS_LISTS)}")
    if len({entry.name for entry in lists}) < len(lists):
        raise UsageError(f"--classes: got {text!r}, takes each list once")
    return sorted(lists, key=lambda entry: len(entry.words))


def _many_words() -> tuple[str, ...]:
    """Distinct words in a fixed order: every class, every augmented prompt, then every attribute of every class."""
    words = dict.fromkeys(AUGMENTED_TEXT_PROMPTS + tuple(word for words in CLASS_LISTS.values() for word in words))
    pairs = (f"{attribute} {word}" for word in CLASS_LISTS["VOC21"] for attribute in AUGMENTED_TEXT_PROMPTS[:55])
    return tuple(words) + tuple(pairs)


def parse_grid(text: str) -> tuple[int, int]:
    """``"28"`` or ``"28x40"``: rows and columns of patches."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and 4 <= int(part) <= 256 for part in parts):
        raise UsageError(f"--grid: got {text!r}, takes N or HxW patches, each side from 4 to 256")
    return int(parts[0]), int(parts[-1])


def load_photograph(path: str | None, height: int, width: int) -> tuple[Tensor, str]:
    """``[3, height, width]`` in [0, 1], and a word on where it is from."""
    from PIL import Image, UnidentifiedImageError

    name = PHOTOGRAPH_NAME if path is None else Path(path).name
    try:
        with Image.open(PHOTOGRAPH if path is None else path) as opened:
            image = opened.convert("RGB")
    except UnidentifiedImageError:
        raise UsageError(f"--image: {path} is not an image that Pillow can read") from None
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(f"--image: cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1) / 255, name


def load_model(pretrained: str | None, height: int, width: int, device: torch.device) -> tuple[Any, Any, str]:
    """Model and tokenizer, and a word on the weights; random ones are made at this image size."""
    with _quiet():
        import open_clip

        if pretrained is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(SEED)
                model = open_clip.create_model(MODEL, force_image_size=(height, width))
            return model.eval().to(device), open_clip.get_tokenizer(MODEL), f"random, seed {SEED}"
        try:
            model, tokenizer = load_clip(MODEL, pretrained, device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UsageError("--pretrained:" + str(error).removeprefix("pretrained:")) from None
        return model, tokenizer, Path(pretrained).name if Path(pretrained).is_file() else pretrained


def photograph_pixels(
    image: str | None, height: int, width: int, batch: int, device: torch.device
) -> tuple[Tensor, str]:
    """``[batch, 3, height, width]`` normalised, and a word on where it is from; further images are it, shifted."""
    photograph, name = load_photograph(image, height, width)
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in _normalisation())
    normalised = (photograph - mean) / deviation
    return torch.stack([normalised.roll(i * width // batch, dims=-1) for i in range(batch)]).to(device), name


def encoded_words(
    model: Any, tokenizer: Any, class_lists: Sequence[ClassList], on_step: Callable[[str], None]
) -> dict[str, Tensor]:
    """Text features ``[D]`` of every word of the lists."""
    words = list(dict.fromkeys(word for entry in class_lists for word in entry.words))
    on_step(f"encoding {len(words)} prompts")
    with _quiet():
        text = text_features(
            model,
            tokenizer,
            [TEMPLATE.format(word) for word in words],
            on_progress=lambda done: on_step(f"encoding prompts {done}/{len(words)}"),
        )
    return dict(zip(words, text))


def build_inputs(
    class_lists: Sequence[ClassList],
    *,
    image: str | None,
    pretrained: str | None,
    grid: tuple[int, int],
    batch: int,
    device: torch.device,
    on_step: Callable[[str], None],
) -> Inputs:
    """The dense MaskCLIP similarities of the photograph; further images of a batch are it, shifted sideways."""
    height, width = grid[0] * PATCH, grid[1] * PATCH
    pixels, name = photograph_pixels(image, height, width, batch, device)
    on_step(f"loading {MODEL}")
    model, tokenizer, weights = load_model(pretrained, height, width, device)
    encoded = encoded_words(model, tokenizer, class_lists, on_step)
    on_step("encoding the photograph")
    features = torch.cat([dense_features(model, one) for one in torch.split(pixels, 1)])
    similarities = {}
    for entry in class_lists:
        chosen = torch.stack([encoded[word] for word in entry.words])
        similarities[entry.name] = (features @ chosen.T).mT.reshape(batch, -1, *grid).clone()
    return Inputs(similarities, name, weights)


def _normalisation() -> tuple[tuple[float, ...], tuple[float, ...]]:
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    return OPENAI_DATASET_MEAN, OPENAI_DATASET_STD


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep libraries' warnings about random weights and deprecated imports off the table."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
