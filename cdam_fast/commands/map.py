"""``cdam-fast map``: its options, and what it prints."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from cdam_fast.commands.messages import named_errors, plain_messages
from cdam_fast.commands.model_options import add_model_options, make_segmenter
from cdam_fast.commands.streams import say
from cdam_fast.errors import require_matplotlib


def add_command(commands: Any) -> None:
    """Add it to argparse's."""
    show = commands.add_parser(
        "map",
        help="draw where chosen patches of a photograph attend, with and without CDAM and at each scale",
        description="Draw where chosen patches of a photograph attend: by the base method, by CDAM, and by CDAM at "
        "each scale. Writes NAME_X-Y_map.png.",
    )
    show.add_argument("photo", metavar="PHOTO")
    show.add_argument(
        "--point", action="append", required=True, metavar="X,Y", help="pixels from left and top; may be repeated"
    )
    show.add_argument("--classes", default="VOC21", metavar="LIST|FILE", help="as for segment (default: %(default)s)")
    add_model_options(show)
    show.set_defaults(run=_run)


def _run(parsed: argparse.Namespace) -> int:
    with plain_messages(parsed):
        return _map(parsed)


def _map(parsed: argparse.Namespace) -> int:
    from cdam_fast.commands.classes import parse_classes
    from cdam_fast.commands.map_figure import check_points, map_figure, map_name, parse_point
    from cdam_fast.commands.photos import check_photo
    from cdam_fast.commands.results import IDENTITY, check_own, identity, make_folder
    from cdam_fast.files import write_whole

    require_matplotlib("map")
    points = [parse_point(text) for text in parsed.point]
    classes = parse_classes(parsed.classes)
    photo = Path(parsed.photo)
    pixels = check_photo("PHOTO", parsed.photo)
    check_points(points, pixels)
    path = make_folder(parsed.out) / map_name(photo, points)
    check_own(path, photo)
    segmenter = make_segmenter(parsed, classes, {"background": None})
    with named_errors(parsed):
        content = map_figure(segmenter, pixels, points, {"photo": photo.name, IDENTITY: identity(photo)})
    write_whole(path, content)
    say(f"written to {path}")
    return 0
