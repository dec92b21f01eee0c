"""Protocols: what a number depends on beside the method, as data with its sources."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Union

from cdam_fast.evaluation.checks import check_names
from cdam_fast.evaluation.datasets.classes import CLASSES
from cdam_fast.evaluation.protocol_file import NOT_OPTIONS, OF_THE_MODEL, Published, Rule, read_protocol
from cdam_fast.segmentation.options import check_flag

PROTOCOLS = ("paper", "released", "sclip")
"""Those of the package; `load_protocol` takes a file of one's own too."""

FOLDER = Path(__file__).with_name("protocols")

ClassNames = list[Union[str, list[str]]]


@dataclass(frozen=True, eq=False)
class Settings:
    """What a protocol says of a data set and a base method, with or without CDAM.

    ``CDAMSegmenter.from_pretrained(settings.model, settings.pretrained, settings.class_names, base=settings.base,
    cdam=settings.cdam, **settings.options)`` makes the segmenter.

    Attributes:
        protocol, dataset, base, cdam: what this is of.
        model, pretrained: as `CDAMSegmenter.from_pretrained` takes them.
        activation: ``"GELU"`` or ``"QuickGELU"``, what these weights get. `CDAMSegmenter.from_pretrained` takes
            the same by itself for those of the package's protocols; for others it is its ``quick_gelu``.
        class_names: the words of each class, in the order of the data set's classes.
        options: the other arguments of `CDAMSegmenter`, by name.
        miou: the published mean intersection over union, a fraction of 1; None where there is none.
        miou_source: where that is printed; empty where there is none.
        sources: of each setting, where it comes from, by the names of the file.
    """

    protocol: str
    dataset: str
    base: str
    cdam: bool
    model: str
    pretrained: str | None
    activation: str
    class_names: ClassNames
    options: dict[str, Any]
    miou: float | None
    miou_source: str
    sources: dict[str, str] = field(repr=False)

    def options_for(self, model: str) -> dict[str, Any]:
        """The options; for another model than its own without mean and deviation of the pixels, which it has too."""
        left_out = () if model == self.model else OF_THE_MODEL
        return {name: value for name, value in self.options.items() if name not in left_out}

    def as_json(self) -> dict[str, Any]:
        """Plain values, a list of words for each class; without the sources, which are the protocol's."""
        plain = {name: getattr(self, name) for name in ("protocol", "dataset", "base", "cdam", "model", "pretrained")}
        return plain | {
            "activation": self.activation,
            "words": [[words] if isinstance(words, str) else list(words) for words in self.class_names],
            "options": dict(self.options),
            "published_miou": self.miou,
            "published_in": self.miou_source,
        }


@dataclass(frozen=True, eq=False)
class Protocol:
    """A file of settings with their sources; `settings` is what it says of one data set and base.

    Attributes:
        name, about: of the file.
        models: of open_clip that it has, its own first.
        bases: base methods that it has, its own first.
        datasets: names of the data sets that it has.
        rules: its settings, each with its scope and sources; of two that say something, the later one holds.
        published: numbers of its sources.
        repositories: what the short names in sources stand for.
        unconfirmed: what it had to take without a source, and what its sources do that is not done here.
    """

    name: str
    about: str
    models: tuple[str, ...]
    bases: tuple[str, ...]
    datasets: tuple[str, ...]
    rules: tuple[Rule, ...] = field(repr=False)
    published: tuple[Published, ...] = field(repr=False)
    repositories: dict[str, str] = field(repr=False)
    unconfirmed: tuple[str, ...] = field(repr=False)

    def settings(
        self,
        dataset: str,
        base: str | None = None,
        cdam: bool = True,
        *,
        model: str | None = None,
        classes: Sequence[str] | None = None,
    ) -> Settings:
        """What holds for a data set.

        Args:
            dataset: one of datasets.
            base: one of bases; None is the first.
            cdam: whether with CDAM's map.
            model: one of models; None is the first.
            classes: names of the data set's classes, which are its words where the protocol has none; None is those
                that `open_dataset` gives it.

        Raises:
            ValueError: a data set, base or model that the protocol does not have; a data set of no known names.
            TypeError: cdam is no flag, classes are no names.
        """
        base = self.bases[0] if base is None else base
        model = self.models[0] if model is None else model
        cdam = check_flag("cdam", cdam)
        for argument, value in (("dataset", dataset), ("base", base), ("model", model)):
            known: tuple[str, ...] = getattr(self, f"{argument}s")
            if not isinstance(value, str) or value not in known:
                raise ValueError(f"{argument}: got {value!r}, the protocol {self.name} takes one of {', '.join(known)}")
        names = None if classes is None else check_names("classes", classes)
        found: dict[str, Any] = {}
        sources: dict[str, str] = {}
        for rule in self.rules:
            if rule.holds(dataset=dataset, base=base, model=model, cdam=cdam):
                found |= rule.settings
                sources |= rule.sources
        words = found["words"] if found["words"] is not None else names or CLASSES.get(dataset)
        if words is None:
            raise ValueError(f"classes: got None, takes the names of {dataset}, of which {self.name} has no words")
        published = next(
            (
                one
                for one in self.published
                if (one.base, one.model, one.cdam) == (base, model, cdam) and dataset in one.miou
            ),
            None,
        )
        return Settings(
            protocol=self.name,
            dataset=dataset,
            base=base,
            cdam=cdam,
            model=model,
            pretrained=found["pretrained"],
            activation=found["activation"],
            class_names=[words if isinstance(words, str) else list(words) for words in words],
            options={name: value for name, value in found.items() if name not in NOT_OPTIONS},
            miou=None if published is None else published.miou[dataset],
            miou_source="" if published is None else published.source,
            sources=sources,
        )


def load_protocol(name: str | os.PathLike[str]) -> Protocol:
    """A protocol of the package, or of a file.

    Args:
        name: of `PROTOCOLS`, or the ``pathlib.Path`` of a file such as those in ``cdam_fast/evaluation/protocols``.

    Raises:
        ValueError: no such protocol; a file that is none, with the place in it and what it takes there.
    """
    if not isinstance(name, os.PathLike) and (not isinstance(name, str) or name not in PROTOCOLS):
        takes = f"takes one of {', '.join(PROTOCOLS)}, or the pathlib.Path of a file"
        raise ValueError(f"protocol: got {name!r}, {takes}")
    path = Path(name) if isinstance(name, os.PathLike) else FOLDER / f"{name}.json"
    return Protocol(**read_protocol(path))
