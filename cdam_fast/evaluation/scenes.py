"""Generated scenes with known masks: coloured, textured shapes on a dull, dappled ground, and what is true of them."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from cdam_fast.evaluation.checks import check_path, check_whole
from cdam_fast.evaluation.dataset import Dataset
from cdam_fast.evaluation.datasets import open_dataset

Rng = np.random.Generator
Pixels = NDArray[np.uint8]
Floats = NDArray[Any]
"""Of 32 or 64 bits."""

SIDE = 224
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "moon")
CLASSES = ("background", *SHAPES)
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (205, 35, 40),
    "green": (45, 150, 60),
    "blue": (40, 70, 200),
    "yellow": (240, 215, 50),
    "orange": (240, 130, 30),
    "purple": (125, 45, 160),
    "pink": (245, 150, 190),
    "white": (245, 245, 245),
    "black": (20, 20, 20),
}
PATTERNS = ("plain", "striped", "dotted", "checkered")
TYPICAL = {
    "circle": ("red", "dotted"),
    "square": ("blue", "checkered"),
    "triangle": ("green", "striped"),
    "star": ("yellow", "plain"),
    "cross": ("white", "striped"),
    "ring": ("orange", "plain"),
    "heart": ("pink", "dotted"),
    "moon": ("purple", "checkered"),
}
"""As of things in photographs, colour and pattern say something of the class, and deceive now and then."""
HOW_TYPICAL = 0.75
DAPPLE, GRAIN = 16, 8
"""Standard deviation of the light that falls on everything in spots of `CELL` pixels, and of the noise of a pixel."""
CELL = 8
SMALL, LARGE = (0.23, 0.3), (0.3, 0.47)
"""Radius of the shapes of a scene of several, and of one alone, as shares of the side."""


class Thing(NamedTuple):
    """One shape of a scene, or words for one: None is left unsaid. The ground is Thing("background", None, None)."""

    shape: str | None
    colour: str | None
    pattern: str | None

    def words(self) -> str:
        """As in "red striped ring"."""
        return " ".join(filter(None, (self.colour, self.pattern, self.shape)))

    def fits(self, thing: Thing) -> bool:
        """Whether these words are true of the thing."""
        return all(said in (None, true) for said, true in zip(self, thing))

    def said(self, rng: Rng, shape: float = 1.0, look: float = 0.3) -> Thing:
        """Some of its words: the shape, and colour and pattern each, with these probabilities; never none."""
        kept = [word if rng.random() < p else None for word, p in zip(self, (shape, look, look))]
        return Thing(*kept) if any(kept) else self


GROUND = Thing("background", None, None)


@dataclass(frozen=True)
class Scene:
    """``pixels [side, side, 3]`` uint8, ``labels [side, side]`` uint8 (0 ground, 1 + index of the shape), things."""

    pixels: Pixels
    labels: Pixels
    things: tuple[Thing, ...]

    def regions(self) -> list[tuple[Thing, int]]:
        """Its things and the ground, each with its label."""
        return [*((thing, CLASSES.index(thing.shape)) for thing in self.things), (GROUND, 0)]

    def caption(self, rng: Rng, template: Callable[[str], str]) -> tuple[str, list[Thing]]:
        """The things in any order, with or without colours and patterns, in a template of a noun; and what it says.

        An empty scene is "background".
        """
        said = [self.things[i].said(rng) for i in rng.permutation(len(self.things))]
        return template(" and a ".join(thing.words() for thing in said) or "background"), said


def outline(shape: str, x: float, y: float, radius: float) -> list[tuple[float, float]]:
    """Corners of a shape around a centre; circle, ring and moon are drawn with ellipses instead."""
    angles = {"triangle": [-90, 30, 150], "square": [-135, -45, 45, 135]}
    if shape in angles:
        return [(x + radius * math.cos(math.radians(a)), y + radius * math.sin(math.radians(a))) for a in angles[shape]]
    if shape == "star":
        corners = []
        for i in range(10):
            angle, reach = math.radians(-90 + 36 * i), radius * (1 if i % 2 == 0 else 0.42)
            corners.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
        return corners
    if shape == "cross":
        arm, w = radius * 0.95, radius * 0.36
        steps = [(-w, -arm), (w, -arm), (w, -w), (arm, -w), (arm, w), (w, w)]
        steps += [(-dx, -dy) for dx, dy in steps]
        return [(x + dx, y + dy) for dx, dy in steps]
    corners = []  # heart
    for i in range(40):
        t = 2 * math.pi * i / 40
        dx = 16 * math.sin(t) ** 3
        dy = -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t))
        corners.append((x + dx * radius / 17, y + dy * radius / 17))
    return corners


def mask_of(shape: str, x: float, y: float, radius: float, side: int) -> NDArray[np.bool_]:
    """``[side, side]`` bool."""
    image = Image.new("1", (side, side))
    draw = ImageDraw.Draw(image)

    def disc(cx: float, cy: float, r: float, fill: int) -> None:
        draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=fill)

    if shape in ("circle", "ring", "moon"):
        disc(x, y, radius * 0.92, 1)
        if shape == "ring":
            disc(x, y, radius * 0.48, 0)
        elif shape == "moon":
            disc(x + radius * 0.5, y - radius * 0.1, radius * 0.75, 0)
    else:
        draw.polygon(outline(shape, x, y, radius), fill=1)
    return np.asarray(image)


def spots(side: int, cell: int, channels: int, rng: Rng) -> Floats:
    """``[side, side, channels]`` smooth noise of standard deviation about 1, in spots of cell pixels."""
    count = -(-side // cell) + 1
    coarse = Image.new("F", (count, count))
    layers = []
    for _ in range(channels):
        coarse.putdata(rng.normal(0, 1.4, count * count).tolist())
        layers.append(np.asarray(coarse.resize((side, side), Image.Resampling.BILINEAR)))
    return np.stack(layers, -1)


def texture(colour: str, pattern: str, side: int, rng: Rng) -> Floats:
    """``[side, side, 3]`` float: the colour, and a lighter or darker second one in the pattern."""
    base = np.array(COLOURS[colour], dtype=np.float32) + rng.normal(0, 8, 3).astype(np.float32)
    second = base * 0.45 if base.mean() > 110 else base * 0.6 + 110
    y, x = np.mgrid[:side, :side] + rng.integers(0, 20)
    period = rng.integers(8, 14)
    if pattern == "striped":
        on = ((x + y) if rng.random() < 0.5 else (x - y)) % period < period / 2
    elif pattern == "dotted":
        on = (x % period - period / 2) ** 2 + (y % period - period / 2) ** 2 < (0.3 * period) ** 2
    elif pattern == "checkered":
        on = (x // (period // 2) + y // (period // 2)) % 2 == 0
    else:
        on = np.zeros((side, side), dtype=bool)
    return np.where(on[..., None], second, base)


def ground(side: int, rng: Rng) -> Floats:
    """A dull gradient with grey spots."""
    corners = rng.integers(70, 190, (2, 2, 1)) + rng.integers(-18, 18, (2, 2, 3))
    smooth = Image.fromarray(corners.astype(np.uint8)).resize((side, side), Image.Resampling.BILINEAR)
    spotted: Floats = np.asarray(smooth, dtype=np.float32) + 16 * spots(side, 12, 1, rng)
    return spotted


def make_scene(rng: Rng, side: int = SIDE) -> Scene:
    """Different shapes that do not touch, as many as the side has room for: one to three, seldom none."""
    room = 1 if side < 150 else 2 if side < 200 else 3
    chances = np.array([0.05, 0.3, 0.35, 0.3])[: room + 1]
    count = int(rng.choice(room + 1, p=chances / chances.sum()))
    pixels, labels = ground(side, rng), np.zeros((side, side), dtype=np.uint8)
    placed: list[tuple[float, float, float]] = []
    things: list[Thing] = []
    for index in rng.choice(len(SHAPES), count, replace=False):
        radius = side * rng.uniform(*(LARGE if count == 1 else SMALL))
        for _ in range(50):
            x, y = rng.uniform(radius, side - radius, 2)
            if all(math.hypot(x - ox, y - oy) > radius + other for ox, oy, other in placed):
                break
        else:
            continue
        placed.append((x, y, radius))
        shape = SHAPES[index]
        colour, pattern = TYPICAL[shape]
        colour = colour if rng.random() < HOW_TYPICAL else str(rng.choice(list(COLOURS)))
        pattern = pattern if rng.random() < HOW_TYPICAL else str(rng.choice(PATTERNS))
        mask = mask_of(shape, x, y, radius, side)
        pixels[mask] = texture(colour, pattern, side, rng)[mask]
        labels[mask] = 1 + index
        things.append(Thing(shape, colour, pattern))
    pixels += DAPPLE * spots(side, CELL, 3, rng) + GRAIN * rng.standard_normal(pixels.shape, dtype=np.float32)
    return Scene(pixels.clip(0, 255).astype(np.uint8), labels, tuple(things))


def iterate_scenes(count: int, seed: int, side: int = SIDE) -> Iterator[Scene]:
    """The scenes of `make_scenes`, one at a time."""
    rng = np.random.default_rng(seed)
    return (make_scene(rng, side) for _ in range(count))


def make_scenes(count: int, seed: int, side: int = SIDE) -> list[Scene]:
    """The same scenes for the same seed."""
    return list(iterate_scenes(count, seed, side))


def write_scenes(root: str | Path, count: int, seed: int, side: int = SIDE) -> Dataset:
    """The scenes of `make_scenes` as a data set on disk: ``images/``, ``masks/`` and the class file ``classes.txt``.

    One scene at a time is in memory. What is there from an earlier call stays where it is the same.

    Args:
        root: a folder; made where it is not there.
        count, seed, side: as for `make_scenes`.

    Returns:
        ``open_dataset("custom", root, classes=root / "classes.txt")``.

    Raises:
        TypeError: a root that is no path, a number that is not whole. ValueError: no scene, or a folder with files of
            something else, which would be part of the data set.
    """
    count, seed, side = (
        check_whole(name, value, least)
        for name, value, least in (("count", count, 1), ("seed", seed, 0), ("side", side, 1))
    )
    root = check_path("root", root, "a folder")
    names = [f"{i:0{max(5, len(str(count - 1)))}}.png" for i in range(count)]
    folders = [root / "images", root / "masks"]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        others = {path.name for path in folder.iterdir()} - set(names)
        if others:
            raise ValueError(f"root: got {root}, takes a folder of its own: there is {folder / min(others)}")
    for name, scene in zip(names, iterate_scenes(count, seed, side)):
        for folder, values in zip(folders, (scene.pixels, scene.labels)):
            buffer = io.BytesIO()
            Image.fromarray(values).save(buffer, format="PNG")
            _write(folder / name, buffer.getvalue())
    classes = root / "classes.txt"
    _write(classes, "".join(f"{name}\n" for name in CLASSES).encode())
    return open_dataset("custom", root, classes=classes)


def _write(path: Path, content: bytes) -> None:
    """Where it is not there yet: the time of its change stays, by which results of it are known."""
    if not path.is_file() or path.read_bytes() != content:
        path.write_bytes(content)
