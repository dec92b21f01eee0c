"""Entropy-based background threshold (section 3.3 of the paper)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cdam_fast.arguments import check_logits, check_positive, working_dtype


def entropy_threshold(logits: Tensor, *, logit_scale: float = 50.0, alpha: float = 2.5, default: float = 0.5) -> Tensor:
    """Probability below which a patch's best class becomes background (Eq. 4).

    ``alpha * default / ((max H + min H) / 2)`` where H is the entropy in bits of each patch's class distribution
    and max and min are over the patches of one image.

    Args:
        logits: ``[..., C, N]`` cosine similarities of the N patches with the C target classes, without the
            augmented prompts; float16, bfloat16, float32 or float64.
        logit_scale: factor of the cosines before the softmax over classes; positive.
        alpha: 2.5 in the paper (2.0 for ViT-B/32); positive.
        default: threshold that alpha scales; positive.

    Returns:
        ``[...]``, one threshold an image, float64 for float64 logits and float32 otherwise. Infinite where every
        patch is certain (an entropy of 0 everywhere); NaN where a logit is NaN.

    Raises:
        TypeError: logits is no floating tensor, or a knob is no number.
        ValueError: logits has fewer than two dims, no class or no patch, or a knob is not positive.
    """
    logits = check_logits(logits)
    logit_scale = check_positive("logit_scale", logit_scale)
    alpha, default = check_positive("alpha", alpha), check_positive("default", default)
    probabilities = torch.softmax(logits.to(working_dtype(logits.dtype)) * logit_scale, dim=-2)
    entropy = torch.special.entr(probabilities).sum(-2) / math.log(2)
    centre = (entropy.amax(-1) + entropy.amin(-1)) / 2
    threshold: Tensor = alpha * default / centre
    return threshold
