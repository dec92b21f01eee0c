"""Names of models that cannot be, and the tiny model's."""

import open_clip
import pytest
import torch
from loading import CONFIG, CPU, changed, equal_states, state_of, write_json
from safetensors.torch import save_file

from cdam_fast import CDAMSegmenter
from cdam_fast.segmentation import sources
from cdam_fast.segmentation.load import load_clip, model_defaults

NAMES = ["background", "cat", "dog"]


# --- names that cannot be


TRANSFORMERS = changed(text_cfg={"hf_model_name": "roberta-base", "hf_tokenizer_name": "roberta-base"})


@pytest.mark.parametrize(
    ("make", "error", "named"),
    [
        (lambda folder: ("ViT-B-16", None), ValueError, "pretrained: got None, takes a file of weights or a tag of"),
        (lambda folder: ("ViT-B-16", ""), ValueError, "pretrained: got '', takes a file of weights or a tag of"),
        (lambda folder: ("ViT-B-16", 3), TypeError, "pretrained: got int, takes a tag or a file"),
        (lambda folder: ("ViT-B-16", "a\0b"), ValueError, "pretrained: got 'a"),
        (lambda folder: ("ViT-B-16", "a" * 5000), ValueError, "pretrained: got 'aaa"),
        (lambda folder: (None, "openai"), TypeError, "model_name: got NoneType"),
        (lambda folder: ("VIT/B/61", "openai"), ValueError, "model_name: got 'VIT/B/61', takes 'tiny', a model of"),
        (lambda folder: (folder, None), ValueError, "model_name: .* is no folder with a file open_clip_config.json"),
        (lambda folder: (f"local-dir:{folder}/no", None), ValueError, "model_name: .*no is no folder with a file"),
        (lambda folder: ("RN50", "openai"), ValueError, "model_name: the image tower of RN50 is a ResNet"),
        (lambda folder: ("EVA02-B-16", "merged2b_s8b_b131k"), ValueError, "model_name: the image tower of EVA02-B-16"),
        (
            lambda folder: (write_json(folder / "a.json", CONFIG), None),
            ValueError,
            "pretrained: got None, takes a file of weights for",
        ),
        (
            lambda folder: (write_json(folder / "a.json", [1]), "w.pt"),
            ValueError,
            "is no open_clip model configuration",
        ),
        (
            lambda folder: (write_json(folder / "a.json", CONFIG | {"text_cfg": 3}), "w.pt"),
            ValueError,
            "is no open_clip model configuration",
        ),
        (
            lambda folder: (write_json(folder / "open_clip_config.json", {"model_cfg": CONFIG}), None),
            ValueError,
            "pretrained: got None, takes one of the files of .*no file of weights",
        ),
    ],
)
def test_bad_names(make, error, named, tmp_path):
    with pytest.raises(error, match=named):
        load_clip(*make(tmp_path), CPU)


def test_a_configuration_that_open_clip_cannot_make(tmp_path):
    save_file(state_of(), tmp_path / "weights.safetensors")
    path = write_json(tmp_path / "model.json", changed(vision_cfg={"no_such_key": 1}))
    with pytest.raises(ValueError, match=r"model_name: open_clip .* cannot make .*model.json: .*no_such_key"):
        load_clip(path, tmp_path / "weights.safetensors", CPU)


def test_a_text_tower_that_needs_transformers(tmp_path, monkeypatch):
    find = sources.importlib.util.find_spec
    monkeypatch.setattr(
        sources.importlib.util, "find_spec", lambda name, *rest: None if name == "transformers" else find(name, *rest)
    )
    path = write_json(tmp_path / "model.json", TRANSFORMERS)
    with pytest.raises(RuntimeError, match=r"model_name: .* has a text tower of transformers \(roberta-base\), which"):
        load_clip(path, tmp_path / "weights.safetensors", CPU)
    for name in ("roberta-ViT-B-32", "xlm-roberta-base-ViT-B-32"):
        with pytest.raises(RuntimeError, match=f"model_name: {name} has a text tower of transformers .*pip install"):
            load_clip(name, "laion2b_s12b_b32k", CPU)


def test_a_tokenizer_that_cannot_be_had(config, tmp_path, monkeypatch):
    def no_tokenizer(*args, **options):
        raise OSError("We couldn't connect")

    save_file(state_of(), tmp_path / "weights.safetensors")
    monkeypatch.setattr(open_clip.tokenizer, "SimpleTokenizer", no_tokenizer)
    with pytest.raises(RuntimeError, match=r"model_name: cannot get the tokenizer of .*: We couldn't connect"):
        load_clip(config, tmp_path / "weights.safetensors", CPU)


@pytest.mark.parametrize(("device", "error"), [("gpu", ValueError), (3, TypeError), ("cuda:x", ValueError)])
def test_bad_devices(device, error):
    with pytest.raises(error, match="device: got"):
        CDAMSegmenter.from_pretrained("tiny", class_names=NAMES, device=device)


def test_class_names_are_needed():
    with pytest.raises(TypeError, match="class_names: got None"):
        CDAMSegmenter.from_pretrained("tiny")


# --- the tiny model


def test_the_tiny_model_by_name():
    made = CDAMSegmenter.from_pretrained("tiny", class_names=["background", "a circle", "a star"])
    options = made.options
    assert (options.short_side, options.window, options.stride) == (224, 224, 112)
    assert made(torch.rand(3, 120, 96)).labels.shape == (120, 96)
    model, _ = load_clip("tiny", None, CPU)
    half = float(model.logit_scale.detach().exp()) / 2  # its logarithm is stored in float16
    assert options.logit_scale == pytest.approx(half, rel=1e-3)
    over = CDAMSegmenter.from_pretrained("tiny", class_names=NAMES, logit_scale=20, stride=96)
    assert (over.options.logit_scale, over.options.stride) == (20, 96)


def test_defaults_of_models():
    assert model_defaults("tiny")["window"] == 224
    assert model_defaults("ViT-B-16") == {}
    model_defaults("tiny").clear()
    assert model_defaults("tiny")


def test_other_weights_for_the_tiny_configuration(tmp_path):
    model, _ = load_clip("tiny", None, CPU)
    state = {name: value + 1 for name, value in model.state_dict().items()}
    save_file(state, tmp_path / "weights.safetensors")
    equal_states(load_clip("tiny", tmp_path / "weights.safetensors", CPU)[0], state)
    with pytest.raises(ValueError, match="pretrained: got 'openai', takes a file of weights"):
        load_clip("tiny", "openai", CPU)
