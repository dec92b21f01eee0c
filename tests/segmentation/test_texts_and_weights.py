"""Text features and weights of the segmenter."""

import json
import pickle

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from towers import small_model

from cdam_fast import CDAMSegmenter
from cdam_fast.prompts import AUGMENTED_TEXT_PROMPTS
from cdam_fast.segmentation import cache, texts

SIZES = {"short_side": 64, "window": 64, "stride": 32, "scales": (1.0,)}


NAMES = ["background", ["cat", "kitten"]]

# --- text features


def segmenter(model=None, tokenizer=None, names=NAMES, **options):
    if tokenizer is None:
        given = torch.eye(32)[:3]
        options = {"text_features": given, "augmented_text_features": torch.eye(32)[3:9], "cache_dir": False} | options
    return CDAMSegmenter(model or small_model(layers=1), tokenizer, names, **(SIZES | options))


TEMPLATES = ("a photo of a {}.".format, "the {}.".format)


def test_words_then_augmented_prompts(tokenizer):
    model = small_model(layers=1)
    made = segmenter(model, tokenizer, templates=TEMPLATES, cache_dir=False)
    words = ["background", "cat", "kitten", *AUGMENTED_TEXT_PROMPTS]
    expected = open_clip.build_zero_shot_classifier(model, tokenizer, words, TEMPLATES).T
    torch.testing.assert_close(made.texts.features, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made.texts.class_features, expected[:3], rtol=1e-4, atol=1e-5)


def test_no_word_is_encoded_twice(tokenizer, tmp_path, monkeypatch):
    model = small_model(layers=1)
    encoded = []
    compute = texts.class_features

    def listening(model, tokenizer, words, templates):
        encoded.extend(words)
        return compute(model, tokenizer, words, templates)

    monkeypatch.setattr(texts, "class_features", listening)
    options = {"templates": TEMPLATES, "cache_dir": tmp_path}
    first = segmenter(model, tokenizer, **options)
    assert len(encoded) == len(set(encoded)) == 83
    again = segmenter(small_model(layers=1), tokenizer, **options)
    assert len(encoded) == 83
    assert torch.equal(first.texts.features, again.texts.features)
    segmenter(model, tokenizer, ["background", "cat", "dog"], **options)
    assert encoded[83:] == ["dog"]
    assert len(list(tmp_path.iterdir())) == 1
    segmenter(small_model(layers=1, seed=1), tokenizer, ["cat"], augmented_prompts=False, background=None, **options)
    assert encoded[84:] == ["cat"]
    assert len(list(tmp_path.iterdir())) == 2


def test_the_image_tower_does_not_matter_to_the_key(tokenizer):
    one, other = small_model(layers=1), small_model(layers=1)
    with torch.no_grad():
        other.visual.conv1.weight.zero_()
    assert cache.fingerprint(one, tokenizer, TEMPLATES) == cache.fingerprint(other, tokenizer, TEMPLATES)
    with torch.no_grad():
        other.text_projection[0, 0] += 1
    assert cache.fingerprint(one, tokenizer, TEMPLATES) != cache.fingerprint(other, tokenizer, TEMPLATES)


def test_a_broken_cache_is_said_and_replaced(tokenizer, tmp_path):
    options = {"templates": TEMPLATES, "cache_dir": tmp_path, "augmented_prompts": False}
    expected = segmenter(None, tokenizer, **options).texts.features
    (path,) = tmp_path.iterdir()
    path.write_bytes(b"not a safetensors file")
    with pytest.warns(UserWarning, match="cache: cannot read .*, computing again"):
        again = segmenter(None, tokenizer, **options)
    assert torch.equal(again.texts.features, expected)
    assert load_file(path)["features"].shape == (3, 32)


def test_a_cache_that_cannot_be_written_is_said(tokenizer, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="cache: cannot write"):
        segmenter(None, tokenizer, templates=TEMPLATES, cache_dir=tmp_path / "file", augmented_prompts=False)


@pytest.mark.parametrize(
    ("templates", "error"), [("a {}", TypeError), (["a {}"], TypeError), (3, TypeError), ([], ValueError)], ids=str
)
def test_bad_templates(templates, error, tokenizer):
    with pytest.raises(error, match="templates: got"):
        segmenter(None, tokenizer, templates=templates)


# --- weights


@pytest.fixture
def config(tmp_path):
    """A model configuration in open_clip's format."""
    tower = {"width": 64, "layers": 1}
    vision = {"image_size": 64, "patch_size": 16, "head_width": 32, **tower}
    text = {"context_length": 77, "vocab_size": 49408, "heads": 2, **tower}
    path = tmp_path / "cdam-test-model.json"
    path.write_text(json.dumps({"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}))
    return path


@pytest.fixture
def state(config):
    open_clip.add_model_config(config)
    torch.manual_seed(3)
    return open_clip.create_model(config.stem).state_dict()


def loaded(model, weights):
    options = {"text_features": torch.eye(32)[:1], "augmented_prompts": False, "background": None}
    return CDAMSegmenter.from_pretrained(str(model), weights, ["cat"], **options, **SIZES)


@pytest.mark.parametrize("kind", ["safetensors", "plain", "nested"])
def test_weights_from_a_file(kind, config, state, tmp_path):
    path = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pt")
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state if kind == "plain" else {"state_dict": state, "epoch": 3}, path)
    made = loaded(config, path)
    assert torch.equal(made.tower.visual.proj, state["visual.proj"])
    assert not made.tower.visual.training


class Evil:
    def __reduce__(self):
        return (print, ("pickled code ran",))


def test_pickled_code_is_refused_and_does_not_run(config, tmp_path, capsys):
    for name, write in {"a.pt": torch.save, "b.pt": lambda value, path: path.write_bytes(pickle.dumps(value))}.items():
        write({"weights": Evil()}, tmp_path / name)
        with pytest.raises(ValueError, match=r"pretrained: .* is refused|pretrained: cannot read"):
            loaded(config, tmp_path / name)
    assert "ran" not in capsys.readouterr().out


def test_files_that_are_no_weights(config, state, tmp_path):
    def bad(name, content):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    with pytest.raises(ValueError, match="pretrained: there is no file"):
        loaded(config, tmp_path / "missing.safetensors")
    with pytest.raises(ValueError, match="pretrained: cannot read"):
        loaded(config, bad("noise.safetensors", b"noise"))
    with pytest.raises(ValueError, match="pretrained: "):
        loaded(config, bad("noise.pt", b"noise"))
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="holds no state dict"):
        loaded(config, tmp_path / "list.pt")
    save_file({name: value for name, value in state.items() if name != "visual.proj"}, tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match=r"does not fit the model: .*visual.proj"):
        loaded(config, tmp_path / "part.safetensors")


def test_names_that_are_not_there(tmp_path, config):
    with pytest.raises(ValueError, match=r"model_name: got 'ViT-B-61', takes .*ViT-B-16"):
        loaded("ViT-B-61", "laion2b_s34b_b88k")
    with pytest.raises(ValueError, match=r"pretrained: got 'laion3b', takes a file of weights or .*laion2b_s34b_b88k"):
        loaded("ViT-B-16", "laion3b")
    with pytest.raises(ValueError, match="model_name: cannot read"):
        loaded(tmp_path / "missing.json", "weights.safetensors")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="is no open_clip model configuration"):
        loaded(tmp_path / "other.json", "weights.safetensors")
    with pytest.raises(TypeError, match="model_name: got int"):
        CDAMSegmenter.from_pretrained(3, "weights", ["cat"])
