"""Weights and configurations from open_clip's hosts: announced before they are waited for, errors in one sentence."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

CONFIGURATION = "open_clip_config.json"
_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")


def weights_of_tag(name: str, tag: str, config: dict[str, Any]) -> Path:
    """The file of a tag of open_clip; from its cache without asking the network."""
    import open_clip

    repository, _, file = config.get("hf_hub", "").rpartition("/")
    if "file" not in config and repository:
        names = (f"{file.rpartition('.')[0]}.safetensors", file) if file else _WEIGHTS
        known = _in_cache(repository, names)
        if known:
            return known
    if repository and open_clip.pretrained.has_hf_hub():
        host = _hub_host()
    else:
        host = urlsplit(config.get("url", "")).hostname or _hub_host()
        if _downloaded_before(config.get("url", "")):
            host = ""
    return _get(f"pretrained: {tag!r} of {name}", host, lambda: open_clip.pretrained.download_pretrained(config))


def file_of_hub(repository: str, file: str | None) -> Path:
    """A file of a repository on the hub, None for its weights; from its cache without asking the network."""
    import open_clip

    known = _in_cache(repository, (file,) if file else _WEIGHTS)
    if known:
        return known
    what = f"model_name: {file or 'the weights'} of hf-hub:{repository}"
    download = open_clip.pretrained.download_pretrained_from_hf
    return _get(what, _hub_host(), lambda: download(repository, **({"filename": file} if file else {})))


def _get(what: str, host: str, download: Callable[[], str]) -> Path:
    argument, _, thing = what.partition(": ")
    if host:
        sys.stderr.write(f"cdam_fast: downloading {thing} from {host} ...\n")
        sys.stderr.flush()
    try:
        return Path(download())
    except Exception as error:  # a hub, a proxy, a disk: whatever it is, it could not be had
        raise RuntimeError(
            f"{argument}: cannot get {thing} ({_reason(error)}); run once with a network, or give the path of its "
            "weights in safetensors format"
        ) from None


def _reason(error: BaseException) -> str:
    """The first cause, which says most, in whole words."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return textwrap.shorten(lines[0], 160, placeholder=" ...").rstrip(".")


def _hub_host() -> str:
    return urlsplit(os.environ.get("HF_ENDPOINT", "")).hostname or "huggingface.co"


def _downloaded_before(url: str) -> bool:
    """Where open_clip keeps what it gets from elsewhere than the hub."""
    name = url.rpartition("/")[2]
    return bool(name) and Path("~/.cache/clip", name).expanduser().is_file()


def _in_cache(repository: str, names: tuple[str, ...]) -> Path | None:
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    for name in names:
        found = try_to_load_from_cache(repository, name)
        if isinstance(found, str):
            return Path(found)
    return None
