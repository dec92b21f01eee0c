"""The tensors of a TorchScript archive, which is what OpenAI published its models as; none of its code is run."""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_STORAGES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def is_archive(path: Path) -> bool:
    """Whether the file has TorchScript's code beside its tensors."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as file:
        return any(name.split("/", 1)[-1].startswith("code/") for name in file.namelist())


def read_archive(path: Path) -> dict[str, Tensor]:
    """The state dict of the archive's module, on the CPU.

    Raises:
        pickle.UnpicklingError: it names anything but modules, tensors and lists. Others: a damaged archive.
    """
    with zipfile.ZipFile(path) as file:
        top = next(name for name in file.namelist() if name.split("/", 1)[-1] == "data.pkl")[: -len("data.pkl")]
        root = _Tensors(file, top).load()
    state: dict[str, Tensor] = {}
    _collect(root, "", state)
    return state


class _Module:
    """An object of a class that the archive defines: its attributes, and which of them are its state."""

    names: frozenset[str] = frozenset()

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) else {}


def _collect(module: Any, prefix: str, state: dict[str, Tensor]) -> None:
    for name, value in getattr(module, "attributes", {}).items():
        if isinstance(value, _Module):
            _collect(value, f"{prefix}{name}.", state)
        elif isinstance(value, Tensor) and name in module.names:
            state[prefix + name] = value


class _Tensors(pickle.Unpickler):
    """Makes modules without methods, tensors and lists, and refuses every other class and function."""

    def __init__(self, file: zipfile.ZipFile, top: str) -> None:
        super().__init__(io.BytesIO(file.read(f"{top}data.pkl")))
        self.file, self.top = file, top

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "__torch__":
            return type("_Module", (_Module,), {"names": self._state_of(module, name)})
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        known = {
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
            ("torch.jit._pickle", "restore_type_tag"): lambda value, tag: value,
            ("collections", "OrderedDict"): dict,
        }
        if module == "torch.jit._pickle" and name.startswith("build_"):
            return list
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return known[module, name]

    def persistent_load(self, reference: Any) -> Tensor:
        _, dtype, key, _, count = reference
        content = bytearray(self.file.read(f"{self.top}data/{key}"))
        if not content:
            return torch.empty(0, dtype=dtype)
        return torch.frombuffer(content, dtype=dtype, count=count)

    def _state_of(self, module: str, name: str) -> frozenset[str]:
        """Parameters and buffers of a class, which its source lists."""
        source = self.file.read(f"{self.top}code/{module.replace('.', '/')}.py").decode()
        body = source.partition(f"class {name}(")[2].partition("\nclass ")[0]
        lists = re.findall(r"__(?:parameters|buffers)__ = \[([^]]*)\]", body)
        return frozenset(re.findall(r'"([^"]+)"', " ".join(lists)))


def _rebuild(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: object) -> Tensor:
    return torch.as_strided(storage, size, stride, offset)
