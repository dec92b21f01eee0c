"""Entropy threshold by hand, the CLS token, and the lists of names."""

import math

import numpy as np
import pytest
import torch

from cdam_fast import AUGMENTED_TEXT_PROMPTS, cdam_attention, entropy_threshold, with_cls_token
from cdam_fast.prompts import CLASS_LISTS
from cdam_fast.testing import clip_like

QUARTER = 2 - 0.75 * math.log2(3)
"""Entropy in bits of (1/4, 3/4)."""


def columns(*probabilities):
    """Logits whose softmax at logit_scale 50 gives these distributions, one a patch."""
    return torch.tensor(probabilities, dtype=torch.float64).log().mT / 50


@pytest.mark.parametrize(
    ("logits", "entropies"),
    [
        (torch.zeros(2, 6, dtype=torch.float64), (1, 1)),
        (torch.full((4, 6), 0.3, dtype=torch.float64), (2, 2)),
        (columns((0.5, 0.5), (0.25, 0.75)), (QUARTER, 1)),
        (columns((0.25, 0.25, 0.25, 0.25), (1e-30, 0.5, 0.5, 1e-30), (0.25, 0.75, 1e-30, 1e-30)), (QUARTER, 2)),
        (columns((0.5, 0.5), (1e-40, 1.0)), (0, 1)),
    ],
    ids=["two_even", "four_even", "even_and_quarter", "smallest_of_three", "certain_and_even"],
)
def test_threshold_by_hand(logits, entropies):
    centre = sum(entropies) / 2
    assert entropy_threshold(logits).item() == pytest.approx(0.5 * 2.5 / centre, rel=1e-12)
    assert entropy_threshold(logits, alpha=2.0, default=0.4).item() == pytest.approx(0.8 / centre, rel=1e-12)


def test_middle_patches_do_not_count():
    ends = columns((0.5, 0.5), (0.25, 0.75))
    assert entropy_threshold(torch.cat((ends, columns((0.4, 0.6), (0.3, 0.7))), 1)) == entropy_threshold(ends)


def test_logit_scale_is_a_factor():
    logits = torch.randn(7, 9, dtype=torch.float64) / 20
    torch.testing.assert_close(entropy_threshold(logits, logit_scale=100), entropy_threshold(2 * logits))


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)], ids=["no_batch", "B2", "B2x3"])
def test_one_threshold_an_image(batch):
    logits = torch.randn(*batch, 5, 9, dtype=torch.float64) / 20
    result = entropy_threshold(logits)
    assert result.shape == batch
    alone = [entropy_threshold(image) for image in logits.reshape(-1, 5, 9)]
    torch.testing.assert_close(result.flatten(), torch.stack(alone), rtol=1e-14, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_dtypes(dtype):
    logits = (torch.randn(21, 30) / 20).to(dtype)
    result = entropy_threshold(logits)
    assert result.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(result.double(), entropy_threshold(logits.double()), rtol=1e-5, atol=0)


def test_nine_words_as_the_page_of_the_tiny_model_says():
    certain, undecided = torch.tensor([1.0, *[-1.0] * 8]), torch.zeros(9)
    both = entropy_threshold(torch.stack([certain, undecided], -1))
    assert float(both) == pytest.approx(2.5 / math.log2(9), rel=1e-6) == pytest.approx(0.79, abs=5e-3)
    assert float(entropy_threshold(undecided.view(9, 1))) == pytest.approx(float(both) / 2, rel=1e-6)


def test_every_patch_certain_is_infinite():
    certain = torch.tensor([1.0, -1.0]).expand(3, 2).mT
    assert entropy_threshold(certain, logit_scale=1000).item() == math.inf
    assert entropy_threshold(torch.zeros(1, 4)).item() == math.inf


@pytest.mark.parametrize("value", [torch.nan, torch.inf], ids=str)
def test_not_finite_stays_in_its_image(value):
    logits = torch.zeros(3, 2, 4)
    logits[1, 0, 2] = value
    result = entropy_threshold(logits)
    assert result.isnan().tolist() == [False, True, False]
    assert result[[0, 2]].tolist() == [1.25, 1.25]


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)], ids=["no_batch", "B2", "B2x3"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_cls_token_is_a_zero_row_and_column_in_front(batch, dtype):
    attention = torch.rand(*batch, 4, 4).to(dtype) + 1
    result = with_cls_token(attention)
    assert result.shape == (*batch, 5, 5)
    assert result.dtype == dtype
    assert torch.equal(result[..., 1:, 1:], attention)
    assert result[..., 0, :].count_nonzero() == 0
    assert result[..., :, 0].count_nonzero() == 0


def test_cls_token_passes_the_gradient():
    similarity = clip_like(5, 4, 4).requires_grad_()
    with_cls_token(cdam_attention(similarity)).square().sum().backward()
    assert similarity.grad.abs().max() > 0


@pytest.mark.parametrize("batch", [(), (1,), (3,), (2, 3), (0,)], ids=["no_batch", "B1", "B3", "B2x3", "B0"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_heads_of_an_image_in_a_row(batch, dtype):
    attention = (torch.rand(*batch, 4, 4) + 1).to(dtype)
    weight = with_cls_token(attention, heads=12)
    images = attention.reshape(-1, 4, 4)
    assert weight.shape == (12 * len(images), 5, 5)
    assert weight.dtype == dtype
    for i, head in enumerate(weight):
        assert torch.equal(head[1:, 1:], images[i // 12])
    assert weight[:, 0].count_nonzero() == weight[..., 0].count_nonzero() == 0


@pytest.mark.parametrize("batch", [1, 3])
def test_heads_meet_the_values_of_clips_attention(batch):
    tokens, heads, width = 5, 2, 6
    values = torch.randn(tokens, batch, heads * width)
    attention = torch.rand(batch, tokens - 1, tokens - 1)
    v = values.reshape(tokens, batch * heads, width).transpose(0, 1)
    out = torch.bmm(with_cls_token(attention, heads=heads), v).transpose(0, 1).reshape(tokens, batch, heads * width)
    for image in range(batch):
        torch.testing.assert_close(out[1:, image], attention[image] @ values[1:, image])
    assert out[0].count_nonzero() == 0


@pytest.mark.parametrize("batch", [(), (1,)], ids=["no_batch", "B1"])
def test_heads_of_one_image_share_their_memory(batch):
    weight = with_cls_token(torch.rand(*batch, 4, 4), heads=np.int64(12))
    assert weight.shape == (12, 5, 5)
    assert weight.stride(0) == 0


def test_every_head_passes_its_gradient():
    attention = torch.rand(2, 4, 4, dtype=torch.float64, requires_grad=True)
    share = torch.rand(6, 5, 5, dtype=torch.float64)
    (with_cls_token(attention, heads=3) * share).sum().backward()
    torch.testing.assert_close(attention.grad, share.unflatten(0, (2, 3)).sum(1)[:, 1:, 1:])


def test_augmented_prompts():
    assert isinstance(AUGMENTED_TEXT_PROMPTS, tuple)
    assert len(AUGMENTED_TEXT_PROMPTS) == len(set(AUGMENTED_TEXT_PROMPTS)) == 80
    attributes, categories = AUGMENTED_TEXT_PROMPTS[:55], AUGMENTED_TEXT_PROMPTS[55:]
    assert (attributes[0], attributes[-1]) == ("black", "transparent")
    assert (categories[0], categories[-1], len(categories)) == ("person", "plant", 25)
    assert all(prompt == prompt.strip() and prompt for prompt in AUGMENTED_TEXT_PROMPTS)


@pytest.mark.parametrize(("name", "size"), [("VOC21", 21), ("Context60", 60), ("COCO-Object", 81)])
def test_class_lists(name, size):
    classes = CLASS_LISTS[name]
    assert len(classes) == len(set(classes)) == size
    assert classes[0] == "background"


def test_there_are_three_class_lists():
    assert list(CLASS_LISTS) == ["VOC21", "Context60", "COCO-Object"]
