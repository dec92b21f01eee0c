"""Text features on disk, by what the model and its tokenizer make of words: never computed twice."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import warnings
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

import torch
from torch import Tensor, nn

from cdam_fast.arguments import plain
from cdam_fast.models import IMAGE_WEIGHTS, Tokenizer, same_features, text_features, tokenize

Template = Callable[[str], str]

_PROBE = "a photo of a quick brown fox, near 2 Dark-Blue tables at das Café № 7!"


def open_cache(
    cache_dir: object, model: nn.Module, tokenizer: Tokenizer, templates: Sequence[Template]
) -> Cache | None:
    """The cache for this model, or None where there is none: cache_dir is False, or there is no home folder.

    Raises:
        TypeError: a cache_dir that is neither a folder nor True or False.
    """
    cache_dir = plain(cache_dir)
    if isinstance(cache_dir, (str, os.PathLike)):
        folder: Path | None = Path(cache_dir)
    elif isinstance(cache_dir, bool):
        folder = default_folder() if cache_dir else None
    else:
        raise TypeError(f"cache_dir: got {cache_dir!r}, takes a folder, True or False")
    if folder is None:
        return None
    return Cache(folder, fingerprint(model, tokenizer, templates), probe(model, tokenizer), _dtype(model))


def default_folder() -> Path | None:
    """``$XDG_CACHE_HOME/cdam_fast``, or ``~/.cache/cdam_fast``; None, said, where the user has no home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cdam_fast"
    except (RuntimeError, KeyError):
        warnings.warn("cache: off, as this user has no home folder; cache_dir takes another folder", stacklevel=2)
        return None


def fingerprint(model: nn.Module, tokenizer: Tokenizer, templates: Sequence[Template]) -> str:
    """Equal for models with the same text weights and tokenizers that make the same of the templates."""
    digest = hashlib.sha256(b"2")  # the format of the file
    for name, value in sorted(model.state_dict().items()):
        if not name.startswith(IMAGE_WEIGHTS) and isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    _update(digest, tokenize(tokenizer, [template("thing") for template in templates]))
    return digest.hexdigest()[:32]


def probe(model: nn.Module, tokenizer: Tokenizer) -> Tensor:
    """``[1, D]``: what the model does, which its weights do not tell: activations, heads, masks, hooks, adapters."""
    return text_features(model, tokenizer, [_PROBE], shorten=False).cpu()


def word_keys(tokenizer: Tokenizer, words: Sequence[str], templates: Sequence[Template]) -> list[str]:
    """A key for each word: its prompts, and the tokens of the first and of the longest."""
    prompts = [[template(word) for template in templates] for word in words]
    tokens = tokenize(tokenizer, [chosen for own in prompts for chosen in (own[0], max(own, key=len))])
    keys = []
    for own, rows in zip(prompts, tokens.cpu().reshape(len(words), 2, -1)):
        digest = hashlib.sha256(json.dumps(own).encode())
        _update(digest, rows)
        keys.append(digest.hexdigest()[:32])
    return keys


def _update(digest: hashlib._Hash, tokens: Tensor) -> None:
    digest.update(f"{tuple(tokens.shape)}".encode())
    digest.update(tokens.cpu().to(torch.int64).contiguous().numpy().tobytes())


def _dtype(model: nn.Module) -> torch.dtype:
    """The coarsest of the text tower, which says how far its features move from machine to machine."""
    own = {value.dtype for name, value in model.named_parameters() if not name.startswith(IMAGE_WEIGHTS)}
    return next((dtype for dtype in (torch.bfloat16, torch.float16, torch.float32) if dtype in own), torch.float64)


class Cache:
    """Safetensors files of one fingerprint: a row of features for each key, and the probe of the model they are of.

    Features can differ by rounding from machine to machine, so that the probe is compared, not hashed: models of
    equal weights that do something else have files of their own, numbered.
    """

    def __init__(self, folder: Path, key: str, probe: Tensor, dtype: torch.dtype) -> None:
        self.folder, self.key, self.probe, self.dtype = folder, key, probe, dtype
        self.path = folder / f"text-{key}.safetensors"

    def read(self) -> dict[str, Tensor]:
        """Features ``[D]`` by key; empty where there is no file yet, and said where it cannot be read."""
        from safetensors import SafetensorError, safe_open

        for number in count():
            self.path = self.folder / f"text-{self.key}{f'-{number}' if number else ''}.safetensors"
            try:
                if not self.path.exists():
                    return {}
                with safe_open(self.path, framework="pt") as file:
                    if same_features(file.get_tensor("probe"), self.probe, self.dtype):
                        keys = json.loads(file.metadata()["keys"])
                        return dict(zip(keys, file.get_tensor("features")))
            except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
                warnings.warn(f"cache: cannot read {self.path}, computing again: {error}", stacklevel=2)
                break
        return {}

    def write(self, features: dict[str, Tensor]) -> None:
        """Replace the file, which is whole at any moment; said where it cannot be written."""
        from safetensors.torch import save

        rows = torch.stack([row.cpu() for row in features.values()])
        content = save({"features": rows, "probe": self.probe}, {"keys": json.dumps(list(features))})
        temporary = self.folder / f".text-{secrets.token_hex(8)}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                temporary.write_bytes(content)  # readable for whom the user's umask says
                temporary.replace(self.path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            warnings.warn(f"cache: cannot write {self.path}: {error}", stacklevel=2)


def cached_features(
    cache: Cache, keys: Sequence[str], words: Sequence[str], compute: Callable[[list[str]], Tensor]
) -> Tensor:
    """``[W, D]`` features of the words by their keys; those not in the cache are computed and added to it."""
    known = cache.read()
    missing = {key: word for key, word in zip(keys, words) if key not in known}
    if missing:
        known.update(zip(missing, compute(list(missing.values())).cpu()))
        cache.write(known)
    return torch.stack([known[key] for key in keys])
