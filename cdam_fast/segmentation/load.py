"""Model and tokenizer by name or from files, as open_clip makes and loads them."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cdam_fast.compat import OutOfMemoryError
from cdam_fast.models import Tokenizer, own_settings
from cdam_fast.segmentation.options import check_channels, check_flag
from cdam_fast.segmentation.sources import TINY, Source, find_source
from cdam_fast.segmentation.weights import Weights, fit_weights, looks_like_openai, read_weights

_DEFAULTS = {TINY: {"short_side": 224, "window": 224, "stride": 112, "logit_scale": 50.0}}
"""The tiny model's largest trained side, 28 patches, and half of the factor it was trained with: as the paper does."""


def model_defaults(model_name: object) -> dict[str, Any]:
    """Arguments of `CDAMSegmenter` that this model wants other than its defaults, by name; mostly none."""
    return dict(_DEFAULTS.get(model_name, {})) if isinstance(model_name, str) else {}


def load_clip(
    model_name: str | Path, pretrained: str | Path | None, device: torch.device, quick_gelu: bool | None = None
) -> tuple[Any, Tokenizer]:
    """A CLIP of open_clip in float32 and evaluation mode, and its tokenizer.

    Args:
        model_name: ``"tiny"``, the model in the package; a name of open_clip's (``"ViT-B-16"``, ``"ViT-B/16"``,
            ``"hf-hub:org/repository"``); a folder with ``open_clip_config.json`` (``"local-dir:"`` in front or not); or
            a model configuration in open_clip's JSON format.
        pretrained: a tag of open_clip for that model (downloaded on first use), or a file with the model's state dict:
            safetensors, a PyTorch checkpoint that loads without running code (``weights_only``), or the TorchScript of
            OpenAI's own files, whose tensors are read. None for models that come with their weights.
        device: where to put it.
        quick_gelu: the activation; None is what the name, the tag, the configuration or the weights say. OpenAI's
            weights get QuickGELU; where they are only guessed to be OpenAI's, that is said in a warning.

    Mean and std of the pixels, where the tag or the configuration says them, are in ``model.visual.image_mean`` and
    ``image_std``.

    Raises:
        TypeError, ValueError: names, a configuration or a file that these cannot be. RuntimeError: weights that cannot
            be downloaded; a text tower that needs transformers where that is not installed.
    """
    if quick_gelu is not None:
        quick_gelu = check_flag("quick_gelu", quick_gelu)
    source = find_source(model_name, pretrained)
    with own_settings(torch.device("cpu")):
        tokenizer = _tokenizer(source)
        weights = read_weights(source.weights())
        model = _created(source, _activation(source, weights, quick_gelu))
        fit_weights(model, weights)
        _set_pixels(model.visual, source, weights)
        return model.to(device).eval(), tokenizer


def _tokenizer(source: Source) -> Tokenizer:
    try:
        return source.tokenizer()
    except Exception as error:  # files of transformers, from its hub
        reason = textwrap.shorten(str(error) or type(error).__name__, 200, placeholder=" ...")
        raise RuntimeError(f"model_name: cannot get the tokenizer of {source.title}: {reason}") from None


def _activation(source: Source, weights: Weights, wanted: bool | None) -> bool:
    if wanted is not None or source.quick_gelu is not None:
        return bool(source.quick_gelu if wanted is None else wanted)
    if not weights.original and looks_like_openai(weights):
        warnings.warn(
            f"QuickGELU: taken, as the weights of {weights.path.name} look like OpenAI's; quick_gelu=False is for "
            "GELU, quick_gelu=True or a model name that ends in -quickgelu says it without this note",
            stacklevel=4,
        )
        return True
    return weights.original


def _created(source: Source, quick_gelu: bool) -> Any:
    """As open_clip's create_model, which takes registered names only and says that the weights are random."""
    import open_clip

    config = deepcopy(source.config) | {"quick_gelu": quick_gelu}
    from_transformers = "hf_model_name" in config["text_cfg"]
    if from_transformers:
        config["text_cfg"]["hf_model_pretrained"] = False  # the weights come next
    kind: Any = open_clip.CLIP
    if config.pop("custom_text", False) or from_transformers:
        kind = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP
    try:
        model: nn.Module = kind(**config)
    except (MemoryError, OutOfMemoryError):
        raise
    except Exception as error:  # keys and sizes that this open_clip has no model for
        reason = textwrap.shorten(str(error) or type(error).__name__, 200, placeholder=" ...")
        raise ValueError(
            f"model_name: open_clip {open_clip.version.__version__} cannot make {source.title}: {reason}"
        ) from None
    return model.float()  # whatever the default dtype is


def _set_pixels(visual: Any, source: Source, weights: Weights) -> None:
    pixels: Mapping[str, Any] = source.pixels or {}
    for name, key in (("image_mean", "mean"), ("image_std", "std")):
        if pixels.get(key) is not None:
            setattr(visual, name, tuple(check_channels(name, pixels[key])))
    if source.pixels is None and not weights.original:
        warnings.warn(
            f"image_mean: CLIP's own is taken, but some weights of {source.title} want another; image_mean and "
            "image_std say it",
            stacklevel=4,
        )
