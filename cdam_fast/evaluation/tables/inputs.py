"""What the tables are measured from: data sets with their settings, and models, each loaded once."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

import torch

from cdam_fast.arguments import MapOptions
from cdam_fast.evaluation.conditions import commit, versions
from cdam_fast.evaluation.dataset import Dataset
from cdam_fast.evaluation.protocol import Settings
from cdam_fast.evaluation.reading import identity_of
from cdam_fast.segmentation import CDAMSegmenter
from cdam_fast.segmentation.load import load_clip, model_defaults

DEFAULTS: dict[str, Any] = {
    **{
        name: parameter.default
        for name, parameter in inspect.signature(CDAMSegmenter.__init__).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    },
    **MapOptions()._asdict(),
}
"""Of `CDAMSegmenter`'s options."""

_VIT_B_16 = "ViT-B-16"


class SettingsOf(Protocol):
    """From a base, whether with CDAM, and a model (None is the protocol's own) to settings."""

    def __call__(self, base: str, cdam: bool, model: str | None = None) -> Settings:
        """Of one data set."""
        ...


@dataclass(frozen=True, eq=False)
class Column:
    """A data set as a column of tables.

    Attributes:
        name: of the data set, or "scenes".
        dataset: its images.
        settings: what the protocol says of it.
        scenes: whether these are the generated scenes, which the paper has not.
    """

    name: str
    dataset: Dataset
    settings: SettingsOf
    scenes: bool = False


@dataclass(frozen=True)
class Row:
    """Settings of one row.

    Attributes:
        name: as in `paper_tables`.
        base: name of the base method.
        cdam: whether with CDAM.
        options: of `CDAMSegmenter`, laid over the protocol's.
        fixed_threshold: take the background's threshold of the base alone in place of Eq. 4.
    """

    name: str
    base: str
    cdam: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    fixed_threshold: bool = False


@dataclass
class Inputs:
    """Shared by all jobs.

    Attributes:
        columns: by name.
        device: of the models.
        limit: the first so many images of each data set; None is all.
        model, pretrained: in place of the protocol's, whose weights its own model keeps where none are given.
        files: of these, what tells other content of a file apart.
        workers: processes that read images, as for `evaluate`.
        on_image: hears the name of each image that is done.
    """

    columns: dict[str, Column]
    device: torch.device
    limit: int | None = None
    model: str | None = None
    pretrained: str | None = None
    files: Mapping[str, Any] = field(default_factory=dict)
    workers: int | None = None
    on_image: Callable[[str], None] = lambda name: None
    _loaded: dict[tuple[str, str | None], Any] = field(default_factory=dict, repr=False)
    _files: dict[str, str] = field(default_factory=dict, repr=False)

    def images(self, column: Column) -> int:
        """How many are looked at."""
        return len(column.dataset.samples[: self.limit])

    def files_of(self, column: Column) -> str:
        """What tells others under the same names: of each image the bytes and the times of its files."""
        if column.name not in self._files:
            samples = column.dataset.samples[: self.limit]
            self._files[column.name] = digest([identity_of(sample.photo, sample.mask) for sample in samples])
        return self._files[column.name]

    def settings(self, column: Column, row: Row, model: str | None = None) -> dict[str, Any]:
        """All that says what a segmenter is, as plain values; model is the protocol's of this name, or its own."""
        found = column.settings(row.base, row.cdam, model)
        name, weights = found.model, found.pretrained
        files: Mapping[str, Any] = {}
        if model is None and not column.scenes and (self.model or self.pretrained):
            name, files = self.model or name, self.files
            weights = self.pretrained or (weights if name == found.model else None)
        options = found.options_for(name) | model_defaults(name) | dict(row.options)
        if row.fixed_threshold:
            options["background"] = column.settings(row.base, False, model).options["background"]
        return {
            "class_names": found.class_names,
            "model": name,
            "pretrained": weights,
            "files": files,
            "base": row.base,
            "cdam": row.cdam,
            "options": options,
        }

    def segmenter(self, settings: Mapping[str, Any]) -> CDAMSegmenter:
        """Made of `settings`; a model is kept until another is wanted."""
        wanted = (settings["model"], settings["pretrained"])
        if wanted not in self._loaded:
            self._loaded.clear()
            self._loaded[wanted] = load_clip(*wanted, self.device)
        clip, tokenizer = self._loaded[wanted]
        return CDAMSegmenter(
            clip,
            tokenizer,
            settings["class_names"],
            base=settings["base"],
            cdam=settings["cdam"],
            **settings["options"],
        )


def name_of(kind: str, column: Column, settings: Mapping[str, Any]) -> str:
    """A name for a job's folder: readable, and another one for any other settings or images.

    An option at its default is as one that is not given.
    """
    options = DEFAULTS | settings["options"]
    if options["alpha"] is None and settings["model"] == _VIT_B_16:
        options["alpha"] = 2.5  # what None is for its patches of 16
    samples = [sample.name for sample in column.dataset.samples]
    cdam = "-cdam" if settings["cdam"] else ""
    said = digest({**settings, "options": options}, samples, column.dataset.classes)
    return f"{kind}-{column.name}-{settings['base']}{cdam}-{said}"


def digest(*said: Any) -> str:
    """Ten digits of plain values, of versions and of the commit: what other code made is not taken for ours."""
    return hashlib.sha256(json.dumps([*said, _made_with()], sort_keys=True, default=str).encode()).hexdigest()[:10]


@lru_cache(maxsize=1)
def _made_with() -> list[Any]:
    return [versions(), (commit() or {}).get("hash")]
