"""``cdam-fast evaluate``: what the protocol says, and what the options say in its place."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cdam_fast.commands.devices import describe_device, parse_device
from cdam_fast.commands.messages import named_errors
from cdam_fast.commands.model_options import DTYPES, known
from cdam_fast.commands.segment import parse_background
from cdam_fast.commands.streams import tell
from cdam_fast.errors import UsageError
from cdam_fast.evaluation import Dataset, load_protocol
from cdam_fast.evaluation.protocol import PROTOCOLS, Protocol, Settings
from cdam_fast.processes import Processes, local_device
from cdam_fast.segmentation.class_files import read_class_file
from cdam_fast.segmentation.load import model_defaults

_SIDES = ("short_side", "window", "stride")
_WITH_BACKGROUND, _WITHOUT = "context60", "ade20k"
"""Whose settings a data set of one's own has."""


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Settings for one evaluation."""

    protocol: Protocol
    settings: Settings
    """The protocol's."""
    model: str
    pretrained: str | None
    base: str
    options: dict[str, Any]
    """Of `CDAMSegmenter`."""
    different: list[str]
    """Where the options are in place of what the protocol says."""
    identity: dict[str, Any]
    """Of the weights."""

    @property
    def published(self) -> float | None:
        """The number for these settings; none where anything is different."""
        return None if self.different else self.settings.miou

    @property
    def quick_gelu(self) -> bool | None:
        """What the protocol says of its own weights; None for others, which say it themselves."""
        own = (self.model, self.pretrained) == (self.settings.model, self.settings.pretrained)
        return self.settings.activation == "QuickGELU" if own else None

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.protocol.name,
            "about": self.protocol.about,
            "different": self.different,
            "settings": self.settings.as_json(),
            "sources": self.settings.sources,
            "unconfirmed": list(self.protocol.unconfirmed),
        }


def chosen_segmenter(parsed: argparse.Namespace, dataset: Dataset, processes: Processes) -> tuple[Any, Chosen]:
    """The `CDAMSegmenter` of the protocol and the options."""
    from cdam_fast.segmentation import CDAMSegmenter

    chosen = choose(parsed, dataset)
    device = local_device(parse_device(parsed.device))
    if processes.first:
        tell(describe_device(device))
    with named_errors(parsed), _named_setting(parsed, chosen):
        segmenter = CDAMSegmenter.from_pretrained(
            chosen.model,
            chosen.pretrained,
            chosen.settings.class_names,
            base=chosen.base,
            cdam=chosen.settings.cdam,
            device=device,
            dtype=DTYPES[parsed.dtype],
            amp=parsed.amp,
            batch_size=parsed.batch_size,
            quick_gelu=chosen.quick_gelu,
            **chosen.options,
        )
    return segmenter, chosen


@contextlib.contextmanager
def _named_setting(parsed: argparse.Namespace, chosen: Chosen) -> Iterator[None]:
    """An argument that no option gave, or could give, is the protocol's."""
    try:
        yield
    except (TypeError, ValueError) as error:
        name = str(error).partition(":")[0].partition("[")[0]
        if name not in chosen.options or name in _SIDES or getattr(parsed, name, None) is not None:
            raise
        raise UsageError(f"--protocol: {chosen.protocol.name}: {error}") from None


def choose(parsed: argparse.Namespace, dataset: Dataset) -> Chosen:
    """What the protocol says of the data set, and the options in its place."""
    protocol = _protocol(parsed.protocol)
    base = parsed.base if parsed.base in protocol.bases else protocol.bases[0]
    model = parsed.model if parsed.model in protocol.models else protocol.models[0]
    settings = _settings(protocol, dataset, parsed, base, model)
    different = []
    pretrained = settings.pretrained
    if parsed.model not in (None, model):
        different.append(f"model {parsed.model}")
        model, pretrained = parsed.model, None
    own = {name: value for name, value in model_defaults(model).items() if name in _SIDES and model != settings.model}
    options = settings.options_for(model) | own
    if parsed.pretrained not in (None, settings.pretrained):
        different.append(f"weights {parsed.pretrained}")
    if parsed.base not in (None, base):
        different.append(f"base {parsed.base}")
        base = parsed.base
    options |= {name: getattr(parsed, name) for name in _SIDES if getattr(parsed, name) is not None}
    if parsed.background is not None:
        options["background"] = parse_background(parsed.background)
    for name, value in options.items():
        if value != settings.options.get(name):
            different.append(f"{name.replace('_', ' ')} {'none' if value is None else value}")
    different += [f"dtype {parsed.dtype}"] if parsed.dtype != "float32" else []
    different += ["amp"] if parsed.amp else []
    different += [f"the first {parsed.limit} images"] if parsed.limit is not None else []
    pretrained = pretrained if parsed.pretrained is None else parsed.pretrained
    identity = {"model": known(model), "pretrained": known(pretrained)}
    return Chosen(protocol, settings, model, pretrained, base, options, different, identity)


def _protocol(name: str) -> Protocol:
    """One of the package's, or of a file; a file wins over a name of the package's only by its path."""
    try:
        return load_protocol(name if name in PROTOCOLS else Path(name))
    except ValueError as error:
        there = name in PROTOCOLS or os.path.lexists(name)
        takes = "" if there else f" ({', '.join(PROTOCOLS)} come with the package)"
        raise UsageError(f"--protocol:{str(error).partition(':')[2]}{takes}") from None


def _settings(protocol: Protocol, dataset: Dataset, parsed: argparse.Namespace, base: str, model: str) -> Settings:
    cdam = not parsed.no_cdam
    if dataset.name in protocol.datasets or dataset.name != "custom":
        try:
            return protocol.settings(dataset.name, base, cdam, model=model, classes=dataset.classes)
        except ValueError as error:
            raise UsageError(str(error).replace("dataset:", "DATASET:", 1)) from None
    like = _WITH_BACKGROUND if dataset.background is not None else _WITHOUT
    like = like if like in protocol.datasets else protocol.datasets[-1]
    settings = protocol.settings(like, base, cdam, model=model)
    threshold = {} if dataset.background is not None else {"background": None}
    return dataclasses.replace(
        settings,
        dataset=dataset.name,
        class_names=read_class_file(Path(parsed.classes)),
        options=settings.options | threshold | {"background_class": dataset.background},
        miou=None,
        miou_source="",
    )


def described(chosen: Chosen) -> str:
    """One line: the protocol, and where it is left."""
    but = f", but: {', '.join(chosen.different)}" if chosen.different else ""
    return f"protocol {chosen.protocol.name}{but}"
