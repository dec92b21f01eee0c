"""State dicts from files, without running what is in them, and into a model by open_clip's own rules."""

from __future__ import annotations

import math
import pickle
import re
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cdam_fast.compat import OutOfMemoryError, load_tensors
from cdam_fast.segmentation.archive import is_archive, read_archive

_TAKES = "takes safetensors, or a checkpoint of plain tensors"
_WRAPPED = re.compile(r"^(module\.|_orig_mod\.)+")
_SIZES_OF_OPENAI = {"input_resolution", "context_length", "vocab_size"}


class Weights(NamedTuple):
    """A state dict and where it is from."""

    state: dict[str, Tensor]
    path: Path
    original: bool
    """Whether it has the three sizes that OpenAI's own files have among the weights."""


def read_weights(path: Path) -> Weights:
    """A state dict from safetensors, from a checkpoint that loads without running pickled code, or from TorchScript.

    Raises:
        ValueError: no such file, another format, or a checkpoint that would run code.
    """
    if not path.is_file():
        raise ValueError(f"pretrained: there is no file {path}")
    if path.suffix in (".npz", ".npy"):
        raise ValueError(f"pretrained: {path} is in NumPy's format, for other towers than CLIP's; {_TAKES}")
    try:
        state = _read(path)
    except pickle.UnpicklingError:
        raise ValueError(f"pretrained: {path} would run pickled code to load, and is refused; {_TAKES}") from None
    except (MemoryError, OutOfMemoryError, ImportError):
        raise
    except Exception as error:  # whatever a damaged file makes a reader raise
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"pretrained: cannot read {path}: {reason[0]}") from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"pretrained: {path} holds no state dict")
    state = {_WRAPPED.sub("", str(name)): value for name, value in state.items()}
    rest = {name: value for name, value in state.items() if name not in _SIZES_OF_OPENAI}
    return Weights(rest, path, len(state) - len(rest) == len(_SIZES_OF_OPENAI))


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    if is_archive(path):
        return read_archive(path)
    return load_tensors(path)


def fit_weights(model: Any, weights: Weights) -> None:
    """Load them as open_clip does: position embeddings resized, older and other projects' names converted.

    It is open_clip's own load_checkpoint, with what is read already in the place of its reader, which in some versions
    and with some errors loads pickled code.

    Raises:
        ValueError: weights of another model.
    """
    from open_clip import factory

    own: Any = factory.load_checkpoint
    namespace = {**vars(factory), "load_state_dict": lambda *arguments, **options: dict(weights.state)}
    load = FunctionType(own.__code__, namespace, own.__name__, own.__defaults__, own.__closure__)
    load.__kwdefaults__ = own.__kwdefaults__
    try:
        load(model, "no file")
    except (MemoryError, OutOfMemoryError):
        raise
    except Exception as error:  # other names and shapes fail in many places
        lines = [line.strip() for line in str(error).splitlines()]
        reason = next((line for line in lines[1:] if line), lines[0] if lines else type(error).__name__)
        raise ValueError(f"pretrained: {weights.path} does not fit the model: {reason[:300]}") from None


def looks_like_openai(weights: Weights) -> bool:
    """Whether these are probably OpenAI's, in another file than its own.

    Their matrices are in half precision, exactly, also where they are stored in float32; and their logit scale is not,
    at the bound that they were trained with, ln 100.
    """
    file, folders = weights.path.name, weights.path.parts[:-1]
    if "openai" in file.lower() or any(folder.endswith(".openai") for folder in folders):  # as the hub's are called
        return True
    scale = weights.state.get("logit_scale")
    if scale is None or scale.numel() != 1 or scale.dtype != torch.float32:
        return False
    if abs(float(scale) - math.log(100)) > 1e-6:
        return False
    matrices = [
        value
        for name, value in weights.state.items()
        if value.dim() > 1 and name.endswith(("in_proj_weight", "conv1.weight", "c_fc.weight", "c_proj.weight"))
    ]
    return bool(matrices) and all(torch.equal(value.half().to(value.dtype), value) for value in matrices)
