"""Mean intersection over union on the field's data sets, under a protocol that is part of the result (section 4)."""

from cdam_fast.evaluation.confusion import mean_iou
from cdam_fast.evaluation.dataset import VOID, Dataset, Sample
from cdam_fast.evaluation.datasets import DATASETS, open_dataset
from cdam_fast.evaluation.evaluation import Evaluation, ImageFailedError, evaluate
from cdam_fast.evaluation.protocol import PROTOCOLS, Protocol, Settings, load_protocol

__all__ = [
    "DATASETS",
    "PROTOCOLS",
    "VOID",
    "Dataset",
    "Evaluation",
    "ImageFailedError",
    "Protocol",
    "Sample",
    "Settings",
    "evaluate",
    "load_protocol",
    "mean_iou",
    "open_dataset",
]
