"""Pictures to begin with, and words that go with them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

DATA = Path(__file__).parents[1] / "data"

_OF_SCENES = "background, circle, square, triangle, star, cross, ring, heart, moon"
_OF_PHOTOGRAPH = "astronaut, flag, space shuttle, wall"


class Example(NamedTuple):
    """A picture, and words to try on it."""

    path: Path
    words: str


def examples(model_name: str) -> list[Example]:
    """Those that the package carries: scenes for the tiny model, which knows nothing else, a photograph for others."""
    scenes = [Example(path, _OF_SCENES) for path in sorted((DATA / "scenes").glob("*.png"))]
    photographs = [Example(path, _OF_PHOTOGRAPH) for path in sorted(DATA.glob("*.jpg"))]
    return scenes or photographs if model_name == "tiny" else photographs + scenes
