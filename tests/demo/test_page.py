"""The page in a browser: load, type, segment, click, and every kind of bad input, after each of which it lives on."""

import importlib.util

import browser
import numpy as np
import pytest
import tiny_scenes
from PIL import Image

from cdam_fast.demo import work
from cdam_fast.models import BASES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="no gradio"),
    pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="no playwright"),
    pytest.mark.skipif(browser.CHROMIUM is None, reason="no chromium"),
]

WORDS = "background, circle, square, triangle, star, cross, ring, heart, moon"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    with browser.served("--max-mb", "0.2", folder=folder) as (process, address):
        yield address
        assert list(folder.rglob("scene.png"))
    assert process.returncode == 130
    assert "Traceback" not in process.stderr.read()
    assert not list(folder.glob("cdam-fast-demo-*"))  # what visitors dropped went with the server


@pytest.fixture(scope="module")
def page(server):
    """One visit for all of these tests: a page that one of them broke would fail the next."""
    with browser.opened(server) as page:
        yield page
        assert page.elsewhere == []  # no font, no script, no count of visitors from another host


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    path = tmp_path_factory.mktemp("scene") / "scene.png"
    Image.fromarray(tiny_scenes.make_scenes(1, 98)[0].pixels).resize((288, 288)).save(path)
    return path


def segment_well(page, scene, words=WORDS):
    browser.drop(page, scene)
    browser.type_words(page, words)
    browser.segment(page)
    return browser.status(page, "from photograph to labels")


def test_it_opens_with_a_photograph_words_and_every_base(page):
    assert page.locator("#photo img").count() == 1
    assert page.locator("#words textarea").input_value()
    assert [label.strip() for label in page.locator("#base label").all_inner_texts()] == list(BASES)
    assert page.locator("#cdam input").is_checked()
    assert page.locator("#examples").count() == 1


def test_segment_and_click(page, scene):
    assert "CDAM" in segment_well(page, scene)
    page.locator("#view-1 img").wait_for()
    cells = page.locator("#areas tbody tr").all_inner_texts()
    assert any("background" in cell for cell in cells)
    for clicked, row, column in (("#view-1", 0.1, 0.9), ("#view-0", 0.9, 0.1), ("#photo", 0.55, 0.52)):
        box = page.locator(f"{clicked} img").bounding_box()
        page.locator(f"{clicked} img").click(position={"x": column * box["width"], "y": row * box["height"]})
        side = 28  # patches of the tiny model's side
        expected = f"row {int(row * side) + 1} of {side}, column {int(column * side) + 1} of {side}"
        page.locator("#caption", has_text=expected).wait_for()
    assert page.locator("#map-0 img").count() == page.locator("#map-1 img").count() == 1


def test_the_base_alone(page):
    page.locator("#cdam input").uncheck()
    page.locator("#base label", has_text="clearclip").click()
    browser.segment(page)
    browser.status(page, "without CDAM")
    page.locator("#view-0", has_text="clearclip alone").wait_for()
    assert page.locator("#view-1 img").count() == 0
    page.locator("#cdam input").check()


def bad_picture(path):
    path.write_text("no picture")
    return path


def cut_jpeg(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 99, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:900])
    return path


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("text.png", bad_picture, "photograph: not an image that Pillow can read"),
        ("cut.jpg", cut_jpeg, "photograph: cannot be read"),
    ],
)
def test_a_file_that_is_no_picture(page, scene, tmp_path, name, make, said):
    browser.drop(page, make(tmp_path / name))
    browser.segment(page)
    message = browser.status(page, said, "wrong")
    assert "/" not in message.replace("cdam-fast", "")
    segment_well(page, scene)


def test_a_file_over_the_limit(page, scene, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.png")
    browser.drop(page, tmp_path / "large.png", taken=False)
    page.get_by_text("maximum allowed size").first.wait_for()
    segment_well(page, scene)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "words: type some"),
        (" , ", "words: "),
        ("cat,,dog", "takes words separated by commas"),
        (", ".join(f"w{i}" for i in range(work.MOST_CLASSES + 1)), "words: got 257, takes at most 256"),
        ("<b>bold</b>" * 20, "got a word of 220 characters"),
    ],
    ids=["empty", "commas", "twice", "many", "long"],
)
def test_bad_words(page, scene, words, said):
    browser.type_words(page, words)
    browser.segment(page)
    browser.status(page, said, "wrong")
    page.locator(".toast-body", has_text=said[:30]).first.wait_for()
    segment_well(page, scene)


def test_odd_letters(page, scene):
    segment_well(page, scene, "犬, <b>ring</b>, ¿qué?, background")
    assert page.locator("#areas b").count() == 0


def test_no_photograph_and_a_click_before_there_is_a_result(page, scene):
    browser.drop(page, scene)
    page.locator("#photo img").click()
    page.locator("#caption .cdam-wrong", has_text="segment a photograph first").wait_for()
    browser.remove(page)
    browser.segment(page)
    browser.status(page, "photograph: drop one first", "wrong")
    segment_well(page, scene)


def test_a_narrow_page_has_no_sideways_scrolling(page):
    page.set_viewport_size({"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.set_viewport_size({"width": 1280, "height": 1500})
