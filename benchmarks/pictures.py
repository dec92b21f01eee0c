"""The documentation's pictures: ``python benchmarks/pictures.py docs/images``.

A row of one scene of the tiny model: the scene, what the base method makes of it, what CDAM makes of it, and where the
marked patch attends by either; and a gallery of more scenes and bases.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import tiny_scenes
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from cdam_fast import CDAMSegmenter
from cdam_fast.segmentation.palette import palette

SIDE = 224
"""Of a scene, in pixels: 28 x 28 patches."""


def labelled(base, cdam, scene):
    """Segmenter and the labels of the scene."""
    made = CDAMSegmenter.from_pretrained(
        "tiny", class_names=tiny_scenes.CLASSES, base=base, cdam=cdam, background=None, cache_dir=False
    )
    return made, made(scene.pixels).labels.numpy()


def colours_of(labels):
    """``[H, W, 3]`` from 0 to 1."""
    return np.array(palette(len(tiny_scenes.CLASSES), 0))[labels] / 255


def show(panel, title, picture, extent, **options):
    panel.set_axis_off()
    panel.set_title(title, fontsize=13)
    panel.imshow(picture, extent=extent, **options)


def attended(made, scene, point, attention):
    """``[h, w]`` where the patch of a point ``(x, y)`` attends, and the patch's corner and size in pixels."""
    pixels = made.normalise(torch.from_numpy(scene.pixels).permute(2, 0, 1)[None] / 255)
    rows, columns = made.tower.grid(pixels)
    side = scene.pixels.shape[0] // rows
    row, column = point[1] // side, point[0] // side
    return attention(pixels)[0, row * columns + column].reshape(rows, columns), (column * side, row * side, side)


def row(path, scene, base, point):
    """Scene, base, CDAM and two attention maps, with a legend of the classes that occur."""
    plain, before = labelled(base, False, scene)
    made, after = labelled(base, True, scene)
    side = scene.pixels.shape[0]
    extent = (0, side, side, 0)
    figure = Figure(figsize=(10, 2.8), layout="constrained")
    panels = figure.subplots(1, 5)
    show(panels[0], "scene", scene.pixels, extent)
    show(panels[1], base, colours_of(before), extent)
    show(panels[2], f"{base} + CDAM", colours_of(after), extent)
    for panel, title, attention in (
        (panels[3], f"□ attends: {base}", plain.base_attention),
        (panels[4], "□ attends: CDAM", made.attention),
    ):
        values, (x, y, size) = attended(made, scene, point, attention)
        show(panel, title, values.numpy(), extent, cmap="cividis")
        for colour, width in (("black", 2.4), ("white", 1.2)):
            panel.add_patch(Rectangle((x, y), size, size, fill=False, edgecolor=colour, linewidth=width))
    colours = palette(len(tiny_scenes.CLASSES), 0)
    found = np.unique([before, after, scene.labels])
    handles = [
        Patch(facecolor=np.array(colours[i]) / 255, edgecolor="black", label=tiny_scenes.CLASSES[i]) for i in found
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=13, frameon=False)
    figure.savefig(path, dpi=100)


def gallery(path, scenes, bases):
    """A line for each scene: scene, truth, and each base alone and with CDAM."""
    figure = Figure(figsize=(1.7 * (2 + 2 * len(bases)), 2.15 * len(scenes)), layout="constrained")
    panels = figure.subplots(len(scenes), 2 + 2 * len(bases), squeeze=False)
    for line, scene in zip(panels, scenes):
        extent = (0, scene.pixels.shape[0], scene.pixels.shape[0], 0)
        show(line[0], "scene\n", scene.pixels, extent)
        show(line[1], "truth\n", colours_of(scene.labels), extent)
        for i, base in enumerate(bases):
            for j, cdam in enumerate((False, True)):
                title = base + ("\n+ CDAM" if cdam else "\n")
                show(line[2 + 2 * i + j], title, colours_of(labelled(base, cdam, scene)[1]), extent)
    figure.savefig(path, dpi=100)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=33, help="of the row's scene")
    parser.add_argument("--base", default="sclip")
    parser.add_argument("--point", default="76,92", help="X,Y of the patch whose attention is drawn")
    parser.add_argument("--gallery", type=int, nargs="*", default=[33, 9, 26], help="seeds of the gallery's scenes")
    parsed = parser.parse_args(arguments)
    matplotlib.rcParams["font.family"] = "DejaVu Sans"
    parsed.folder.mkdir(parents=True, exist_ok=True)

    def scene(seed):
        return tiny_scenes.make_scene(np.random.default_rng(seed), SIDE)

    row(parsed.folder / "row.png", scene(parsed.seed), parsed.base, tuple(map(int, parsed.point.split(","))))
    gallery(parsed.folder / "gallery.png", [scene(seed) for seed in parsed.gallery], ["sclip", "clearclip"])


if __name__ == "__main__":
    main()
