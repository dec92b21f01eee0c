"""What decides results and is no setting: a folder of other results is refused by what the segmenter does."""

import dataclasses
import json

import pytest
import torch
from open_clip import OPENAI_IMAGENET_TEMPLATES
from small_evaluations import make_segmenter, text, write

from cdam_fast import CDAMSegmenter
from cdam_fast.evaluation import conditions, evaluate
from cdam_fast.evaluation.kept import ANSWER, TEXTS, difference
from cdam_fast.models import BASES


@pytest.fixture
def run(tmp_path):
    dataset = write(tmp_path / "data", 2)

    def run(segmenter):
        return evaluate(segmenter, dataset, out=tmp_path / "out", workers=0, limit=1)

    run(make_segmenter())
    return run


def activated(function):
    made = make_segmenter()
    for module in made.tower.visual.modules():
        if isinstance(module, torch.nn.GELU):
            module.forward = function
    return made


def doubled(similarity):
    return 2 * similarity


@pytest.mark.parametrize(
    "other",
    [
        lambda: make_segmenter(text_features=text(5, 7)),
        lambda: make_segmenter(augmented_text_features=text(11, 7)),
        lambda: make_segmenter(base=dataclasses.replace(BASES["maskclip"], adjust=doubled)),
        lambda: activated(torch.nn.functional.silu),
    ],
    ids=["texts", "augmented texts", "a base of the same name", "an activation"],
)
def test_what_no_setting_tells_is_refused(run, other):
    with pytest.raises(ValueError, match=rf"out: .* has results with ({TEXTS}|{ANSWER}) \[.*\d.*, not \[.*\d"):
        run(other())
    assert run(make_segmenter()).done_before == 1


def test_one_template_of_eighty_less_is_told():
    def answer(templates):
        made = CDAMSegmenter.from_pretrained("tiny", class_names=["background", "star"], templates=templates)
        return {TEXTS: conditions.texts_of(made)}

    whole = answer(OPENAI_IMAGENET_TEMPLATES)
    assert difference(answer(OPENAI_IMAGENET_TEMPLATES[1:]), whole).startswith(TEXTS)
    assert not difference(answer(None), whole)  # they are the default


@pytest.mark.parametrize("moved", [-1e-5, 1e-5])
def test_rounding_is_not_refused(run, monkeypatch, moved):
    answer = conditions.answer_of
    monkeypatch.setattr(conditions, "answer_of", lambda made: [mean + moved for mean in answer(made)])
    assert run(make_segmenter()).done_before == 1


@pytest.mark.parametrize("logits", [torch.full((1, 4, 2, 2), torch.nan), None], ids=["NaN", "an exception"])
def test_a_segmenter_without_an_answer(run, monkeypatch, tmp_path, logits):
    made = make_segmenter()
    monkeypatch.setattr(made, "patch_logits", lambda pixels: logits)
    assert conditions.answer_of(made) is None
    with pytest.raises(ValueError, match=rf"{ANSWER} \[.*, not null"):
        run(made)
    assert len(json.loads((tmp_path / "out" / "settings.json").read_bytes())["settings"][ANSWER]) == 4


def test_only_what_is_kept_has_it(run, monkeypatch, tmp_path):
    monkeypatch.setattr(conditions, "answer_of", None)
    dataset = write(tmp_path / "other", 1)
    assert ANSWER not in evaluate(make_segmenter(), dataset, workers=0).settings
