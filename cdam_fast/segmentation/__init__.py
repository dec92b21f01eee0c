"""Open-vocabulary segmentation: an image and a list of words to a label for every pixel (section 3.2.4)."""

from cdam_fast.segmentation.refinement import refine
from cdam_fast.segmentation.result import Segmentation
from cdam_fast.segmentation.segmenter import CDAMSegmenter

__all__ = ["CDAMSegmenter", "Segmentation", "refine"]
