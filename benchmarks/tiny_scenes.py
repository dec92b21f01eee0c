"""One generated scene as a picture: ``python benchmarks/tiny_scenes.py scene.png --seed 18`` says what is in it.

``python benchmarks/tiny_scenes.py FOLDER --count 4`` writes a data set of scenes with their masks.
"""

from __future__ import annotations

import argparse

from PIL import Image

from cdam_fast.evaluation.scenes import (
    CLASSES,
    COLOURS,
    GROUND,
    PATTERNS,
    Scene,
    Thing,
    make_scene,
    make_scenes,
    write_scenes,
)

__all__ = ["CLASSES", "COLOURS", "GROUND", "PATTERNS", "Scene", "Thing", "make_scene", "make_scenes"]


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Write one generated scene, or a data set of them.")
    parser.add_argument("path", help="file.png, or with --count a folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int)
    parsed = parser.parse_args(arguments)
    if parsed.count is not None:
        write_scenes(parsed.path, parsed.count, parsed.seed)
        return
    (scene,) = make_scenes(1, parsed.seed)
    Image.fromarray(scene.pixels).save(parsed.path)
    print(f"{parsed.path}: {', '.join(thing.shape for thing in scene.things) or 'nothing'}")  # noqa: T201


if __name__ == "__main__":
    main()
