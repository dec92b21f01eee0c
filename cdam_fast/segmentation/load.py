"""Model and tokenizer by open_clip's names, weights from its hub or from a local file."""

from __future__ import annotations

import difflib
import json
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cdam_fast.compat import OutOfMemoryError
from cdam_fast.models import Tokenizer

_FILES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


def load_clip(model_name: str, pretrained: str | Path, device: torch.device) -> tuple[Any, Tokenizer]:
    """An open_clip model in evaluation mode, and its tokenizer.

    Args:
        model_name: a name of open_clip's, or the path of a model configuration in its JSON format.
        pretrained: a tag of open_clip's for that model (downloaded on first use), or a file with the model's state
            dict: safetensors, or a PyTorch checkpoint that loads without running code (``weights_only``).
        device: where to put it.

    Raises:
        ValueError: a name, a tag, a configuration or a file that this cannot be. RuntimeError: weights that cannot be
            downloaded.
    """
    import open_clip

    name = _model_name(model_name)
    path = Path(pretrained)
    tags = open_clip.list_pretrained_tags_by_model(name)
    if path.suffix in _FILES or path.is_file():
        state = read_weights(path)
        model = _created(open_clip, name, None, device)
        _load(model, state, path)
    elif str(pretrained) in tags:
        model = _created(open_clip, name, str(pretrained), device)
    else:
        known = f"a tag of {model_name} ({', '.join(tags)})" if tags else f"{model_name} has no tags"
        raise ValueError(f"pretrained: got {str(pretrained)!r}, takes a file of weights or {known}")
    return model.eval(), open_clip.get_tokenizer(name)


def _model_name(model_name: str) -> str:
    import open_clip

    if not isinstance(model_name, str):
        raise TypeError(f"model_name: got {type(model_name).__name__}, takes a string")
    if not model_name.endswith(".json"):
        if model_name not in open_clip.list_models():
            close = difflib.get_close_matches(model_name, open_clip.list_models(), 3) or ["ViT-B-16", "ViT-L-14"]
            raise ValueError(
                f"model_name: got {model_name!r}, takes a JSON file or a model of open_clip, such as "
                + ", ".join(close)
            )
        return model_name
    path = Path(model_name)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"model_name: cannot read {path}: {error}") from None
    if not isinstance(config, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= set(config):
        raise ValueError(f"model_name: {path} is no open_clip model configuration (embed_dim, vision_cfg, text_cfg)")
    open_clip.add_model_config(path)
    return path.stem


def _created(open_clip: Any, name: str, tag: str | None, device: torch.device) -> Any:
    try:
        return open_clip.create_model(name, pretrained=tag, device=device)
    except OutOfMemoryError:
        raise
    except Exception as error:  # a hub, a proxy, a disk: whatever it is, the weights could not be had
        if tag is None:
            raise
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise RuntimeError(
            f"pretrained: cannot get {tag!r} of {name} ({reason[0][:200]}); run once with a network, or give the "
            "path of its weights in safetensors format"
        ) from None


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from a safetensors file, or from a checkpoint that loads without running pickled code.

    Raises:
        ValueError: no such file, another format, or a checkpoint that would run code.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise ValueError(f"pretrained: there is no file {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(
            f"pretrained: {path} would run pickled code to load, and is refused; takes safetensors, or a checkpoint "
            "of plain tensors"
        ) from None
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"pretrained: cannot read {path}: {reason[0]}") from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"pretrained: {path} holds no state dict")
    return {name.removeprefix("module."): value for name, value in state.items()}


def _load(model: Any, state: dict[str, Tensor], path: Path) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
        raise ValueError(f"pretrained: {path} does not fit the model: {lines[0][:300]}") from None
