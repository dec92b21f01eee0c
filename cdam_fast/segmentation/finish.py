"""An image whose windows are all done: threshold, refinement, labels."""

from __future__ import annotations

import warnings
from functools import partial

import torch
from torch import Tensor

from cdam_fast.background import entropy_threshold
from cdam_fast.segmentation.options import Options
from cdam_fast.segmentation.refinement import Refinement
from cdam_fast.segmentation.result import Segmentation, label_pixels, large_classes
from cdam_fast.segmentation.texts import Texts
from cdam_fast.segmentation.windows import Canvas


def finish(canvas: Canvas, options: Options, texts: Texts, dtype: torch.dtype) -> Segmentation:
    """The segmentation of a canvas with the logits of every window; dtype is the model's, for messages.

    Raises:
        RuntimeError: logits that are not finite.
    """
    words = texts.words
    logits = canvas.mean()
    if not bool(torch.stack([patches.isfinite().all() for patches in canvas.patch_logits]).all()):
        raise RuntimeError(f"dtype: {dtype} gives logits that are not finite; take float32, or look at the model")
    background = None if options.background is None else words.background
    keep = None
    if options.area_threshold is not None and words.background is not None:
        keep = partial(large_classes, count=len(words.names), background=words.background, share=options.area_threshold)
    threshold = _threshold(canvas, options) if background is not None else logits.new_zeros(())
    labels, probability = label_pixels(
        logits,
        canvas.size,
        texts.classes,
        options.logit_scale,
        background,
        canvas.at_full_size(threshold),
        None if canvas.image is None else Refinement(canvas.image, dtype=logits.dtype),
        keep,
    )
    mean = float(threshold.mean())
    if mean > 1:
        warnings.warn(
            f"threshold: {mean:.2f} is above any probability, so every pixel is background; the entropy of Eq. 4 "
            f"is low with {len(words.words)} words (give more words, a smaller alpha or a fixed background)",
            stacklevel=3,
        )
    return Segmentation(labels, probability, mean, words.names, logits, words.synonyms, words.words, words.background)


def _threshold(canvas: Canvas, options: Options) -> Tensor:
    """One threshold, or ``[windows]`` of them."""
    if not isinstance(options.background, str):
        return canvas.patch_logits[0].new_tensor(options.background or 0.0)
    if options.threshold_over == "window":
        patches = torch.stack(canvas.patch_logits)
    elif options.threshold_over == "last_window":
        patches = canvas.patch_logits[-1]
    else:
        patches = torch.cat(canvas.patch_logits, -1)
    return entropy_threshold(patches, logit_scale=options.logit_scale, alpha=options.alpha)
