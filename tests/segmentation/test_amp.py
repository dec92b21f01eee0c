"""``amp``: most of the image tower in half precision, the map and the logits in float32."""

import argparse
import contextlib
import json
import math

import amp_labels
import documentation
import pytest
import torch
from segmenters import every_base, photograph, segmenter
from towers import small_model

from cdam_fast.commands import evaluate
from cdam_fast.models import BASES


def pixels_of(made):
    return made.normalise(photograph(64, 64)).unsqueeze(0)


@every_base
def test_logits_are_float32_and_near(base):
    model = small_model()
    whole, half = segmenter(model, base=base), segmenter(model, base=base, amp=True)
    exact, near = whole.word_logits(pixels_of(whole)), half.word_logits(pixels_of(half))
    assert exact.dtype == near.dtype == torch.float32
    error = (near - exact).abs().max()
    assert 1e-6 < error < 5e-2  # bfloat16 has 8 bits
    assert half.tower.dtype == torch.float32
    assert half.attention(pixels_of(half)).dtype == torch.float32


@pytest.mark.parametrize("base", [name for name in BASES if name not in ("maskclip", "sclip", "clearclip", "gem")])
def test_other_bases(base):
    half = segmenter(base=base, amp=True)
    assert half(photograph(64, 80)).labels.shape == (64, 80)


def test_the_last_block_is_left_alone():
    """A model of one block has none before the last."""
    model = small_model(layers=1)
    whole, half = segmenter(model), segmenter(model, amp=True)
    assert torch.equal(whole.word_logits(pixels_of(whole)), half.word_logits(pixels_of(half)))


def test_each_block_keeps_the_residual_path_in_float32():
    made = segmenter(amp=True)
    x = torch.randn(2, 17, 64)
    with torch.no_grad():
        for block in made.tower.blocks[:-1]:
            after = block.run(x)
            assert after.dtype == torch.float32
            assert not torch.equal(after, after.bfloat16().float())
            assert (after - block._block.run(x)).abs().max() < 0.1


@pytest.mark.parametrize("around", [contextlib.nullcontext, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_autocast_of_the_caller_changes_nothing(around):
    made = segmenter(amp=True)
    expected = made.word_logits(pixels_of(made))
    with around():
        assert torch.equal(made.word_logits(pixels_of(made)), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_another_dtype_is_refused(dtype):
    with pytest.raises(ValueError, match=rf"amp: got True for a model in {dtype}, takes one in torch\.float32"):
        segmenter(amp=True, dtype=dtype)
    segmenter(dtype=dtype)


@pytest.mark.parametrize("amp", [1, "yes", None])
def test_no_flag(amp):
    with pytest.raises(TypeError, match="amp: got"):
        segmenter(amp=amp)


# --- how many labels it changes: benchmarks/amp_labels.py


@pytest.fixture(scope="module")
def recorded():
    return {row["base"]: row for row in json.loads(amp_labels.RECORDED.read_text())["rows"]}


def test_what_is_said_is_what_was_counted(recorded):
    counts = {base: row["changed_in_a_million"] for base, row in recorded.items()}
    most = max(counts, key=counts.get)
    page = (documentation.ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    assert (
        f"it changed {counts['maskclip']:.0f} labels in a million (MaskCLIP) to {counts[most]:.0f} (ClearCLIP)" in page
    )
    assert (min(counts, key=counts.get), most) == ("maskclip", "clearclip")
    parser = argparse.ArgumentParser()
    evaluate.add_command(parser.add_subparsers())
    (commands,) = (action for action in parser._actions if action.choices)
    text = " ".join(commands.choices["evaluate"].format_help().split())
    assert f"no label beyond {math.ceil(counts[most])} in a million" in text


def test_half_precision_costs_no_accuracy(recorded):
    assert all(abs(row["miou"] - row["miou_amp"]) < 1e-4 for row in recorded.values())


@pytest.mark.slow
def test_the_count_is_what_is_counted_again(recorded):
    again = amp_labels.count("maskclip", scenes=8)
    assert again["pixels"] == 8 * 224 * 224
    assert again["changed_in_a_million"] < 5 * recorded["maskclip"]["changed_in_a_million"]
