"""One generated scene as a picture: ``python benchmarks/tiny_scenes.py scene.png --seed 18`` says what is in it."""

from __future__ import annotations

import argparse

from PIL import Image

from cdam_fast.evaluation.scenes import CLASSES, COLOURS, GROUND, PATTERNS, Scene, Thing, make_scene, make_scenes

__all__ = ["CLASSES", "COLOURS", "GROUND", "PATTERNS", "Scene", "Thing", "make_scene", "make_scenes"]


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Write one generated scene.")
    parser.add_argument("png")
    parser.add_argument("--seed", type=int, default=0)
    parsed = parser.parse_args(arguments)
    (scene,) = make_scenes(1, parsed.seed)
    Image.fromarray(scene.pixels).save(parsed.png)
    print(f"{parsed.png}: {', '.join(thing.shape for thing in scene.things) or 'nothing'}")  # noqa: T201


if __name__ == "__main__":
    main()
