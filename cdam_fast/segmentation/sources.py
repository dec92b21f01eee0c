"""Where a model's configuration, weights and tokenizer are: open_clip's names, its hub, a folder, or files."""

from __future__ import annotations

import difflib
import importlib.util
import json
import os
import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

from cdam_fast.models import Tokenizer
from cdam_fast.segmentation.download import CONFIGURATION, file_of_hub, weights_of_tag

TINY = "tiny"
"""The model that comes with the package."""
_DATA = Path(__file__).parents[1] / "data"

_TIMM_VIT = re.compile(r"vit_[a-z0-9]+_patch\d+_(siglip|clip|gap)_.*")
"""Names of timm for its plain ViT with an embedding of the image, which `cdam_fast.models.Tower` takes."""

_FILES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".npz", ".npy")
_PREFERRED = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
"""Of several files of weights in a folder: open_clip's order."""


class Source(NamedTuple):
    """A model before it is made."""

    title: str
    """As the user named it."""
    config: dict[str, Any]
    """open_clip's model configuration."""
    tokenizer: Callable[[], Tokenizer]
    weights: Callable[[], Path]
    """The file of weights, downloaded if need be."""
    pixels: Mapping[str, Any] | None
    """With mean and std; None where this model comes with different ones and these weights may be of any."""
    quick_gelu: bool | None
    """What the names and configurations say of the activation; None where they leave it open."""


def find_source(model_name: object, pretrained: object) -> Source:
    """What the two names mean; nothing is downloaded but a configuration from the hub.

    Raises:
        TypeError, ValueError: names, files or configurations that these cannot be. RuntimeError: no network, or a text
            tower that needs transformers where that is not installed.
    """
    import open_clip

    name = os.fspath(model_name) if isinstance(model_name, os.PathLike) else model_name
    if not isinstance(name, str):
        raise TypeError(f"model_name: got {type(model_name).__name__}, takes a string")
    if not isinstance(pretrained, (str, os.PathLike, type(None))):
        raise TypeError(f"pretrained: got {type(pretrained).__name__}, takes a tag or a file of weights")
    given = None if pretrained is None else os.fspath(pretrained)
    if name == TINY:
        return _of_configuration(_DATA / "tiny.json", given, _DATA / "tiny.safetensors")
    if name.startswith("hf-hub:"):
        return _of_hub(name, given)
    if name.startswith("local-dir:"):
        return _of_folder(Path(name[len("local-dir:") :]), given)
    built_in = name.replace("/", "-")
    if built_in in open_clip.list_models():
        return _of_name(built_in, given)
    if name.endswith(".json"):
        return _of_configuration(Path(name), given, None)
    if Path(name).is_dir():
        return _of_folder(Path(name), given)
    close = difflib.get_close_matches(built_in, open_clip.list_models(), 3) or ["ViT-B-16", "ViT-L-14"]
    raise ValueError(
        f"model_name: got {name!r}, takes 'tiny', a model of open_clip, such as {', '.join(close)}, 'hf-hub:' and a "
        f"repository, a folder with {CONFIGURATION}, or a JSON file"
    )


# --- open_clip's own names


def _of_name(name: str, given: str | None) -> Source:
    import open_clip

    config = open_clip.get_model_config(name)
    _check_config(config, name)
    tags = open_clip.list_pretrained_tags_by_model(name)
    path = _as_file(given)
    tag_config = {} if path or given is None else open_clip.get_pretrained_cfg(name, given)
    if not path and not tag_config:
        known = f"a tag of {name} ({', '.join(tags)})" if tags else f"{name} has no tags"
        raise ValueError(f"pretrained: got {given!r}, takes a file of weights or {known}")
    own = True if config.get("quick_gelu") else None
    if path:
        pixels, quick_gelu = _of_known_file(name, config, path)
        return Source(name, config, lambda: open_clip.get_tokenizer(name), lambda: path, pixels, own or quick_gelu)
    tag = str(given)
    quick_gelu = own or _tag_wants_quick_gelu(name, tag, tag_config)
    get = lambda: weights_of_tag(name, tag, tag_config)  # noqa: E731
    return Source(name, config, lambda: open_clip.get_tokenizer(name), get, tag_config, quick_gelu)


def _tag_wants_quick_gelu(name: str, tag: str, tag_config: Mapping[str, Any]) -> bool:
    """Since open_clip 2.27 the tag says so; before, it is listed with a model of that name besides."""
    import open_clip

    if "quick_gelu" in tag_config:
        return bool(tag_config["quick_gelu"])
    says_so = any("quick_gelu" in open_clip.get_pretrained_cfg(*each) for each in open_clip.list_pretrained())
    return not says_so and (tag == "openai" or bool(open_clip.get_pretrained_cfg(f"{name}-quickgelu", tag)))


def _of_known_file(name: str, config: Mapping[str, Any], path: Path) -> tuple[Mapping[str, Any] | None, bool | None]:
    """What is known of a file's pixels and activation: by the configuration beside it, or as the download of a tag."""
    import open_clip

    beside = path.parent / CONFIGURATION
    if beside.is_file():
        content = _read_json(beside)
        own = content.get("model_cfg", {})
        own_tower, tower = own.get("vision_cfg", {}), config["vision_cfg"]
        if all(own_tower.get(key) == tower.get(key) for key in ("width", "layers", "patch_size")):
            return content.get("preprocess_cfg", {}), _said(own)
    configs = {tag: open_clip.get_pretrained_cfg(name, tag) for tag in open_clip.list_pretrained_tags_by_model(name)}
    for tag, tag_config in configs.items():
        repository = tag_config.get("hf_hub", "").rpartition("/")[0]
        in_hub_cache = repository and "models--" + repository.replace("/", "--") in path.absolute().parts
        # OpenAI's names are anyone's, and its own files are told by what they are
        from_url = tag != "openai" and tag_config.get("url", "").rpartition("/")[2] == path.name
        if in_hub_cache or from_url:
            return tag_config, _tag_wants_quick_gelu(name, tag, tag_config)
    pixels = {tuple(tuple(each.get(key, ())) for key in ("mean", "std")): each for each in configs.values()}
    if len(pixels) > 1:
        return None, None
    return next(iter(pixels.values()), {}), None


# --- the hub, folders and files


def _of_hub(name: str, given: str | None) -> Source:
    repository = name[len("hf-hub:") :]
    if given is not None:
        raise ValueError(f"pretrained: got {given!r}, takes None with {name}, which names its weights")
    content = _read_json(file_of_hub(repository, CONFIGURATION))
    config, pixels, quick_gelu = _nested(content, name)
    weights = lambda: file_of_hub(repository, None)  # noqa: E731
    return Source(name, config, lambda: _tokenizer(config, None), weights, pixels, quick_gelu)


def _of_folder(folder: Path, given: str | None) -> Source:
    path = folder / CONFIGURATION
    if not path.is_file():
        raise ValueError(f"model_name: {folder} is no folder with a file {CONFIGURATION}")
    return _of_configuration(path, given, None)


def _of_configuration(path: Path, given: str | None, default: Path | None) -> Source:
    config, pixels, quick_gelu = _nested(_read_json(path), str(path))
    weights = _as_file(given) or default
    if given is not None and _as_file(given) is None:
        raise ValueError(f"pretrained: got {given!r}, takes a file of weights; {path} has no tags")
    if weights is None:
        weights = _weights_beside(path)
    folder = path.parent if path.name == CONFIGURATION else None
    return Source(str(path), config, lambda: _tokenizer(config, folder), lambda: weights, pixels, quick_gelu)


def _weights_beside(path: Path) -> Path:
    if path.name != CONFIGURATION:
        raise ValueError(f"pretrained: got None, takes a file of weights for {path}")
    files = sorted(file for file in path.parent.iterdir() if file.suffix in _FILES)
    chosen = next((path.parent / name for name in _PREFERRED if path.parent / name in files), None)
    if chosen is None and len(files) != 1:
        found = ", ".join(file.name for file in files) or "no file of weights"
        raise ValueError(f"pretrained: got None, takes one of the files of {path.parent} ({found})")
    return chosen or files[0]


def _as_file(given: str | None) -> Path | None:
    """A path where it is meant as one."""
    if given is None:
        return None
    path = Path(given)
    try:
        return path if path.suffix in _FILES or path.is_file() else None
    except (OSError, ValueError):  # a name that no file can have
        return None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"model_name: cannot read {path}: {error}") from None
    return content if isinstance(content, dict) else {}


def _nested(content: dict[str, Any], title: str) -> tuple[dict[str, Any], Mapping[str, Any], bool | None]:
    """The configuration alone or, as on the hub, with that of the pixels."""
    config = content.get("model_cfg", content)
    _check_config(config, title)
    pixels = content.get("preprocess_cfg")
    return config, pixels if isinstance(pixels, dict) else {}, _said(config)


def _said(config: Mapping[str, Any]) -> bool | None:
    """What a configuration says of the activation."""
    return bool(config["quick_gelu"]) if "quick_gelu" in config else None


# --- configurations


def _check_config(config: Any, title: str) -> None:
    parts = ("vision_cfg", "text_cfg")
    if not isinstance(config, dict) or "embed_dim" not in config or not all(_is_dict(config.get(p)) for p in parts):
        raise ValueError(f"model_name: {title} is no open_clip model configuration (embed_dim, vision_cfg, text_cfg)")
    of_timm = config["vision_cfg"].get("timm_model_name")
    if isinstance(config["vision_cfg"].get("layers"), (list, tuple)) or (of_timm and not _TIMM_VIT.match(str(of_timm))):
        raise ValueError(
            f"model_name: the image tower of {title} is {of_timm or 'a ResNet'}, takes open_clip's own ViT or SigLIP's"
        )
    needs = [key for key in ("hf_model_name", "hf_tokenizer_name") if config["text_cfg"].get(key)]
    if needs and importlib.util.find_spec("transformers") is None:
        part = "text tower" if "hf_model_name" in needs else "tokenizer"
        raise RuntimeError(
            f"model_name: {title} has a {part} of transformers ({config['text_cfg'][needs[0]]}), which is not "
            "installed; pip install transformers"
        )


def _is_dict(value: object) -> bool:
    return isinstance(value, dict)


def _tokenizer(config: dict[str, Any], folder: Path | None) -> Tokenizer:
    """Of a model that open_clip does not list; of transformers where the configuration says so."""
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    text = deepcopy(config["text_cfg"])
    options = dict(text.get("tokenizer_kwargs") or {}, context_length=text.get("context_length", 77))
    if text.get("hf_tokenizer_name"):
        has_files = folder is not None and any(folder.glob("tokenizer*"))
        return HFTokenizer(str(folder) if has_files else text["hf_tokenizer_name"], **options)  # type: ignore[no-any-return]
    return SimpleTokenizer(**options)  # type: ignore[no-any-return]
