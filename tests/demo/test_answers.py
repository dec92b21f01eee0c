"""From what the browser sends to what components get; the page as it is described to the browser."""

import warnings

import pytest
import tiny_scenes
from PIL import Image

from cdam_fast.demo import work
from cdam_fast.demo.session import Session

gr = pytest.importorskip("gradio", minversion="6")

LIMIT = 1_000_000


@pytest.fixture(scope="module")
def session():
    return Session.load("tiny")


@pytest.fixture(scope="module")
def answers(session):
    from cdam_fast.demo.answers import Answers

    with gr.Blocks(analytics_enabled=False):
        html = [gr.HTML() for _ in range(3)]
        images = [gr.Image() for _ in range(4)]
        state = gr.State(None)
    names = dict(zip(("status", "table", "caption"), html))
    return Answers(session, LIMIT, state=state, views=images[:2], maps=images[2:], **names)


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "scene.png"
    Image.fromarray(tiny_scenes.make_scenes(1, 98)[0].pixels).save(path)
    return {"path": str(path), "url": "http://127.0.0.1/scene.png", "orig_name": "scene.png"}


def answered(call, *arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # without a browser gradio warns instead of showing a message
        return call(*arguments)


def test_segment_fills_everything_and_attend_the_maps(answers, photo):
    shown = answered(answers.segment, photo, "ring, square", "sclip", True, False)
    assert set(shown) == set(answers.outputs)
    assert "CDAM" in shown[answers.status]
    assert [shown[view]["label"] for view in answers.views] == ["sclip alone", "sclip with CDAM"]
    assert not any(shown[one]["visible"] for one in answers.maps)
    event = gr.SelectData(None, {"index": [40, 30], "value": None})
    mapped = answered(answers.attend, shown[answers.state], event)
    assert [mapped[one]["visible"] for one in answers.maps] == [True, True]
    assert "row 4 of 28, column 6 of 28" in mapped[answers.caption]
    larger = gr.SelectData(None, {"index": [80, 60], "value": None})
    again = answered(answers.attend_in_view, shown[answers.state], larger)
    assert again[answers.caption] == mapped[answers.caption]


@pytest.mark.parametrize("photo", [None, "text", {}, {"path": None}, {"url": "http://192.0.2.1/a.png"}, {"path": 3}])
def test_what_is_no_upload_is_a_message_and_nothing_else_changes(answers, photo):
    shown = answered(answers.segment, photo, "ring", "sclip", True, False)
    assert list(shown) == [answers.status]
    assert "photograph: drop one first" in shown[answers.status]


def test_a_click_with_nothing_is_a_message(answers):
    shown = answered(answers.attend, None, gr.SelectData(None, {"index": None, "value": None}))
    assert "segment a photograph first" in shown[answers.caption]


def test_the_unforeseen_is_a_message_without_what_it_says(answers, photo, monkeypatch, caplog):
    def broken(*arguments, **options):
        raise LookupError("/home/someone/secret")

    monkeypatch.setattr(work, "segment", broken)
    shown = answered(answers.segment, photo, "ring", "sclip", True, False)
    assert "something went wrong here (LookupError)" in shown[answers.status]
    assert "secret" not in shown[answers.status]
    assert "secret" in caplog.text  # the server's own log has it


def test_page_offers_no_interface_beside_itself_and_names_no_other_host(session):
    from cdam_fast.demo.page import CSS, make_page, theme

    page = make_page(session)
    config = page.get_config_file()
    assert all(one["api_visibility"] == "private" for one in config["dependencies"] if one["targets"])
    assert theme()._stylesheets == []
    assert "http" not in CSS.read_text(encoding="utf-8")
