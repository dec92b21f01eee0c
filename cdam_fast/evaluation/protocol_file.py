"""The file of a protocol, checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

from cdam_fast.errors import reason_of
from cdam_fast.evaluation.datasets.classes import CLASSES

SETTINGS: dict[str, tuple[type | None, ...]] = {
    "pretrained": (str, None),
    "activation": (str,),
    "words": (list, None),
    "short_side": (int,),
    "long_side": (int, None),
    "resize": (str,),
    "window": (int,),
    "stride": (int,),
    "logit_scale": (float,),
    "background": (str, float, None),
    "background_class": (int, None),
    "order": (str,),
    "refine": (bool,),
    "image_mean": (list,),
    "image_std": (list,),
    "threshold_over": (str,),
    "alpha": (float, None),
    "area_threshold": (float, None),
    "augmented_prompts": (bool,),
    "temperature": (float,),
    "attention_temperature": (float,),
    "scales": (list,),
    "metric": (str,),
}
"""By name, the types of its value; float takes whole numbers too."""

NEEDED = tuple(SETTINGS)[: tuple(SETTINGS).index("refine") + 1]
"""What is said of every data set and base; the others are `CDAMSegmenter`'s defaults where nothing is said."""

NOT_OPTIONS = ("pretrained", "activation", "words")
"""What is no argument of `CDAMSegmenter` by that name."""

OF_THE_MODEL = ("image_mean", "image_std")
"""What another model than the protocol's has of its own."""

_SCOPES = ("models", "datasets", "bases")
_TYPES: dict[Any, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    None: "null",
}


@dataclass(frozen=True)
class Rule:
    """Settings for some data sets, bases and models; None is for all of them."""

    settings: dict[str, Any]
    sources: dict[str, str]
    models: tuple[str, ...] | None = None
    datasets: tuple[str, ...] | None = None
    bases: tuple[str, ...] | None = None
    cdam: bool | None = None

    def holds(self, *, dataset: str, base: str, model: str, cdam: bool) -> bool:
        """Whether it is for these."""
        scopes = ((self.datasets, dataset), (self.bases, base), (self.models, model))
        return self.cdam in (None, cdam) and all(scope is None or value in scope for scope, value in scopes)


@dataclass(frozen=True)
class Published:
    """One row of a table: mean intersection over union by data set, fractions of 1."""

    source: str
    model: str
    base: str
    cdam: bool
    miou: dict[str, float]


def read_protocol(path: Path) -> dict[str, Any]:
    """The fields of a `Protocol`.

    Raises:
        ValueError: a file that cannot be read, with its name; anything in it that is not as it should be, and where.
    """
    try:
        whole = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"protocol {path.name}: cannot be read: {reason_of(error)}") from error
    try:
        return _protocol(whole)
    except _FormatError as error:
        raise ValueError(f"protocol {path.name}: {error}") from None


class _FormatError(Exception):
    """Something in the file, and where."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name!r} is there twice")
    return dict(pairs)


def _protocol(whole: Any) -> dict[str, Any]:
    names = ("name", "about", "repositories", "models", "bases", "datasets", "rules", "published", "unconfirmed")
    _keys("the file", whole, names, names)
    known = {scope: _texts(scope, whole[scope], at_least=1) for scope in _SCOPES}
    rules = tuple(_rule(f"rules[{i}]", rule, known) for i, rule in enumerate(_list("rules", whole["rules"])))
    for (model, dataset, base), cdam in product(product(*known.values()), (True, False)):
        scope = {"dataset": dataset, "base": base, "model": model}
        said = {name for rule in rules if rule.holds(**scope, cdam=cdam) for name in rule.settings}
        for name in NEEDED:
            if name not in said:
                where = f"{dataset}, {base}, {model}, {'with' if cdam else 'without'} CDAM"
                raise _FormatError(f"rules: no {name} for {where}")
    rows = enumerate(_list("published", whole["published"]))
    return {
        "name": _typed("name", whole["name"], (str,)),
        "about": _typed("about", whole["about"], (str,)),
        **known,
        "rules": rules,
        "published": tuple(_published(f"published[{i}]", row, known) for i, row in rows),
        "repositories": _by_name(
            "repositories", whole["repositories"], lambda where, text: _typed(where, text, (str,))
        ),
        "unconfirmed": _texts("unconfirmed", whole["unconfirmed"]),
    }


def _rule(where: str, rule: Any, known: dict[str, tuple[str, ...]]) -> Rule:
    _keys(where, rule, [one.name for one in fields(Rule)], ("settings", "sources"))
    settings = _by_name(f"{where}.settings", rule["settings"], _setting)
    sources = _by_name(f"{where}.sources", rule["sources"], lambda at, text: _typed(at, text, (str,)))
    if sources.keys() != settings.keys():
        odd = sorted(sources.keys() ^ settings.keys())[0]
        raise _FormatError(
            f"{where}.sources: {odd} is in one of settings and sources, takes a source for every setting"
        )
    scopes = {scope: _some(f"{where}.{scope}", rule[scope], known[scope]) for scope in _SCOPES if scope in rule}
    for dataset in scopes.get("datasets", known["datasets"]):
        words = settings.get("words")
        count = len(CLASSES.get(dataset, ()))
        if words is not None and count and len(words) != count:
            raise _FormatError(f"{where}.settings.words: got {len(words)} classes, takes the {count} of {dataset}")
    return Rule(
        settings, sources, cdam=_typed(f"{where}.cdam", rule["cdam"], (bool,)) if "cdam" in rule else None, **scopes
    )


def _setting(where: str, value: Any) -> Any:
    name = where.rpartition(".")[2]
    if name not in SETTINGS:
        raise _FormatError(f"{where}: no setting, takes one of {', '.join(SETTINGS)}")
    _typed(where, value, SETTINGS[name])
    if name == "activation" and value not in ("GELU", "QuickGELU"):
        raise _FormatError(f"{where}: got {value!r}, takes 'GELU' or 'QuickGELU'")
    if name == "words" and value is not None:
        for i, words in enumerate(value):
            _texts(f"{where}[{i}]", [words] if isinstance(words, str) else words, at_least=1)
    return value


def _published(where: str, row: Any, known: dict[str, tuple[str, ...]]) -> Published:
    names = [one.name for one in fields(Published)]
    _keys(where, row, names, names)
    for name, scope in (("model", "models"), ("base", "bases")):
        _some(f"{where}.{name}", [row[name]], known[scope])
    _typed(f"{where}.source", row["source"], (str,))
    _typed(f"{where}.cdam", row["cdam"], (bool,))
    for dataset, value in _by_name(f"{where}.miou", row["miou"], lambda at, one: _typed(at, one, (float,))).items():
        _some(f"{where}.miou", [dataset], known["datasets"])
        if not 0 <= value <= 1:
            raise _FormatError(f"{where}.miou.{dataset}: got {value}, takes a fraction of 1")
    return Published(**row)


def _keys(where: str, value: Any, known: Any, needed: Any) -> None:
    if not isinstance(value, dict):
        raise _FormatError(f"{where}: got {_shown(value)}, takes an object")
    for name in value:
        if name not in known:
            raise _FormatError(f"{where}: got {name!r}, takes {', '.join(known)}")
    for name in needed:
        if name not in value:
            raise _FormatError(f"{where}: has no {name!r}")


def _by_name(where: str, value: Any, check: Callable[[str, Any], Any]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _FormatError(f"{where}: got {_shown(value)}, takes an object")
    return {name: check(f"{where}.{name}", one) for name, one in value.items()}


def _list(where: str, value: Any) -> list[Any]:
    items: list[Any] = _typed(where, value, (list,))
    return items


def _texts(where: str, value: Any, at_least: int = 0) -> tuple[str, ...]:
    items = _list(where, value)
    if len(items) < at_least or not all(isinstance(one, str) and one.strip() for one in items):
        raise _FormatError(f"{where}: got {_shown(value)}, takes a list of texts, none of them empty")
    if len(set(items)) < len(items):
        raise _FormatError(f"{where}: got {_shown(value)}, takes each once")
    return tuple(items)


def _some(where: str, value: Any, known: tuple[str, ...]) -> tuple[str, ...]:
    found = _texts(where, value, at_least=1)
    for one in found:
        if one not in known:
            raise _FormatError(f"{where}: got {one!r}, takes one of {', '.join(known)}")
    return found


def _typed(where: str, value: Any, types: tuple[type | None, ...]) -> Any:
    kind: type | None = None if value is None else type(value)
    if kind not in types and not (kind is int and float in types):
        raise _FormatError(f"{where}: got {_shown(value)}, takes {' or '.join(_TYPES[one] for one in types)}")
    return value


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:56]} ..."
