"""What one sees, and what a button or a click calls."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from cdam_fast.demo.answers import CLICK, WAITING, Answers
from cdam_fast.demo.scenes import examples
from cdam_fast.demo.session import Session
from cdam_fast.models import BASES

MOST_BYTES = 20_000_000

KEPT_SECONDS = 3600
"""How long a visitor's files and results are kept, at most."""

CSS = Path(__file__).with_name("page.css")

_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif")
_MONO = ("ui-monospace", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")

_HEADER = """<div class="cdam-header"><h1>CDAM</h1>
<p>Type words: every pixel of the photograph gets the one that fits it best. The labels are CLIP's, which was never
trained on labelled pixels; CDAM makes its attention follow the classes.</p></div>"""


def theme() -> Any:
    """Fonts of the visitor's own system, so that nothing is fetched from elsewhere."""
    return gr.themes.Default(primary_hue="blue", neutral_hue="slate", font=_FONTS, font_mono=_MONO)


def make_page(session: Session, most_bytes: int = MOST_BYTES) -> Any:
    """The page of a model, a ``gradio.Blocks`` that is not launched; `cdam_fast.demo.server.launch` does.

    Args:
        session: the model.
        most_bytes: of a photograph's file.

    Files that visitors drop are removed after an hour, and when the server ends.
    """
    given = examples(session.name)
    shown = [[str(one.path), one.words] for one in given]
    with gr.Blocks(title="CDAM", analytics_enabled=False, delete_cache=(300, KEPT_SECONDS)) as page:
        gr.HTML(_HEADER, padding=False)
        with gr.Row(elem_classes="cdam-columns"):
            with gr.Column(scale=4, min_width=300):
                photo = gr.Image(
                    label="photograph",
                    type="filepath",
                    sources=["upload", "clipboard"],
                    height=300,
                    value=shown[0][0] if shown else None,
                    elem_id="photo",
                    buttons=[],
                )
                words = gr.Textbox(
                    label="words",
                    info="by commas, synonyms by bars",
                    placeholder="cat, sofa|couch, background",
                    value=shown[0][1] if shown else "",
                    lines=2,
                    elem_id="words",
                )
                base = gr.Radio(list(BASES), value="sclip", label="base", elem_id="base")
                with gr.Row():
                    cdam = gr.Checkbox(
                        value=True, label="CDAM", info="beside the base alone", elem_id="cdam", min_width=140
                    )
                    threshold = gr.Checkbox(
                        label="threshold",
                        info='what no word fits is "background"',
                        elem_id="threshold",
                        min_width=140,
                    )
                button = gr.Button("Segment", variant="primary", elem_id="segment")
                picked = (
                    gr.Examples(shown, [photo, words], label="examples", elem_id="examples", api_visibility="private")
                    if shown
                    else None
                )
            with gr.Column(scale=7, min_width=300):
                answers = Answers(
                    session,
                    most_bytes,
                    state=gr.State(None, time_to_live=KEPT_SECONDS),
                    status=gr.HTML(WAITING, elem_id="status", padding=False),
                    views=_pair("view"),
                    table=gr.HTML(elem_id="areas", padding=False),
                    caption=gr.HTML(CLICK, elem_id="caption", padding=False),
                    maps=_pair("map", visible=False),
                )
        gr.HTML(
            f'<p class="cdam-footer">Model: {escape(session.name)}. Photographs stay on the machine that serves this '
            "page, and are removed after an hour.</p>",
            padding=False,
        )
        _connect(answers, [photo, words, base, cdam, threshold], button, picked)
    return page.queue(max_size=32)


def _pair(name: str, visible: bool = True) -> list[Any]:
    with gr.Row(elem_classes="cdam-pair"):
        return [
            gr.Image(
                label=label,
                interactive=False,
                visible=visible,
                elem_id=f"{name}-{i}",
                min_width=260,
                buttons=["download", "fullscreen"],
            )
            for i, label in enumerate(("base alone", "with CDAM"))
        ]


def _connect(answers: Answers, asked: list[Any], button: Any, picked: Any) -> None:
    """Events to answers. The photograph comes as a file that nothing has opened yet: a bad one is ours to say."""
    photo, words, *_ = asked
    segment: dict[str, Any] = {
        "fn": answers.segment,
        "inputs": asked,
        "outputs": answers.outputs,
        "preprocess": False,
        "concurrency_limit": 1,
        "concurrency_id": "model",
        "api_visibility": "private",
    }
    gr.on([button.click, words.submit], **segment)
    if picked is not None:
        picked.load_input_event.then(**segment)
    for event in (photo.upload, photo.clear):
        event(answers.cleared, None, answers.outputs, api_visibility="private")
    for clicked, attend in [(photo, answers.attend), *((view, answers.attend_in_view) for view in answers.views)]:
        clicked.select(
            attend,
            [answers.state],
            [answers.caption, *answers.maps],
            concurrency_limit=1,
            concurrency_id="model",
            api_visibility="private",
        )
