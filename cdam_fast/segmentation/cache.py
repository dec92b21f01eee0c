"""Text features on disk, by the model's text weights, the prompts and the word: never computed twice."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from cdam_fast.models import Tokenizer


def default_folder() -> Path:
    """``$XDG_CACHE_HOME/cdam_fast``, or ``~/.cache/cdam_fast``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cdam_fast"


def fingerprint(model: nn.Module, tokenizer: Tokenizer, templates: Sequence[Callable[[str], str]]) -> str:
    """Equal for models whose text weights, tokenizer and templates are equal."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if not name.startswith("visual."):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    tokens = tokenizer([template("thing") for template in templates])
    digest.update(f"{tuple(tokens.shape)}".encode())
    digest.update(tokens.contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


class TextCache:
    """One safetensors file: a row of features for each word, the words in its metadata."""

    def __init__(self, folder: Path, key: str) -> None:
        self.path = folder / f"text-{key}.safetensors"

    def read(self) -> dict[str, Tensor]:
        """Features ``[D]`` by word; empty where there is no file yet, and said where it cannot be read."""
        from safetensors import SafetensorError, safe_open

        if not self.path.exists():
            return {}
        try:
            with safe_open(self.path, framework="pt") as file:
                words = json.loads(file.metadata()["words"])
                return dict(zip(words, file.get_tensor("features")))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            warnings.warn(f"cache: cannot read {self.path}, computing again: {error}", stacklevel=2)
            return {}

    def write(self, features: dict[str, Tensor]) -> None:
        """Replace the file, which is whole at any moment; said where it cannot be written."""
        from safetensors.torch import save

        rows = torch.stack([row.cpu() for row in features.values()])
        content = save({"features": rows}, {"words": json.dumps(list(features))})
        temporary = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.path.parent, prefix=".text-", delete=False) as file:
                temporary = Path(file.name)
                file.write(content)
            temporary.replace(self.path)
        except OSError as error:
            if temporary is not None:
                temporary.unlink(missing_ok=True)
            warnings.warn(f"cache: cannot write {self.path}: {error}", stacklevel=2)


def cached_features(cache: TextCache, words: Sequence[str], compute: Callable[[list[str]], Tensor]) -> Tensor:
    """``[W, D]`` features of the words; those not in the cache are computed and added to it."""
    known = cache.read()
    missing = [word for word in words if word not in known]
    if missing:
        known |= dict(zip(missing, compute(missing).cpu()))
        cache.write(known)
    return torch.stack([known[word] for word in words])
