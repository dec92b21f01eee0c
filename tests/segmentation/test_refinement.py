"""PAMR against its definition written out pixel by pixel in float64."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from towers import small_model

import cdam_fast
from cdam_fast import CDAMSegmenter
from cdam_fast.segmentation import refinement, result

pytestmark = pytest.mark.filterwarnings("ignore:threshold:UserWarning")


def written_out(masks, image, iterations, dilations):
    """[C, H, W] and [K, H, W] as nested loops over pixels and neighbours."""
    masks, image = np.asarray(masks, dtype=np.float64), np.asarray(image, dtype=np.float64)
    height, width = image.shape[1:]

    def at(array, row, column):
        return array[:, min(max(row, 0), height - 1), min(max(column, 0), width - 1)]

    around = [(i, j) for i, j in itertools.product((-1, 0, 1), repeat=2) if i or j]
    weights = {}
    for row, column in np.ndindex(height, width):
        places = [(row + d * i, column + d * j) for d in dilations for i, j in around]
        own = image[:, row, column]
        seen = np.stack([at(image, *place) for place in places] + [own] * len(dilations))
        deviation = seen.std(axis=0, ddof=1)
        scores = np.array([np.mean(-np.abs(own - at(image, *place)) / (1e-8 + 0.1 * deviation)) for place in places])
        exponentials = np.exp(scores - scores.max())
        weights[row, column] = list(zip(places, exponentials / exponentials.sum()))
    for _ in range(iterations):
        following = np.zeros_like(masks)
        for (row, column), neighbours in weights.items():
            following[:, row, column] = sum(weight * at(masks, *place) for place, weight in neighbours)
        masks = following
    return torch.from_numpy(masks)


def random_image(height, width, seed=0):
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CASES = {
    "square": (2, 9, 9, 3, (1, 2)),
    "odd": (3, 7, 12, 2, (1, 2, 4, 8, 12, 24)),
    "one_class": (1, 6, 5, 10, (3,)),
    "one_row": (2, 1, 11, 2, (1, 30)),
    "one_pixel": (2, 1, 1, 2, (1, 2)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("banded", [False, True], ids=["whole", "bands"])
def test_equals_what_is_written_out(case, banded, monkeypatch):
    classes, height, width, iterations, dilations = CASES[case]
    if banded:
        monkeypatch.setattr(refinement, "_ELEMENTS_AT_ONCE", 4 * width * 8 * len(dilations))
        monkeypatch.setattr(refinement, "_ELEMENTS_IN_CACHE", 3 * width * classes)
    image = random_image(height, width)
    masks = torch.rand(classes, height, width, dtype=torch.float64)
    given = masks.clone()
    refined = cdam_fast.refine(masks, image, iterations=iterations, dilations=dilations)
    expected = written_out(masks, image, iterations, dilations)
    torch.testing.assert_close(refined, expected, rtol=1e-10, atol=1e-12)
    assert torch.equal(masks, given)
    single = cdam_fast.refine(masks.float(), image, iterations=iterations, dilations=dilations)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), expected, rtol=0, atol=1e-5)


def test_the_default_is_the_papers_setting():
    image, masks = random_image(5, 6), torch.rand(2, 5, 6, dtype=torch.float64)
    expected = written_out(masks, image, 10, (1, 2, 4, 8, 12, 24))
    torch.testing.assert_close(cdam_fast.refine(masks, image), expected, rtol=1e-10, atol=1e-12)


def test_labels_are_the_largest_refined_mask():
    labels = torch.randint(3, (8, 7), generator=torch.Generator().manual_seed(1)) * 20
    image = random_image(8, 7)
    masks = torch.stack([labels == value for value in (0, 20, 40)]).double()
    refined = cdam_fast.refine(labels, image, iterations=2, dilations=(1, 2))
    assert torch.equal(refined, written_out(masks, image, 2, (1, 2)).argmax(0) * 20)
    assert refined.dtype == torch.int64
    small = cdam_fast.refine(labels.to(torch.uint8), image, iterations=2, dilations=(1, 2))
    assert small.dtype == torch.uint8
    assert torch.equal(small.long(), refined)


def test_any_kind_of_image():
    bright = torch.randint(256, (3, 6, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    masks = torch.rand(2, 6, 8, dtype=torch.float64)
    array = bright.permute(1, 2, 0).numpy()
    images = [bright, bright.double() / 255, array, Image.fromarray(array)]
    one, *others = (cdam_fast.refine(masks, image, iterations=3, dilations=(1, 2)) for image in images)
    assert all(torch.allclose(one, other, rtol=0, atol=1e-12) for other in others)


def test_an_edge_moves_to_the_images():
    image = torch.zeros(3, 24, 24)
    image[:, :, 12:] = 1
    labels = torch.zeros(24, 24, dtype=torch.int64)
    labels[:, 10:] = 1
    expected = (image[0] > 0).long()
    assert torch.equal(cdam_fast.refine(labels, image, dilations=(1, 2, 4)), expected)


def test_an_image_of_one_colour_gives_plain_means():
    masks = torch.rand(2, 5, 5)
    refined = cdam_fast.refine(masks, torch.full((3, 5, 5), 0.3), iterations=1, dilations=(1,))
    expected = (masks[:, 1:4, 1:4].sum((1, 2)) - masks[:, 2, 2]) / 8
    torch.testing.assert_close(refined[:, 2, 2], expected)


def test_sums_to_one_and_half_precision_stays():
    masks = torch.softmax(torch.randn(4, 9, 9), 0)
    refined = cdam_fast.refine(masks.half(), random_image(9, 9))
    assert refined.dtype == torch.float16
    torch.testing.assert_close(refined.float().sum(0), torch.ones(9, 9), rtol=0, atol=2e-3)


def test_memory_is_of_the_weights_not_of_weights_by_classes():
    """Views of the padded masks are added up: no tensor is larger than the weights or the masks."""
    largest = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out._base is None:
                largest.append(out.numel())
            return out

    masks, image = torch.rand(30, 20, 20), random_image(20, 20).float()
    with Watch():
        cdam_fast.refine(masks, image, iterations=2, dilations=(1, 2, 4))
    assert max(largest) <= max(24 * 20 * 20, 30 * 28 * 28)


GOOD = torch.rand(2, 4, 5)
PICTURE = torch.zeros(3, 4, 5)


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        (([[1]], PICTURE), TypeError, "probabilities_or_labels: got list"),
        ((GOOD > 0.5, PICTURE), TypeError, "probabilities_or_labels: got dtype torch.bool"),
        ((GOOD[0], PICTURE), ValueError, r"probabilities_or_labels: got shape \(4, 5\) of torch.float32"),
        ((GOOD.long(), PICTURE), ValueError, r"probabilities_or_labels: got shape \(2, 4, 5\) of torch.int64"),
        ((GOOD[:0], PICTURE), ValueError, r"probabilities_or_labels: got shape \(0, 4, 5\)"),
        ((GOOD, PICTURE[:, 1:]), ValueError, "image: got 3x5 pixels, takes 4x5"),
        ((GOOD, "photo.jpg"), TypeError, "image: got str"),
        ((GOOD, PICTURE * torch.nan), ValueError, "image: got values"),
    ],
)
def test_bad_input(arguments, error, named):
    with pytest.raises(error, match=named):
        cdam_fast.refine(*arguments)


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"iterations": 0}, ValueError, "iterations: got 0, takes a whole number from 1"),
        ({"iterations": 2.5}, TypeError, "iterations: got 2.5"),
        ({"iterations": True}, TypeError, "iterations: got True"),
        ({"dilations": ()}, ValueError, r"dilations: got \(\)"),
        ({"dilations": (0, 1)}, ValueError, r"dilations: got \(0, 1\)"),
        ({"dilations": 3}, TypeError, "dilations: got 3"),
        ({"dilations": (1.5,)}, TypeError, r"dilations: got \(1.5,\)"),
    ],
)
def test_bad_options(options, error, named):
    with pytest.raises(error, match=named):
        cdam_fast.refine(GOOD, PICTURE, **options)


# --- in the segmenter

NAMES = ["background", ["cat", "kitten"], "dog"]


def segmenter(model, **options):
    words = torch.nn.functional.normalize(torch.randn(4, 32, generator=torch.Generator().manual_seed(3)), dim=-1)
    sizes = {"short_side": 64, "window": 64, "stride": 32, "scales": (1.0,)}
    return CDAMSegmenter(model, None, NAMES, text_features=words, augmented_prompts=False, **sizes, **options)


@pytest.mark.parametrize("at_once", [1 << 24, 2 * 20 * 30], ids=["all_words", "two_words"])
def test_the_segmenter_refines_the_logits_of_words(at_once, monkeypatch):
    monkeypatch.setattr(result, "_ELEMENTS_AT_ONCE", at_once)
    image = random_image(20, 30).float()
    made = segmenter(small_model(), refine=True, background=None)
    plain, refined = segmenter(small_model(), background=None)(image), made(image)
    logits = torch.nn.functional.interpolate(plain.word_logits[None], size=(20, 30), mode="bilinear")[0]
    probability, word = torch.softmax(50 * cdam_fast.refine(logits, image), 0).max(0)
    assert torch.equal(refined.labels, torch.tensor([0, 1, 1, 2])[word])
    torch.testing.assert_close(refined.probability, probability)
    assert torch.equal(refined.word_logits, plain.word_logits)
    assert not torch.equal(refined.labels, plain.labels)


def test_it_is_off_and_takes_a_flag():
    assert segmenter(small_model()).options.refine is False
    with pytest.raises(TypeError, match="refine: got 'yes', takes True or False"):
        segmenter(small_model(), refine="yes")
