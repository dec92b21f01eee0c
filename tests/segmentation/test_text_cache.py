"""The cache of text features: what shares a file, what must not, and what happens where there can be none."""

import copy
import os
import stat
import subprocess
import sys
import warnings
from pathlib import Path

import open_clip
import pytest
import torch
from openai_clip import openai_model
from torch import nn
from torch.nn import functional
from towers import small_model

from cdam_fast import CDAMSegmenter
from cdam_fast.models import class_features
from cdam_fast.segmentation import cache, texts

SIZES = {"short_side": 64, "window": 64, "stride": 32, "scales": (1.0,)}
TEMPLATES = ("a photo of a {}.".format, "the {}.".format)
WORDS = ["background", "cat", "Kitten", "T-shirt", "café", "a very long name " * 11]


def features(model, tokenizer, folder, words=WORDS, templates=TEMPLATES):
    """What a segmenter with this cache has for the words."""
    options = {"augmented_prompts": False, "background": None, "templates": templates, "cache_dir": folder}
    return CDAMSegmenter(model, tokenizer, words, **options, **SIZES).texts.features


@pytest.fixture
def computed(monkeypatch):
    """The words that were computed, not found."""
    heard = []

    def listening(model, tokenizer, words, templates):
        heard.extend(words)
        return class_features(model, tokenizer, words, templates)

    monkeypatch.setattr(texts, "class_features", listening)
    return heard


# --- models of equal weights that do something else


def hooked(model):
    model.transformer.resblocks[0].mlp.register_forward_hook(lambda module, inputs, output: 1.1 * output)
    return model


def patched(model):
    encode = model.encode_text
    model.encode_text = lambda text, normalize=False: encode(text.flip(0), normalize).flip(0) + 0.05
    return model


class LowRank(nn.Module):
    """An adapter beside a layer, its weights elsewhere."""

    def __init__(self, layer):
        super().__init__()
        object.__setattr__(self, "layer", layer)
        torch.manual_seed(7)
        object.__setattr__(self, "factors", (torch.randn(256, 2) * 0.05, torch.randn(2, 64) * 0.05))
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x):
        return self.layer(x) + x @ self.factors[1].T @ self.factors[0].T


def adapted(model):
    mlp = model.transformer.resblocks[1].mlp
    mlp.c_fc = LowRank(mlp.c_fc)
    return model


def other_heads(model):
    for block in model.transformer.resblocks:
        block.attn.num_heads, block.attn.head_dim = 4, 16
    return model


def other_mask(model):
    model.attn_mask = torch.zeros_like(model.attn_mask)
    return model


def other_pooling(model):
    model.text_pool_type = "last"
    return model


def other_epsilon(model):
    model.transformer.resblocks[0].ln_1.eps = 1.0
    return model


OTHERS = {
    "quick_gelu": lambda model: small_model(quick_gelu=True),
    "hooked": hooked,
    "patched": patched,
    "adapted": adapted,
    "heads": other_heads,
    "mask": other_mask,
    "pooling": other_pooling,
    "epsilon": other_epsilon,
}


@pytest.mark.parametrize("kind", OTHERS)
def test_models_of_equal_weights(kind, tokenizer, tmp_path):
    """In either order, neither gets the other's features, and both keep their own."""
    for folder, makers in (("a", (small_model, None)), ("b", (None, small_model))):
        models = [make() if make else OTHERS[kind](small_model()) for make in makers]
        assert all(torch.equal(v, models[1].state_dict()[k]) for k, v in models[0].state_dict().items())
        made = [features(model, tokenizer, tmp_path / folder) for model in models]
        expected = [class_features(model, tokenizer, WORDS, TEMPLATES) for model in models]
        assert not torch.allclose(*expected, rtol=0, atol=1e-4)
        for one, other in zip(made, expected):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
        assert len(list((tmp_path / folder).iterdir())) == 2
        for model, other in zip(models, made):
            assert torch.equal(features(model, tokenizer, tmp_path / folder), other)


def test_openais_own_model_and_its_other_activation(tokenizer, tmp_path):
    one, other = openai_model(), openai_model()
    for block in other.transformer.resblocks:
        block.mlp.gelu = nn.GELU()
    for model in (one, other):
        expected = class_features(model, tokenizer, WORDS, TEMPLATES)
        torch.testing.assert_close(features(model, tokenizer, tmp_path), expected, rtol=0, atol=1e-6)


def test_one_word_of_other_weights(tokenizer, tmp_path):
    one, other = small_model(), small_model()
    (token,) = tokenizer(["cat"])[0, 1:2].tolist()
    with torch.no_grad():
        other.token_embedding.weight[token] += 0.1
    for model in (one, other):
        expected = class_features(model, tokenizer, WORDS, TEMPLATES)
        torch.testing.assert_close(features(model, tokenizer, tmp_path), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_weights_of_another_dtype(dtype, tokenizer, tmp_path):
    for model in (small_model(), small_model().to(dtype)):
        expected = class_features(model, tokenizer, WORDS, TEMPLATES)
        assert torch.equal(features(model, tokenizer, tmp_path).float(), functional.normalize(expected, dim=-1).float())


# --- tokenizers that differ on some words, or on some prompts


def cased(tokenizer, prompts):
    """Another first letter where it is a capital."""
    return tokenizer([prompt.replace("Kitten", "xitten") for prompt in prompts])


def without_accents(tokenizer, prompts):
    return tokenizer([prompt.replace("é", "e") for prompt in prompts])


def without_marks(tokenizer, prompts):
    return tokenizer([prompt.replace("-", " ") for prompt in prompts])


def cut_short(tokenizer, prompts):
    """A shorter context, to the model's length again."""
    tokens = tokenizer(prompts)
    end = tokens.argmax(-1)
    tokens[end > 30, 30] = tokens.max()
    tokens[:, 31:] = 0
    return tokens


def other_vocabulary(tokenizer, prompts):
    """One word's token is another."""
    tokens = tokenizer(prompts)
    (cat,) = tokenizer(["cat"])[0, 1:2].tolist()
    return torch.where(tokens == cat, cat + 1, tokens)


@pytest.mark.parametrize("kind", [cased, without_accents, without_marks, cut_short, other_vocabulary])
def test_tokenizers_that_treat_some_words_otherwise(kind, tokenizer, tmp_path):
    model = small_model()

    def other(prompts):
        return kind(tokenizer, prompts)

    made = [features(model, each, tmp_path) for each in (tokenizer, other)]
    expected = [class_features(model, each, WORDS, TEMPLATES) for each in (tokenizer, other)]
    assert not torch.allclose(*expected, rtol=0, atol=1e-4)
    for one, true in zip(made, expected):
        torch.testing.assert_close(one, true, rtol=0, atol=1e-6)


def test_templates_that_treat_one_word_otherwise(tokenizer, tmp_path):
    model = small_model()
    special = (TEMPLATES[0], lambda word: f"the {word}." if word != "cat" else "one cat.")
    for templates in (TEMPLATES, special, TEMPLATES[:1], TEMPLATES[::-1]):
        expected = class_features(model, tokenizer, WORDS, templates)
        made = features(model, tokenizer, tmp_path, templates=templates)
        torch.testing.assert_close(made, expected, rtol=0, atol=1e-6)


# --- what shares a file


def test_rounding_makes_no_other_file(tokenizer, tmp_path, computed, monkeypatch):
    """As another machine or another number of threads would have it."""
    features(small_model(), tokenizer, tmp_path)
    assert len(computed) == len(WORDS)
    probe = cache.probe
    monkeypatch.setattr(cache, "probe", lambda *both: probe(*both) + 1e-6 * torch.randn(1, 32))
    features(small_model(), tokenizer, tmp_path)
    assert len(computed) == len(WORDS)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("wrap", [nn.DataParallel, copy.deepcopy], ids=["wrapped", "copied"])
def test_the_same_model_again(wrap, tokenizer, tmp_path, computed):
    expected = features(small_model(), tokenizer, tmp_path)
    assert torch.equal(features(wrap(small_model()), tokenizer, tmp_path), expected)
    assert len(computed) == len(WORDS)


def test_a_tokenizer_that_refuses_long_prompts(tmp_path):
    own = open_clip.get_tokenizer("ViT-B-16")

    def strict(prompts):
        if any(len(prompt) > 200 for prompt in prompts):
            raise RuntimeError("Input is too long for context length 77")
        return own(prompts).to(torch.int32)

    made = features(small_model(), strict, tmp_path, words=WORDS[:5])
    torch.testing.assert_close(made, features(small_model(), own, False, words=WORDS[:5]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("result", [[[1, 2]], torch.zeros(3), torch.zeros(1, 77), {"input_ids": [1]}], ids=str)
def test_tokenizers_that_give_something_else(result):
    with pytest.raises(TypeError, match=r"tokenizer: gave .* takes a function to a tensor .prompts, length."):
        features(small_model(), lambda prompts: result, False)


# --- where there can be none


def test_the_file_follows_the_umask(tokenizer, tmp_path):
    for mask, mode in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
        before = os.umask(mask)
        try:
            features(small_model(), tokenizer, tmp_path / str(mask))
        finally:
            os.umask(before)
        (path,) = (tmp_path / str(mask)).iterdir()
        assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("error", [RuntimeError("Could not determine home directory."), KeyError("getpwuid")], ids=str)
def test_a_user_without_a_home_has_no_cache(error, tokenizer, monkeypatch):
    def no_home():
        raise error

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.warns(UserWarning, match="cache: off, as this user has no home folder") as heard:
        made = features(small_model(), tokenizer, True)
    assert len(heard) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(made, features(small_model(), tokenizer, False))


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="only root can become a user that is not there")
def test_a_user_that_is_not_known():
    code = """
import os, pwd, warnings
from cdam_fast.segmentation.cache import default_folder
os.setuid(54321)
with warnings.catch_warnings(record=True) as heard:
    warnings.simplefilter("always")
    print(default_folder(), [str(one.message) for one in heard])
"""
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.startswith("None ['cache: off"), done.stderr


@pytest.mark.parametrize("folder", [None, 3, b"folder"], ids=str)
def test_no_folder(folder, tokenizer):
    with pytest.raises(TypeError, match=r"cache_dir: got .* takes a folder, True or False"):
        features(small_model(), tokenizer, folder)
