"""Weights from files: equal to what open_clip makes of them, without running what is in them."""

import collections
import logging
import pickle
import tarfile
import warnings
import zipfile

import numpy as np
import open_clip
import pytest
import torch
from loading import CONFIG, CPU, changed, equal_states, known_config, state_of, write_json
from safetensors.torch import load_file, save_file

from cdam_fast.segmentation.load import load_clip


@pytest.fixture
def config(tmp_path):
    return known_config(tmp_path)


# --- whatever open_clip loads


def nested(state):
    return {"epoch": 3, "name": "run", "state_dict": {f"module.{name}": value for name, value in state.items()}}


def in_half(state):
    return {name: value.half() for name, value in state.items()}


def one_dimensional_scale(state):
    return state | {"logit_scale": state["logit_scale"].reshape(1)}


KINDS = {
    "plain": (CONFIG, lambda state: state),
    "module": (CONFIG, lambda state: {f"module.{name}": value for name, value in state.items()}),
    "nested": (CONFIG, nested),
    "half": (CONFIG, in_half),
    "scale": (CONFIG, one_dimensional_scale),
    "larger_image": (changed(vision_cfg={"image_size": 96}), lambda state: state),
    "smaller_image": (changed(vision_cfg={"image_size": 32}), lambda state: state),
    "longer_text": (changed(text_cfg={"context_length": 99}), lambda state: state),
    "shorter_text": (changed(text_cfg={"context_length": 33}), lambda state: state),
}


def write_as_checkpoint(path):
    torch.save(load_file(path), path.with_suffix(".pt"))
    return path.with_suffix(".pt")


@pytest.mark.parametrize("custom_text", [False, True], ids=["clip", "custom_text"])
@pytest.mark.parametrize(
    ("kind", "ending"),
    [
        (kind, ending)
        for kind in KINDS
        for ending in ("safetensors", "pt")
        if (kind, ending) != ("nested", "safetensors")
    ],
)
def test_what_open_clip_loads(kind, custom_text, ending, tmp_path):
    """Equal to its create_model, also where the file is of the older layout without a text module."""
    trained, change = KINDS[kind]
    state = change(state_of(trained))
    path = tmp_path / f"weights.{ending}"
    if ending == "pt":
        torch.save(state, path)
    else:
        save_file(state, path)
    name = f"cdam-loading-{'custom' if custom_text else 'test'}"
    json_path = write_json(tmp_path / f"{name}.json", CONFIG | {"custom_text": custom_text})
    open_clip.add_model_config(json_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            expected = open_clip.create_model(name, pretrained=str(path)).state_dict()
        except Exception:  # older versions: text positions of such a model, safetensors
            expected = None
    if expected is None:
        if custom_text and "text" in kind:
            with pytest.raises(ValueError, match="does not fit the model"):
                load_clip(json_path, path, CPU)
            return
        assert ending == "safetensors"
        expected = load_clip(json_path, write_as_checkpoint(path), CPU)[0].state_dict()
    model, _ = load_clip(json_path, path, CPU)
    equal_states(model, expected)
    assert not model.training


def test_compiled_models_prefix(config, tmp_path):
    state = state_of()
    save_file({f"module._orig_mod.{name}": value for name, value in state.items()}, tmp_path / "weights.safetensors")
    equal_states(load_clip(config, tmp_path / "weights.safetensors", CPU)[0], state)


def test_nothing_is_said_of_random_weights(config, tmp_path, caplog, recwarn):
    save_file(state_of(), tmp_path / "weights.safetensors")
    with caplog.at_level(logging.INFO):
        load_clip(config, tmp_path / "weights.safetensors", CPU)
    assert "random" not in caplog.text
    assert not recwarn.list


def test_a_configuration_changes_no_name_of_open_clip(tmp_path):
    before = open_clip.get_model_config("ViT-B-16")
    save_file(state_of(), tmp_path / "weights.safetensors")
    model, _ = load_clip(write_json(tmp_path / "ViT-B-16.json", CONFIG), tmp_path / "weights.safetensors", CPU)
    assert model.visual.output_dim == 32
    assert open_clip.get_model_config("ViT-B-16") == before


@pytest.mark.parametrize(
    "other",
    [
        changed(embed_dim=16),
        changed(vision_cfg={"patch_size": 32}),
        changed(vision_cfg={"layers": 2}),
        changed(vision_cfg={"layers": 4}),
        changed(vision_cfg={"width": 32}),
        changed(text_cfg={"width": 32}),
        changed(text_cfg={"vocab_size": 100}),
    ],
    ids=["embed_dim", "patch", "fewer_layers", "more_layers", "width", "text_width", "vocabulary"],
)
def test_weights_of_another_model(other, config, tmp_path):
    save_file(state_of(other), tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=r"pretrained: .*weights.safetensors does not fit the model: \S"):
        load_clip(config, tmp_path / "weights.safetensors", CPU)


def test_numpys_format_is_refused(config, tmp_path):
    np.savez(tmp_path / "weights.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match=r"pretrained: .* is in NumPy's format"):
        load_clip(config, tmp_path / "weights.npz", CPU)


# --- pickled code, by every way in


class Runs:
    def __reduce__(self):
        return (print, ("pickled code ran",))


class RaisesTypeError:
    """A reader that falls back to running code on a TypeError would run what comes next."""

    def __reduce__(self):
        return (collections.OrderedDict, (3,))


@pytest.mark.parametrize(
    "content",
    [[Runs()], [RaisesTypeError(), Runs()], {"state_dict": {"a": Runs()}}],
    ids=["list", "after_an_error", "state_dict"],
)
@pytest.mark.parametrize("way", ["torch", "legacy", "pickle", "archive", "script", "tar"])
def test_no_pickled_code_runs(content, way, config, tmp_path, capsys):
    path = tmp_path / "weights.pt"
    if way == "pickle":
        path.write_bytes(pickle.dumps(content))
    elif way == "archive":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("a/data.pkl", pickle.dumps(content))
            file.writestr("a/code/__torch__.py", "class A(Module):\n  __parameters__ = []\n")
    elif way == "script":  # what torch takes for TorchScript
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("a/data.pkl", pickle.dumps(content))
            file.writestr("a/constants.pkl", pickle.dumps(content))
    elif way == "tar":
        (tmp_path / "storages").write_bytes(pickle.dumps(content))
        with tarfile.open(path, "w") as file:
            file.add(tmp_path / "storages", "storages")
    else:
        torch.save(content, path, _use_new_zipfile_serialization=way == "torch")
    for name in (config, "ViT-B-16"):
        with pytest.raises(ValueError, match=r"pretrained: .*(would run pickled code|cannot read)"):
            load_clip(name, path, CPU)
    assert "ran" not in capsys.readouterr().out
