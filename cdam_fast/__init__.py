"""CDAM at no cost: class distribution-induced attention maps for CLIP, exact and fast.

One call replaces the map computation of CDAM code (Kang, Kim and Chun, ICLR 2025)::

    attention = cdam_fast.cdam_attention(similarity)  # [B, C, h, w] -> [B, N, N]

`cdam_fast.CDAMSegmenter` is the whole of it, a photograph and a list of words to a label for every pixel.
`cdam_fast.reference` states the computation; `cdam_fast.portable` is fast on any device.
"""

from cdam_fast import reference
from cdam_fast.attention import cdam_attend, cdam_attention, pairwise_divergence, with_cls_token
from cdam_fast.background import entropy_threshold
from cdam_fast.constants import SCALES
from cdam_fast.graphs import graphed
from cdam_fast.isometry import js_embedding
from cdam_fast.models import Base, LastBlock, proxyclip
from cdam_fast.paths import explain
from cdam_fast.prompts import AUGMENTED_TEXT_PROMPTS
from cdam_fast.segmentation import CDAMSegmenter, Segmentation, refine

__version__ = "0.1.0"

__all__ = [
    "AUGMENTED_TEXT_PROMPTS",
    "Base",
    "CDAMSegmenter",
    "LastBlock",
    "SCALES",
    "Segmentation",
    "cdam_attend",
    "cdam_attention",
    "entropy_threshold",
    "explain",
    "graphed",
    "js_embedding",
    "pairwise_divergence",
    "proxyclip",
    "reference",
    "refine",
    "with_cls_token",
]
