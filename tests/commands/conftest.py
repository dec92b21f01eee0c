"""Runs of the command line: weights of a small model, photographs, folders."""

import json
import os

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from saved_photo import save_photo


@pytest.fixture
def arguments(tiny, tmp_path):
    """A run over three photographs, one of which fails, with a name in Japanese and one that is no text."""
    folder = tmp_path / "写真"
    folder.mkdir()
    for name in (b"a.png", b"caf\xe9.png", "あ.png".encode()):
        with open(os.fsencode(folder) + b"/" + name, "wb") as file:  # noqa: PTH123 - a name in bytes
            Image.new("RGB", (40, 30), (200, 0, 0)).save(file, format="PNG")
    (folder / "broken.png").write_bytes(b"nothing")
    out = ["--out", str(tmp_path / "結果")]
    return ["segment", str(folder), "--classes", "red,猫", *tiny, "--background", "none", *out]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A tiny random model: options of the command line."""
    folder = tmp_path_factory.mktemp("model")
    vision = {"image_size": 64, "patch_size": 64, "head_width": 16, "width": 32, "layers": 2}
    text = {"context_length": 77, "vocab_size": 49408, "heads": 1, "width": 16, "layers": 1}
    config = folder / "cdam-tiny-cli.json"
    config.write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(config)
    torch.manual_seed(0)
    save_file(open_clip.create_model(config.stem).state_dict(), folder / "weights.safetensors")
    return ["--model", str(config), "--pretrained", str(folder / "weights.safetensors")]


@pytest.fixture
def photo(tmp_path):
    (tmp_path / "in").mkdir()
    return save_photo(tmp_path / "in" / "photo.png")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"
