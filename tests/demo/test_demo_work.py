"""What the page asks for, without a page: words, files, labels, maps, and what is said in their place."""

import re
import warnings

import numpy as np
import pytest
import tiny_scenes
import torch
from PIL import Image

from cdam_fast import CDAMSegmenter
from cdam_fast.demo import pictures, scenes, tables, work
from cdam_fast.demo import session as session_module
from cdam_fast.demo.session import Key, Session
from cdam_fast.prompts import CLASS_LISTS

WORDS = "background, circle, square|rectangle, ring"
LIMIT = 1_000_000


@pytest.fixture(scope="module")
def session():
    return Session.load("tiny")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    path = tmp_path_factory.mktemp("scene") / "scene.png"
    Image.fromarray(tiny_scenes.make_scenes(1, 98)[0].pixels).crop((0, 0, 96, 72)).save(path)
    return str(path)


def segment(session, path, text, base, *, cdam=True, threshold=False):
    return work.segment(session, path, text, base, cdam=cdam, threshold=threshold, most_bytes=LIMIT)


@pytest.fixture(scope="module")
def segmented(session, scene):
    return segment(session, scene, WORDS, "sclip")


# --- words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cat", (("cat",),)),
        (" cat,  sofa | couch ,\nbackground\n", (("cat",), ("sofa", "couch"), ("background",))),
        ("cat\n\ndog", (("cat",), ("dog",))),
        ("犬, über", (("犬",), ("über",))),
    ],
)
def test_words(text, words):
    assert work.parse_words(text) == words


def test_lists_of_the_paper_go_by_name():
    assert [names[0] for names in work.parse_words("VOC21")] == [
        name if isinstance(name, str) else name[0] for name in CLASS_LISTS["VOC21"]
    ]


def test_a_visitor_reads_no_file_of_the_server(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("password")
    assert work.parse_words(str(secret)) == ((str(secret),),)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "words: type some"),
        (" \n ", "words: type some"),
        (None, "words: type some"),
        (7, "words: type some"),
        (",", "words: "),
        ("cat,,dog", "words: got 'cat,,dog', takes words separated by commas"),
        ("cat|", "words: got 'cat|'"),
        ("c\0t", "control characters"),
        ("c\ud800t", "takes text"),
        ("x" * 201, "got a word of 201 characters"),
        (",".join(f"w{i}" for i in range(257)), "words: got 257, takes at most 256"),
        ("cat," * 6000, "words: got 24000 characters"),
    ],
    ids=lambda value: repr(value)[:12],
)
def test_bad_words_are_said(text, said):
    with pytest.raises(work.PageError, match=re.escape(said)) as error:
        work.parse_words(text)
    assert "\n" not in str(error.value)


def test_most_words():
    assert len(work.parse_words(",".join(f"w{i}" for i in range(256)))) == 256


# --- files


def noise(path, width=64, height=48):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    return path


def _cut(path):
    noise(path)
    path.write_bytes(path.read_bytes()[:700])


BAD_FILES = {
    "nothing.png": (lambda path: path.write_bytes(b""), "not an image"),
    "text.png": (lambda path: path.write_text("no picture"), "not an image"),
    "cut.jpg": (_cut, "cannot be read"),
    "raw.cr2": (lambda path: path.write_bytes(b"II*\0"), "raw file"),
    "strip.png": (lambda path: noise(path, 510, 10), "long side"),
    "missing.png": (lambda path: None, "drop it again"),
    "folder.png": (lambda path: path.mkdir(), "folder"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_said_without_their_path(name, tmp_path):
    make, said = BAD_FILES[name]
    make(tmp_path / name)
    with pytest.raises(work.PageError, match=f"photograph: .*{said}") as error:
        work.read(str(tmp_path / name), LIMIT)
    assert str(tmp_path) not in str(error.value)


@pytest.mark.parametrize("path", [None, "", 3, {"path": "x"}])
def test_no_photograph(path):
    with pytest.raises(work.PageError, match="photograph: drop one first"):
        work.read(path, LIMIT)


def test_limits_of_bytes_and_pixels(tmp_path, monkeypatch):
    path = noise(tmp_path / "a.png", 300, 300)
    with pytest.raises(work.PageError, match=r"photograph: got 0\.3 MB, takes at most 0\.1 MB"):
        work.read(str(path), 100_000)
    monkeypatch.setattr(work, "MOST_PIXELS", 80_000)
    with pytest.raises(work.PageError, match="photograph: got 300x300 pixels"):
        work.read(str(path), LIMIT)


def test_a_large_photograph_is_reduced_and_its_size_kept(tmp_path):
    Image.new("RGB", (3200, 1000), (200, 100, 50)).save(tmp_path / "a.png")
    photo, size = work.read(str(tmp_path / "a.png"), LIMIT)
    assert size == (3200, 1000)
    assert photo.shape == (3, 500, 1600)
    assert photo.dtype == torch.uint8
    assert photo[:, 100, 100].tolist() == [200, 100, 50]


# --- labels


def test_areas_are_those_of_the_segmenter(segmented, scene):
    names = ["background", "circle", ["square", "rectangle"], "ring"]
    for view, cdam in zip(segmented.views, (False, True)):
        segmenter = CDAMSegmenter.from_pretrained("tiny", class_names=names, base="sclip", cdam=cdam, background=None)
        labels = segmenter(Image.open(scene)).labels
        assert [area.share for area in view.areas] == [(labels == i).double().mean().item() for i in range(4)]
        assert [area.name for area in view.areas] == ["background", "circle", "square", "ring"]
        assert view.picture.size == pictures.shown_size(96, 72)
    assert [view.title for view in segmented.views] == ["sclip alone", "sclip with CDAM"]


def test_times(segmented):
    assert 0 < segmented.seconds.cdam < segmented.seconds.whole


def test_the_base_alone(session, scene):
    result = segment(session, scene, WORDS, "clearclip", cdam=False)
    assert [view.title for view in result.views] == ["clearclip alone"]
    assert result.seconds.cdam is None
    views, _ = work.attend(session, result, (5, 5))
    assert [view.title for view in views] == ["clearclip's own attention"]


def test_the_threshold(session, scene):
    names = ["background", "circle", "square", "ring", "moon"]
    result = segment(session, scene, ", ".join(names), "maskclip", threshold=True)
    segmenter = CDAMSegmenter.from_pretrained("tiny", class_names=names, base="maskclip")
    labels = segmenter(Image.open(scene)).labels
    assert [area.share for area in result.views[1].areas] == [(labels == i).double().mean().item() for i in range(5)]
    assert result.views != segment(session, scene, ", ".join(names), "maskclip").views


def test_a_threshold_without_a_background_is_a_note(session, scene):
    (note,) = segment(session, scene, "circle, ring", "maskclip", threshold=True).notes
    assert note == 'threshold: off, as none of the words is "background"'
    assert segment(session, scene, "circle, ring", "maskclip").notes == ()


def test_a_repeated_word_is_a_note(session, scene):
    (note,) = segment(session, scene, "ring, circle, Ring", "maskclip").notes
    assert note.startswith("words: in two classes: 'Ring'")


@pytest.mark.parametrize("base", ["nothing", None, ["sclip"]])
def test_a_base_that_there_is_not(session, scene, base):
    with pytest.raises(work.PageError, match=r"base: got .*, takes one of maskclip, sclip"):
        segment(session, scene, WORDS, base)


def test_segmenters_are_kept_for_the_words_that_were_asked_for_last(session, monkeypatch):
    monkeypatch.setattr(session_module, "KEPT", 2)
    first = session.pair(Key((("a",),), "sclip"))
    assert session.pair(Key((("a",),), "sclip")) is first
    assert session.pair(Key((("a",),), "gem")) is not first
    assert session.pair(Key((("a",),), "sclip")) is first
    session.pair(Key((("b",),), "sclip"))  # the oldest, gem's, goes
    assert session.pair(Key((("a",),), "sclip")) is first
    assert len(session._pairs) == 2
    assert session.pair(Key((("b",),), "sclip")).cdam.tower.visual is first.alone.tower.visual  # one set of weights


# --- maps


@pytest.mark.parametrize("shown", [None, (640, 480)])
def test_the_patch_that_was_clicked(session, segmented, shown):
    """96 x 72 pixels: the short side is the model's, so the point is that share of the grid."""
    width, height = shown or (96, 72)
    views, line = work.attend(session, segmented, (0.63 * width, 0.99 * height), shown)
    rows, columns = segmented.grid
    assert line == f"the patch in row {rows} of {rows}, column {int(0.63 * columns) + 1} of {columns}"
    assert [view.title for view in views] == ["sclip's own attention", "CDAM's map"]
    assert all(view.picture.size == pictures.shown_size(96, 72) for view in views)


@pytest.mark.parametrize(
    "point",
    [None, (), (1,), (-1, 5), (5, -0.5), (96, 5), (5, 72), (float("nan"), 5), ("5", "5"), (True, 5), (1, 2, 3), "55"],
    ids=str,
)
def test_a_click_outside_is_said(session, segmented, point):
    with pytest.raises(work.PageError, match="map: that was outside the picture"):
        work.attend(session, segmented, point)


def test_a_click_before_there_is_a_result_is_said(session):
    with pytest.raises(work.PageError, match="map: segment a photograph first"):
        work.attend(session, None, (5, 5))


def test_a_strip_has_labels_and_no_map(session, tmp_path):
    Image.new("RGB", (400, 80), (90, 80, 70)).save(tmp_path / "a.png")
    result = segment(session, str(tmp_path / "a.png"), "ring, circle", "sclip")
    with pytest.raises(work.PageError, match="map: takes a photograph whose long side"):
        work.attend(session, result, (5, 5))


def test_the_largest_attention_is_the_brightest_and_the_patch_is_framed():
    attention = torch.tensor([[0.0, 0.1, 0.2], [0.3, 0.4, 0.9]])
    picture = pictures.heat_picture(torch.full((3, 200, 300), 128, dtype=torch.uint8), attention, (0, 1))
    grey = np.asarray(picture.convert("L")).astype(int)
    height, width = grey.shape
    centres = [[grey[int((i + 0.5) * height / 2), int((j + 0.5) * width / 3)] for j in range(3)] for i in range(2)]
    order = np.argsort(np.array(centres).ravel())
    assert list(order) == [0, 1, 2, 3, 4, 5]
    pixels = np.asarray(picture)
    assert tuple(pixels[1, width // 2]) == (255, 255, 255)
    assert tuple(pixels[height // 4, round(width / 3)]) == (255, 255, 255)


# --- what is said


def test_words_of_a_visitor_are_no_html(session, scene):
    word = "<img src=x onerror=alert(1)>"
    result = segment(session, scene, f'{word}, "ring", <b>moon, background', "sclip")
    html = tables.table(result) + tables.times(result) + tables.refused(f"words: got {word!r}")
    assert not re.findall(r"<(img|b>moon)", html)


def test_times_are_spoken():
    result = work.Segmented(None, (1, 1), Key((), "sclip"), True, (), work.Seconds(0.34, 0.012), ("a < b",))
    text = re.sub("<[^>]*>", "", tables.times(result))
    assert text == "CDAM 12 ms of 340 ms from photograph to labels.Note: a &lt; b"
    assert [tables.spoken(value) for value in (0.0042, 0.0421, 1.26, 42.4)] == ["4.2 ms", "42 ms", "1.3 s", "42 s"]


def test_examples_are_there_and_fit_their_words():
    for model in ("tiny", "ViT-B-16"):
        given = scenes.examples(model)
        assert given
        for example in given:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                work.parse_words(example.words)
                work.read(str(example.path), LIMIT)
