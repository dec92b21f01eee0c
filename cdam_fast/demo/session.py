"""What the page works with: one model, and the segmenters of the words that were asked for last."""

from __future__ import annotations

import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cdam_fast.models import Tokenizer, Tower
from cdam_fast.segmentation import CDAMSegmenter
from cdam_fast.segmentation.class_files import ClassNames
from cdam_fast.segmentation.load import load_clip, model_defaults
from cdam_fast.segmentation.words import check_class_names

KEPT = 8
"""Pairs of segmenters, which share the model's weights: what each has of its own are text features."""

Words = tuple[tuple[str, ...], ...]
"""The synonyms of each class."""


class Key(NamedTuple):
    """What a pair of segmenters is made for."""

    words: Words
    base: str
    threshold: bool = False
    """Eq. 4 of the paper: a pixel that no word fits becomes the class "background"."""


class Pair(NamedTuple):
    """The same words on the same base, with and without CDAM."""

    cdam: CDAMSegmenter
    alone: CDAMSegmenter
    clock: Clock
    """Of the map and its product with the values, in ``cdam``."""


class Clock:
    """A function, and the seconds that its calls took until the device had done them."""

    def __init__(self, call: Callable[..., Tensor], device: torch.device) -> None:
        self.call, self.device, self.seconds = call, device, 0.0

    def __call__(self, *arguments: Tensor) -> Tensor:
        """What the function returns."""
        start = now(self.device)
        result = self.call(*arguments)
        self.seconds += now(self.device) - start
        return result


def now(device: torch.device) -> float:
    """Seconds of a clock, once the device has nothing left to do."""
    synchronize = getattr(getattr(torch, device.type, None), "synchronize", None)
    if device.type != "cpu" and synchronize is not None:
        synchronize()
    return time.perf_counter()


class Session:
    """A model that is loaded once, and its pairs of segmenters: the last 8 of them.

    Args:
        model: a CLIP, as `CDAMSegmenter` takes it; its image tower's dtype is the segmenters'.
        tokenizer: its tokenizer.
        name: what the page calls it.
        options: further arguments of `CDAMSegmenter`, such as the sides that the model wants.

    For threads: whoever computes holds ``lock``.
    """

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, name: str, **options: Any) -> None:
        self.model, self.tokenizer, self.name, self.options = model, tokenizer, name, options
        self.lock = threading.RLock()
        self._pairs: OrderedDict[Key, Pair] = OrderedDict()

    @classmethod
    def load(
        cls,
        model_name: str = "tiny",
        pretrained: str | Path | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Session:
        """The model of `CDAMSegmenter.from_pretrained`'s arguments, of which the errors are.

        One photograph is segmented here, so that no visitor's time holds what happens once.
        """
        target = torch.device(device)
        model, tokenizer = load_clip(model_name, pretrained, target)
        model.visual = Tower(model).to(dtype, target).visual  # once, where each segmenter would copy it
        session = cls(model, tokenizer, str(model_name), **model_defaults(model_name))
        segmenter = session.pair(Key((("background",), ("thing",)), "maskclip")).cdam
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            segmenter(torch.rand(3, *[segmenter.options.short_side] * 2))
        return session

    def pair(self, key: Key) -> Pair:
        """The segmenters of these words, this base and this threshold; made, or made before."""
        with self.lock:
            if key not in self._pairs:
                self._pairs[key] = self._made(key)
                while len(self._pairs) > KEPT:
                    self._pairs.popitem(last=False)
            self._pairs.move_to_end(key)
            return self._pairs[key]

    def _made(self, key: Key) -> Pair:
        names: ClassNames = [list(synonyms) for synonyms in key.words]
        options = {"base": key.base, "background": "entropy" if key.threshold else None, **self.options}
        cdam = CDAMSegmenter(self.model, self.tokenizer, names, **options)
        alone = CDAMSegmenter(
            self.model, None, names, cdam=False, text_features=cdam.texts.class_features.cpu(), **options
        )
        clock = Clock(cdam._attend, cdam.tower.device)
        cdam._attend = clock
        return Pair(cdam, alone, clock)


def as_words(names: ClassNames) -> Words:
    """A list of classes as it is remembered.

    Raises:
        TypeError, ValueError: `check_class_names`'s.
    """
    check_class_names(names)
    return tuple((name.strip(),) if isinstance(name, str) else tuple(word.strip() for word in name) for name in names)
