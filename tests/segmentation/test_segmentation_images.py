"""Images of every kind and number through the segmenter, and dtypes."""

import pytest
import torch
from cases import float16_of_models
from PIL import Image
from segmenters import CLASSES, every_base, photograph, segmenter
from torch.nn import functional
from towers import small_model

from cdam_fast.segmentation import result

# the entropy of random models is often too low for Eq. 4
pytestmark = pytest.mark.filterwarnings("ignore:threshold:UserWarning")


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_batch_size_changes_nothing(batch_size):
    model = small_model()
    images = [photograph(64, 104), photograph(96, 64, 1), photograph(64, 64, 2), photograph(150, 200, 3)]
    alone = [segmenter(model, batch_size=8)(image) for image in images]
    together = segmenter(model, batch_size=batch_size).segment(images)
    for one, other in zip(alone, together):
        torch.testing.assert_close(one.word_logits, other.word_logits, rtol=0, atol=1e-5)
        torch.testing.assert_close(one.threshold, other.threshold, rtol=1e-4, atol=0)
        assert (one.labels != other.labels).float().mean() < 1e-3


def test_images_are_taken_as_they_are_needed():
    taken = []

    def images():
        for i in range(4):
            taken.append(i)
            yield photograph(64, 64, i)

    results = segmenter(batch_size=1).iterate(images())
    next(results)
    assert taken == [0]
    assert len(list(results)) == 3


def test_one_image_and_several():
    made = segmenter()
    image = photograph(64, 64)
    assert torch.equal(made.segment(image).labels, made(image).labels)
    assert [one.labels.shape for one in made.segment([image, photograph(64, 72)])] == [(64, 64), (64, 72)]
    assert len(made.segment(torch.stack([image, image]))) == 2
    assert made.segment([]) == []


@pytest.mark.parametrize("size", [(64, 104), (100, 70), (40, 30), (301, 203)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_labels_have_the_photographs_size(size):
    pixels = (photograph(max(size), max(size))[:, : size[0], : size[1]] * 255).to(torch.uint8)
    made = segmenter()
    whole = made(Image.fromarray(pixels.permute(1, 2, 0).numpy()))
    assert whole.labels.shape == size
    assert whole.labels.dtype == torch.int64
    assert whole.probability.shape == size
    assert whole.logits.shape == (4, *size)
    assert whole.class_names == ("background", "cat", "dog", "sofa")
    short = min(size)
    scaled = tuple(int(side * 64 / short + 0.5) for side in size)
    assert whole.word_logits.shape == (7, *scaled)
    upsampled = functional.interpolate(whole.word_logits[None], size=size, mode="bilinear")[0]
    most, index = torch.softmax(50 * upsampled, 0).max(0)
    torch.testing.assert_close(whole.probability, most, rtol=1e-4, atol=1e-6)
    expected = torch.where(most < whole.threshold, 0, torch.tensor(CLASSES)[index])
    assert torch.equal(whole.labels, expected)


def test_a_few_words_at_a_time_give_the_same(monkeypatch):
    logits = torch.randn(9, 8, 8)
    whole = result.best_word(logits, (30, 40), 50.0)
    monkeypatch.setattr(result, "_ELEMENTS_AT_ONCE", 2 * 30 * 40)
    parts = result.best_word(logits, (30, 40), 50.0)
    assert torch.equal(whole[0], parts[0])
    torch.testing.assert_close(whole[1], parts[1])


def test_array_tensor_and_picture_of_one_image_agree():
    pixels = (photograph(72, 64) * 255).to(torch.uint8)
    array = pixels.permute(1, 2, 0).numpy()
    made = segmenter()
    expected = made(pixels).word_logits
    for image in (array, Image.fromarray(array), pixels.float() / 255):
        torch.testing.assert_close(made(image).word_logits, expected, rtol=0, atol=1e-6)


@every_base
@pytest.mark.parametrize("dtype", [float16_of_models, torch.bfloat16, torch.float64], ids=str)
def test_dtype_is_of_a_copy(base, dtype):
    model = small_model()
    image = photograph(64, 64)
    expected = segmenter(model, base=base)(image)
    whole = segmenter(model, base=base, dtype=dtype)(image)
    assert model.visual.conv1.weight.dtype == torch.float32
    assert whole.word_logits.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert whole.word_logits.isfinite().all()
    error = (whole.word_logits.double() - expected.word_logits.double()).abs().max()
    assert error < {torch.float16: 0.02, torch.bfloat16: 0.15, torch.float64: 1e-5}[dtype]


def test_the_model_is_left_as_it_was():
    model = small_model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    made = segmenter(model)
    made(photograph(64, 80))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_model_with_its_own_normalisation():
    model = small_model()
    plain = segmenter(model)(photograph(64, 64))
    model.visual.image_mean, model.visual.image_std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    own = segmenter(model)(photograph(64, 64))
    pixels = ((photograph(64, 64) - 0.5) / 0.5).unsqueeze(0)
    assert not torch.allclose(plain.word_logits, own.word_logits)
    expected = functional.interpolate(segmenter(model).word_logits(pixels), size=(64, 64), mode="bilinear")
    torch.testing.assert_close(own.word_logits, expected[0])
