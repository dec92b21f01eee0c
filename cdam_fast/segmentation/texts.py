"""Features of the words: given, from the cache, or from the model's text tower."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cdam_fast.arguments import FLOATING, working_dtype
from cdam_fast.models import Tokenizer, Tower, as_tokenizer, class_features
from cdam_fast.prompts import AUGMENTED_TEXT_PROMPTS
from cdam_fast.segmentation.cache import cached_features, open_cache, word_keys
from cdam_fast.segmentation.words import Words, check_class_names


class Texts(NamedTuple):
    """The words of the classes and the features of everything that the map is made from."""

    words: Words
    features: Tensor
    """``[Q + A, D]`` L2-normalised: the Q words of the classes, then the augmented prompts."""
    classes: Tensor
    """``[Q]`` int64: the class that a pixel of each word gets; on the features' device, where every call needs it.

    It is the word's; of words with the same features it is the first one's, whichever of them rounding lets win.
    """

    @property
    def class_features(self) -> Tensor:
        """``[Q, D]``."""
        return self.features[: len(self.words.words)]

    def to(self, tower: Tower) -> Texts:
        """On the tower's device, in its working dtype."""
        features = self.features.to(tower.device, working_dtype(tower.dtype))
        return self._replace(features=features, classes=self.classes.to(tower.device))


def build_texts(
    model: nn.Module,
    tokenizer: Tokenizer | None,
    class_names: object,
    *,
    background_class: object,
    embedding_size: int,
    augmented: bool,
    text_features: object,
    augmented_text_features: object,
    templates: object,
    cache_dir: object,
) -> Texts:
    """Check the class names, and find or compute the features of their words and of the augmented prompts."""
    words = check_class_names(class_names, background_class)
    given: dict[str, Tensor | None] = {
        "text_features": _check_features("text_features", text_features, embedding_size, len(words.words)),
        "augmented_text_features": _check_features(
            "augmented_text_features", augmented_text_features, embedding_size, None
        ),
    }
    wanted = {"text_features": words.words}
    if augmented:
        wanted["augmented_text_features"] = AUGMENTED_TEXT_PROMPTS
    missing = [name for name in wanted if given[name] is None]
    if missing and tokenizer is None:
        hint = " or augmented_prompts=False" if missing == ["augmented_text_features"] else ""
        raise ValueError(f"tokenizer: got None, takes a tokenizer, or {missing[0]}{hint} instead")
    if missing and tokenizer is not None:
        checked = _check_templates(templates)
        every = tuple(dict.fromkeys(word for name in missing for word in wanted[name]))
        made = _features(model, as_tokenizer(tokenizer, model), every, checked, cache_dir)
        _check_features("model's text tower", made, embedding_size, None)
        index = {word: i for i, word in enumerate(every)}
        given |= {name: made[[index[word] for word in wanted[name]]] for name in missing}
    rows = [given[name] for name in wanted]
    features = torch.cat([functional.normalize(_working(row), dim=-1) for row in rows if row is not None])
    return Texts(words, features, torch.tensor(_first_classes(words, features), device="cpu"))


def _first_classes(words: Words, features: Tensor) -> list[int]:
    first: dict[bytes, int] = {}
    return [first.setdefault(row.numpy().tobytes(), of) for row, of in zip(features, words.classes)]


def _working(features: Tensor) -> Tensor:
    return features.detach().to("cpu", working_dtype(features.dtype))


def _features(
    model: nn.Module,
    tokenizer: Tokenizer,
    words: Sequence[str],
    templates: Sequence[Callable[[str], str]],
    cache_dir: object,
) -> Tensor:
    def compute(some: list[str]) -> Tensor:
        return class_features(model, tokenizer, some, templates)

    cache = open_cache(cache_dir, model, tokenizer, templates)
    if cache is None:
        return compute(list(words))
    return cached_features(cache, word_keys(tokenizer, words, templates), words, compute)


def _check_templates(templates: object) -> Sequence[Callable[[str], str]]:
    if templates is None:
        from open_clip import OPENAI_IMAGENET_TEMPLATES

        found: Sequence[Callable[[str], str]] = OPENAI_IMAGENET_TEMPLATES
        return found
    if isinstance(templates, str) or not isinstance(templates, Sequence) or not all(map(callable, templates)):
        raise TypeError(f"templates: got {templates!r}, takes a sequence of functions from a word to a prompt, or None")
    if not templates:
        raise ValueError("templates: got an empty sequence, takes at least one template")
    return templates


def _check_features(name: str, features: Any, size: int, rows: int | None) -> Tensor | None:
    if features is None:
        return None
    if isinstance(features, np.ndarray) and features.dtype.kind == "f":
        features = torch.from_numpy(features)
    shape = f"[{'A' if rows is None else rows}, {size}]"
    if not isinstance(features, Tensor):
        raise TypeError(f"{name}: got {type(features).__name__}, takes a tensor or array of shape {shape}")
    if features.dtype not in FLOATING:
        raise TypeError(f"{name}: got dtype {features.dtype}, takes floating point")
    if features.dim() != 2 or features.shape[1] != size:
        raise ValueError(
            f"{name}: got features of shape {tuple(features.shape)}, takes {shape}, as long as the image features"
        )
    if rows is not None and len(features) != rows:
        raise ValueError(f"{name}: got {len(features)} rows, takes {rows}, one for each word of class_names")
    return features
