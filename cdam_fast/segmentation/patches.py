"""Windows of pixels to the logits of their patches: a base method, with or without CDAM."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from torch import Tensor

from cdam_fast.attention import cdam_attention
from cdam_fast.models import Base, LastBlock, Tower, own_settings
from cdam_fast.segmentation.options import Options
from cdam_fast.segmentation.result import largest_of_classes
from cdam_fast.segmentation.texts import Texts

Method = TypeVar("Method", bound=Callable[..., Any])


def _own_settings(method: Method) -> Method:
    @wraps(method)
    def call(self: PatchLogits, *arguments: Any, **options: Any) -> Any:
        with own_settings(self.tower.device):
            return method(self, *arguments, **options)

    return cast("Method", call)


class PatchLogits:
    """What `CDAMSegmenter` says about one window, or a batch of them, of any size that the patch divides."""

    base: Base
    tower: Tower
    options: Options
    texts: Texts
    _attend: Callable[[Tensor, Tensor], Tensor]
    """Similarity and the patches' values to the map applied to the values."""
    _mean: Tensor
    _deviation: Tensor

    @_own_settings
    def base_similarity(self, pixels: Tensor) -> Tensor:
        """Cosines of the base method's patch features with all words: the map's input.

        ``[B, 3, H, W]`` normalised pixels, of any size that the patch divides -> ``[B, Q + A, h, w]``, the Q words of
        the classes, then the A augmented prompts (A = 0 where they are off).
        """
        return self._similarity(pixels)[1]

    @_own_settings
    def attention(self, pixels: Tensor, **map_options: Any) -> Tensor:
        """CDAM's map, ``[B, 3, H, W] -> [B, N, N]``; map_options override the segmenter's for this call."""
        return cdam_attention(self._similarity(pixels)[1], **(self.options.map | map_options))

    @_own_settings
    def base_attention(self, pixels: Tensor) -> Tensor:
        """The attention that the map takes the place of, mean over heads, ``[B, 3, H, W] -> [B, N, N]``."""
        return self.base.attention(self.tower, self.base.prepare(self.tower, self.tower.check_pixels(pixels)))

    @_own_settings
    def patch_logits(self, pixels: Tensor) -> Tensor:
        """Cosines after the last pass, ``[B, 3, H, W] -> [B, C, h, w]``; of a class's synonyms the largest."""
        return largest_of_classes(self._word_logits(pixels), self.texts.words.synonyms)

    @_own_settings
    def word_logits(self, pixels: Tensor) -> Tensor:
        """Cosines after the last pass, ``[B, 3, H, W] -> [B, Q, h, w]``, of the Q words of the classes.

        The words of a class are in a row, ``texts.words.synonyms`` of them: what code that takes the largest of each
        class itself, or softmaxes over words, wants.
        """
        return self._word_logits(pixels)

    def _similarity(self, pixels: Tensor) -> tuple[LastBlock, Tensor]:
        pixels = self.tower.check_pixels(pixels)
        last = self.base.prepare(self.tower, pixels)
        features = self.base.first_pass(self.tower, last)
        return last, self.base.similarity(features, self.texts.features, last.grid)

    def _word_logits(self, pixels: Tensor) -> Tensor:
        """``[B, 3, H, W] -> [B, Q, h, w]``."""
        last, similarity = self._similarity(pixels)
        if not self.options.cdam:
            return similarity
        attended = self._attend(similarity, last.patch_values)
        features = self.base.finish(self.tower, last, attended)
        return self.base.similarity(features, self.texts.class_features, last.grid)

    def normalise(self, image: Tensor) -> Tensor:
        """``[..., 3, H, W]`` in [0, 1] -> pixels as the other methods take them, in the model's dtype."""
        return ((image - self._mean) / self._deviation).to(self.tower.dtype)
