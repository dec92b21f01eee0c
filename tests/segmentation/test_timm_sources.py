"""Models of open_clip around a ViT of timm, by a configuration and a file of weights."""

import open_clip
import pytest
import torch
from loading import CPU, changed, equal_states, state_of, write_json
from safetensors.torch import save_file

from cdam_fast import CDAMSegmenter
from cdam_fast.segmentation import sources
from cdam_fast.segmentation.load import load_clip

timm = pytest.importorskip("timm")
NAME = "vit_xsmall_patch16_clip_224"  # the smallest of timm's that has such a name


def configuration(folder):
    if NAME not in timm.list_models("vit_xsmall*"):
        pytest.skip(f"timm: this version has no {NAME}")
    tower = {"timm_model_name": NAME, "timm_model_pretrained": False, "timm_pool": "avg", "timm_proj": "linear"}
    config = changed(custom_text=True) | {"vision_cfg": {**tower, "image_size": 224}}
    pixels = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    return config, write_json(folder / "open_clip_config.json", {"model_cfg": config, "preprocess_cfg": pixels})


def test_a_vit_of_timm_from_a_folder(tmp_path):
    config, path = configuration(tmp_path)
    state = state_of(config)
    save_file(state, tmp_path / "model.safetensors")
    model, _ = load_clip(path.parent, None, CPU)
    equal_states(model, state)
    options = {"text_features": torch.eye(32)[:2], "augmented_prompts": False, "short_side": 64, "window": 64}
    made = CDAMSegmenter(model, None, ["background", "cat"], stride=32, background=None, **options)
    image = torch.rand(3, 64, 64)
    torch.testing.assert_close(made.normalise(image), 2 * image - 1)
    assert made(image).labels.shape == (64, 64)


@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP", "ViT-SO400M-14-SigLIP-384", "ViT-B-16-SigLIP2", "ViT-B-16"])
def test_names_of_plain_vits(name):
    config = open_clip.get_model_config(name)
    if config is None:
        pytest.skip(f"open_clip: this version has no {name}")
    config["text_cfg"].pop("hf_tokenizer_name", None)
    sources._check_config(config, name)


@pytest.mark.parametrize(
    "name", ["convnext_base", "EVA02-B-16", "PE-Core-B-16", "MobileCLIP-B", "ViTamin-B", "swin_base"]
)
def test_names_of_other_towers(name):
    config = open_clip.get_model_config("swin_base_patch4_window7_224" if name == "swin_base" else name)
    if config is None:
        pytest.skip(f"open_clip: this version has no {name}")
    with pytest.raises(
        ValueError, match=r"model_name: the image tower of .* is .*, takes open_clip's own ViT or SigLIP"
    ):
        sources._check_config(config, name)
