"""OpenAI's weights get QuickGELU in whatever file they are; the tensors of its TorchScript."""

import warnings

import numpy as np
import open_clip
import pytest
import torch
from loading import CONFIG, CPU, activations, changed, known_config, state_of, write_json
from openai_clip import openai_model, original_state
from safetensors.torch import save_file
from torch import nn

from cdam_fast import CDAMSegmenter
from cdam_fast.segmentation.archive import is_archive, read_archive
from cdam_fast.segmentation.load import load_clip


@pytest.fixture
def config(tmp_path):
    return known_config(tmp_path)


def saved_as(kind, path):
    """OpenAI's structure with random weights, written as people have it."""
    model = openai_model(vocabulary=1000)
    state = original_state(model)
    if kind == "original":
        torch.save(state, path)
    elif kind == "original_safetensors":
        save_file(state, path)
    elif kind == "archive":
        for name in ("input_resolution", "context_length", "vocab_size"):
            model.register_buffer(name, state[name]) if not hasattr(model, name) else None
        holder = model.float()
        for name in ("context_length", "vocab_size"):
            delattr(holder, name)
            holder.register_buffer(name, state[name])
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            example = (torch.zeros(1, 3, 64, 64), torch.zeros(1, 77, dtype=torch.int64))
            torch.jit.save(torch.jit.trace(holder, example, check_trace=False), str(path))
    else:
        plain = {name: value for name, value in state.items() if value.dim() or name == "logit_scale"}
        if kind == "converted":
            plain = {name: value.float() for name, value in plain.items()}
        save_file(plain, path)
    return model


@pytest.mark.parametrize("kind", ["original", "original_safetensors", "archive", "converted", "mixed"])
def test_openais_weights_get_quickgelu(kind, tmp_path, recwarn):
    """Told by what they are; where that is a guess, it is said."""
    json_path = write_json(tmp_path / "model.json", CONFIG)
    path = tmp_path / (
        "weights.safetensors" if kind in ("original_safetensors", "converted", "mixed") else "weights.pt"
    )
    source = saved_as(kind, path)
    recwarn.clear()
    model, _ = load_clip(json_path, path, CPU)
    assert activations(model) == "QuickGELU"
    said = [str(one.message) for one in recwarn.list if "QuickGELU" in str(one.message)]
    assert len(said) == (kind in ("converted", "mixed"))
    assert all(value.dtype == torch.float32 for value in model.state_dict().values())
    tokens = torch.randint(1000, (2, 77))
    source = source.float()
    with torch.no_grad():
        expected = source.encode_text(tokens), source.encode_image(torch.ones(1, 3, 64, 64))
        torch.testing.assert_close(model.encode_text(tokens), expected[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model.encode_image(torch.ones(1, 3, 64, 64)), expected[1], rtol=1e-4, atol=1e-5)
    recwarn.clear()
    assert activations(load_clip(json_path, path, CPU, quick_gelu=False)[0]) == "GELU"
    assert activations(load_clip(json_path, path, CPU, quick_gelu=True)[0]) == "QuickGELU"
    assert not [one for one in recwarn.list if "QuickGELU" in str(one.message)]


@pytest.mark.parametrize("name", ["ViT-B-16-OpenAI.safetensors", "vit_base_patch16_clip_224.openai/model.safetensors"])
def test_openais_weights_by_name(name, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    save_file(state_of(), tmp_path / name)
    with pytest.warns(UserWarning, match="QuickGELU: taken, as the weights of .*safetensors look like OpenAI's"):
        model, _ = load_clip(write_json(tmp_path / "model.json", CONFIG), tmp_path / name, CPU)
    assert activations(model) == "QuickGELU"


@pytest.mark.parametrize("folder", [False, True], ids=["name", "folder"])
def test_a_name_that_says_quickgelu_wins(folder, tmp_path, monkeypatch, recwarn):
    """Over weights that are not OpenAI's, and over a configuration beside them."""
    save_file(state_of(), tmp_path / "weights.safetensors")
    if folder:
        write_json(tmp_path / "open_clip_config.json", {"model_cfg": CONFIG | {"quick_gelu": False}})
    monkeypatch.setattr(
        open_clip, "get_model_config", lambda name: changed(**{"quick_gelu": True} if "quickgelu" in name else {})
    )
    recwarn.clear()
    for name, kind in (("ViT-B-16-quickgelu", "QuickGELU"), ("ViT-B-16", "GELU")):
        assert activations(load_clip(name, tmp_path / "weights.safetensors", CPU)[0]) == kind
    assert not [one for one in recwarn.list if "QuickGELU" in str(one.message)]


@pytest.mark.parametrize("kind", ["float32", "half", "bound_but_float32", "half_but_other_scale"])
def test_other_weights_keep_gelu(kind, tmp_path, recwarn):
    state = state_of()
    if "half" in kind:
        state = {name: value.half() for name, value in state.items()}
    if kind != "float32":
        state["logit_scale"] = torch.tensor(100.0).log().to(torch.float16 if kind == "half" else torch.float32)
    if kind == "half_but_other_scale":
        state["logit_scale"] = torch.tensor(4.6)
    save_file(state, tmp_path / "weights.safetensors")
    model, _ = load_clip(write_json(tmp_path / "model.json", CONFIG), tmp_path / "weights.safetensors", CPU)
    assert activations(model) == "GELU"
    assert not [one for one in recwarn.list if "QuickGELU" in str(one.message)]


@pytest.mark.parametrize("says", [True, False])
def test_a_configuration_that_says_the_activation_wins(says, tmp_path, recwarn):
    saved_as("converted", tmp_path / "weights.safetensors")
    path = write_json(tmp_path / "model.json", CONFIG | {"quick_gelu": says})
    assert activations(load_clip(path, tmp_path / "weights.safetensors", CPU)[0]) == ("QuickGELU" if says else "GELU")
    assert not [one for one in recwarn.list if "QuickGELU" in str(one.message)]


def test_the_archives_tensors_are_its_state_dict(tmp_path):
    saved_as("archive", tmp_path / "weights.pt")
    assert is_archive(tmp_path / "weights.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = torch.jit.load(str(tmp_path / "weights.pt"), map_location="cpu").state_dict()
    state = read_archive(tmp_path / "weights.pt")
    assert set(state) == set(expected)
    assert all(torch.equal(state[name], value) and state[name].dtype == value.dtype for name, value in expected.items())


def test_a_checkpoint_is_no_archive(tmp_path):
    torch.save({"a": torch.zeros(2)}, tmp_path / "weights.pt")
    assert not is_archive(tmp_path / "weights.pt")
    (tmp_path / "noise.pt").write_bytes(b"noise")
    assert not is_archive(tmp_path / "noise.pt")


def test_damaged_archives_are_named(config, tmp_path):
    path = tmp_path / "weights.pt"
    saved_as("archive", path)
    content = bytearray(path.read_bytes())
    generator = np.random.default_rng(0)
    for i in range(15):
        damaged = content.copy()
        start = int(generator.integers(len(damaged) - 4))
        for place in (start, start + 1, int(generator.integers(2000)), len(damaged) - int(generator.integers(1, 3000))):
            damaged[place] = int(generator.integers(256))
        (tmp_path / f"{i}.pt").write_bytes(damaged[: len(damaged) - (i % 3) * 50])
        try:
            load_clip(config, tmp_path / f"{i}.pt", CPU)
        except ValueError as error:
            assert str(error).startswith("pretrained: ")  # noqa: PT017


def test_a_model_handed_over_is_left_as_it_is():
    model = openai_model()
    for block in (*model.visual.transformer.resblocks, *model.transformer.resblocks):
        block.mlp.gelu = nn.GELU()
    CDAMSegmenter(
        model,
        open_clip.get_tokenizer("ViT-B-16"),
        ["background", "cat"],
        cache_dir=False,
        templates=[str],
        short_side=64,
        window=64,
        stride=32,
        augmented_prompts=False,
        scales=(1.0,),
    )
    assert activations(model) == "GELU"
