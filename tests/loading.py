"""Small configurations and weights in files, for the tests of loading."""

import json

import open_clip
import torch

CPU = torch.device("cpu")
TOWER = {"width": 64, "layers": 3}
CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "patch_size": 16, "head_width": 32, **TOWER},
    "text_cfg": {"context_length": 77, "vocab_size": 1000, "heads": 2, **TOWER, "layers": 2},
}


def changed(**changes):
    """CONFIG with other entries, of both towers by name."""
    parts = {part: CONFIG[part] | changes.pop(part, {}) for part in ("vision_cfg", "text_cfg")}
    return CONFIG | parts | changes


def state_of(config=CONFIG, seed=3):
    torch.manual_seed(seed)
    kind = open_clip.CustomTextCLIP if config.get("custom_text") else open_clip.CLIP
    config = {name: value for name, value in config.items() if name != "custom_text"}
    return kind(**config).state_dict()


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def known_config(folder):
    """CONFIG in a file that open_clip knows too, so that it can load the same."""
    path = write_json(folder / "cdam-loading-test.json", CONFIG)
    open_clip.add_model_config(path)
    return path


def equal_states(model, expected):
    state = model.state_dict()
    assert list(state) == list(expected)
    for name, value in expected.items():
        assert state[name].dtype == value.dtype, name
        assert torch.equal(state[name], value), name


def activations(model):
    """Of both towers."""
    kinds = {type(module) for module in model.modules() if "GELU" in type(module).__name__}
    assert len(kinds) == 1
    return kinds.pop().__name__
