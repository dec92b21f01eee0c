"""pytest-benchmark cases of what a segmenter does around its model: windows, labels, the confusion matrix."""

import numpy as np
import pytest
import torch

from cdam_fast import entropy_threshold, testing
from cdam_fast.evaluation.confusion import confusion_of, iou_of_classes
from cdam_fast.evaluation.dataset import VOID
from cdam_fast.segmentation.result import label_pixels
from cdam_fast.segmentation.windows import Canvas

WINDOW, STRIDE = 448, 224
LOGIT_SCALE = 50.0


@pytest.fixture(autouse=True)
def _no_gradient():
    with torch.no_grad():
        yield


def fill(words, pixels):
    """The mean over all windows, each window's patches holding its number."""
    canvas = Canvas(pixels, tuple(pixels.shape[-2:]), WINDOW, STRIDE)
    for number in range(len(canvas.places)):
        canvas.add(torch.full((words, 28, 28), float(number)))
    return canvas.mean()


@pytest.mark.benchmark(group="windows")
@pytest.mark.parametrize("words", [21, 81])
def test_windows(benchmark, words):
    pixels = torch.zeros(3, 448, 672)
    expected = torch.zeros(672)  # windows 0 and 1, from columns 0 and 224
    expected[224:448], expected[448:] = 0.5, 1.0
    assert torch.equal(fill(words, pixels), expected.expand(words, 448, 672))
    benchmark.pedantic(fill, (words, pixels), warmup_rounds=1, rounds=20)


@pytest.mark.benchmark(group="labels")
@pytest.mark.parametrize("words", [21, 81])
def test_labels(benchmark, words):
    logits = testing.clip_like(words, 32, 40, seed=1)
    arguments = (logits, (480, 600), torch.arange(words), LOGIT_SCALE, 0, 0.3)
    whole = torch.nn.functional.interpolate(logits[None].double(), (480, 600), mode="bilinear")[0]
    probability, index = torch.softmax(LOGIT_SCALE * whole, 0).max(0)
    labels, found = label_pixels(*arguments)
    assert (found - probability).abs().max() < 1e-4
    assert (labels == torch.where(probability < 0.3, 0, index)).double().mean() > 0.9999  # ties are rounding's
    benchmark.pedantic(label_pixels, arguments, warmup_rounds=1, rounds=10)


@pytest.mark.benchmark(group="labels")
def test_threshold(benchmark):
    logits = testing.clip_like(81, 28, 28, seed=2).flatten(1)
    probability = torch.softmax(LOGIT_SCALE * logits.double(), 0)
    entropy = -(probability * probability.log2()).sum(0)
    assert float(entropy_threshold(logits)) == pytest.approx(2.5 * 0.5 / float((entropy.max() + entropy.min()) / 2))
    benchmark.pedantic(entropy_threshold, (logits,), warmup_rounds=5, rounds=100)


@pytest.mark.benchmark(group="confusion matrix")
@pytest.mark.parametrize("classes", [21, 171])
def test_confusion(benchmark, classes):
    pytest.importorskip("torchmetrics")
    generator = np.random.default_rng(0)
    labels = generator.integers(classes, size=(480, 640))
    truth = generator.integers(-1, classes, size=(480, 640)).astype(np.int16)
    truth[truth < 0] = VOID
    kept = truth != VOID
    counts = np.bincount(truth[kept].astype(np.int64) * classes + labels[kept], minlength=classes**2)
    arguments = (torch.from_numpy(labels), truth, classes)
    assert np.array_equal(confusion_of(*arguments).numpy(), counts.reshape(classes, classes))
    benchmark.pedantic(confusion_of, arguments, warmup_rounds=1, rounds=20)


@pytest.mark.benchmark(group="confusion matrix")
def test_iou(benchmark):
    confusion = torch.diag(torch.arange(171)) + torch.ones(171, 171, dtype=torch.int64)
    expected = [(k + 1) / (k + 341) for k in range(171)]
    assert iou_of_classes(confusion) == pytest.approx(expected)
    benchmark.pedantic(iou_of_classes, (confusion,), warmup_rounds=2, rounds=50)
