"""What the tables are measured from: data sets with their settings, and models, each loaded once."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Union

import torch

from cdam_fast.arguments import MapOptions
from cdam_fast.evaluation.dataset import Dataset
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

ClassNames = list[Union[str, list[str]]]


class Settings(Protocol):
    """What a protocol says of a data set, a base and CDAM or none."""

    @property
    def class_names(self) -> ClassNames:
        """As `CDAMSegmenter` takes them, in the order of the data set's classes."""
        ...

    @property
    def model(self) -> str:
        """As `load_clip` takes it."""
        ...

    @property
    def pretrained(self) -> str | None:
        """Its weights."""
        ...

    @property
    def options(self) -> dict[str, Any]:
        """Of `CDAMSegmenter`, beside base and cdam."""
        ...


@dataclass(frozen=True, eq=False)
class Column:
    """A data set as a column of tables.

    Attributes:
        name: of the data set, or `SCENES`.
        dataset: its images.
        settings: of a base, and whether with CDAM.
        scenes: whether these are the generated scenes, which the paper has not.
    """

    name: str
    dataset: Dataset
    settings: Callable[[str, bool], Settings]
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
        model, pretrained: in place of the protocol's.
    """

    columns: dict[str, Column]
    device: torch.device
    limit: int | None = None
    model: str | None = None
    pretrained: str | None = None
    _loaded: dict[tuple[str, str | None], Any] = field(default_factory=dict, repr=False)

    def settings(self, column: Column, row: Row, model: tuple[str, str] | None = None) -> dict[str, Any]:
        """All that says what a segmenter is, as plain values."""
        found = column.settings(row.base, row.cdam)
        name, weights = model or (found.model, found.pretrained)
        if model is None and not column.scenes and (self.model or self.pretrained):
            name, weights = self.model or name, self.pretrained
        options = found.options | model_defaults(name) | dict(row.options)
        if row.fixed_threshold:
            options["background"] = column.settings(row.base, False).options["background"]
        return {
            "class_names": found.class_names,
            "model": name,
            "pretrained": weights,
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
    samples = [sample.name for sample in column.dataset.samples]
    said = json.dumps([{**settings, "options": options}, samples, column.dataset.classes], sort_keys=True, default=str)
    cdam = "-cdam" if settings["cdam"] else ""
    return f"{kind}-{column.name}-{settings['base']}{cdam}-{hashlib.sha256(said.encode()).hexdigest()[:10]}"
