"""Names and files that are no protocol, and a file of one's own."""

import copy
import json
import re
from pathlib import Path

import numpy as np
import pytest

from cdam_fast import CDAMSegmenter, cli
from cdam_fast.commands.protocol_options import chosen_segmenter
from cdam_fast.evaluation import PROTOCOLS, Dataset, load_protocol
from cdam_fast.evaluation.datasets.classes import CLASSES
from cdam_fast.evaluation.protocol import FOLDER
from cdam_fast.processes import ALONE


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("voc20",),
            "dataset: got 'voc20', the protocol paper takes one of voc21, context60, coco-object, coco-stuff, ",
        ),
        (("VOC21",), "dataset: got 'VOC21', the protocol paper takes one of voc21"),
        (("voc21", "naclip"), "base: got 'naclip', the protocol paper takes one of maskclip, sclip, clearclip, gem"),
    ],
    ids=["data set", "case", "base"],
)
def test_unknown_names(arguments, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        load_protocol("paper").settings(*arguments)


def test_an_unknown_model_and_a_flag_that_is_none():
    with pytest.raises(
        ValueError, match=r"^model: got 'ViT-L-14', the protocol paper takes one of ViT-B-16, ViT-B-32$"
    ):
        load_protocol("paper").settings("voc21", model="ViT-L-14")
    with pytest.raises(TypeError, match=r"^cdam: got 'yes', takes True or False"):
        load_protocol("paper").settings("voc21", cdam="yes")


@pytest.mark.parametrize("name", ["Paper", "tcl", "paper.json", 3])
def test_an_unknown_protocol(name):
    message = f"protocol: got {name!r}, takes one of paper, released, sclip, or the pathlib.Path of a file"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_protocol(name)


@pytest.mark.parametrize("dataset", ["voc20", "cityscapes"])
def test_data_sets_that_the_released_code_has_no_configuration_for(dataset):
    with pytest.raises(ValueError, match=rf"^dataset: got '{dataset}', the protocol released takes one of voc21, "):
        load_protocol("released").settings(dataset)


# --- a file of one's own


def own_file():
    settings = {
        "pretrained": None,
        "activation": "GELU",
        "words": None,
        "short_side": 224,
        "long_side": None,
        "resize": "pillow",
        "window": 224,
        "stride": 112,
        "logit_scale": 100,
        "background": None,
        "background_class": None,
        "order": "paper",
        "refine": True,
    }
    return {
        "name": "mine",
        "about": "A protocol of a test.",
        "repositories": {},
        "models": ["tiny"],
        "bases": ["sclip"],
        "datasets": ["custom", "cityscapes"],
        "rules": [
            {"settings": settings, "sources": dict.fromkeys(settings, "chosen")},
            {"datasets": ["custom"], "cdam": False, "settings": {"stride": 224}, "sources": {"stride": "quicker"}},
        ],
        "published": [{"source": "here", "model": "tiny", "base": "sclip", "cdam": True, "miou": {"cityscapes": 0.5}}],
        "unconfirmed": [],
    }


def written(folder, content):
    path = Path(folder) / "mine.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_a_file_of_ones_own(tmp_path):
    protocol = load_protocol(written(tmp_path, own_file()))
    assert protocol.name == "mine"
    assert protocol.settings("cityscapes").class_names == list(CLASSES["cityscapes"])
    assert protocol.settings("cityscapes").miou == 0.5
    settings = protocol.settings("custom", cdam=False, classes=["cat", "dog"])
    assert settings.class_names == ["cat", "dog"]
    assert (settings.options["stride"], settings.sources["stride"]) == (224, "quicker")
    assert (settings.pretrained, settings.options["refine"], settings.options["order"]) == (None, True, "paper")
    made = CDAMSegmenter.from_pretrained(
        settings.model, settings.pretrained, settings.class_names, base=settings.base, cdam=False, **settings.options
    )
    assert made.options.refine
    with pytest.raises(ValueError, match=r"^classes: got None, takes the names of custom, of which mine has no words"):
        protocol.settings("custom")


@pytest.mark.parametrize("activation", ["GELU", "QuickGELU"])
def test_its_activation_is_taken(tmp_path, activation):
    """For its own weights; others, such as --model tiny in its place, say theirs."""
    content = own_file()
    content["models"] = [str(FOLDER.parents[1] / "data" / "tiny.json")]
    content["published"] = []
    settings = content["rules"][0]["settings"]
    settings |= {"activation": activation, "pretrained": str(FOLDER.parents[1] / "data" / "tiny.safetensors")}
    dataset = Dataset("custom", ("cat", "dog"), (), np.zeros(256, dtype=np.int16))
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    given = ["evaluate", "custom", "--root", ".", "--classes", str(tmp_path / "classes.txt"), "--device", "cpu"]
    for more, expected in (([], activation), (["--model", "tiny"], "GELU")):
        options = [*given, "--protocol", str(written(tmp_path, content)), *more]
        segmenter, _ = chosen_segmenter(cli._parser().parse_args(options), dataset, ALONE)
        kinds = {type(module).__name__ for module in segmenter.tower.visual.modules()}
        assert kinds & {"GELU", "QuickGELU"} == {expected}


def changed(*path, to):
    def change(content):
        *way, last = path
        for step in way:
            content = content[step]
        if to is KeyError:
            del content[last]
        else:
            content[last] = to

    return change


WORDS_OF_18 = ["word"] * 18
BROKEN = {
    "no list": (changed("rules", to={}), "rules: got {}, takes a list"),
    "a key too many": (changed("notes", to=[]), "the file: got 'notes', takes name, about, "),
    "a key too few": (changed("bases", to=KeyError), "the file: has no 'bases'"),
    "no base": (changed("bases", to=[]), "bases: got [], takes a list of texts"),
    "a base twice": (changed("bases", to=["gem", "gem"]), 'bases: got ["gem", "gem"], takes each once'),
    "unknown setting": (
        changed("rules", 1, "settings", "strides", to=3),
        "rules[1].settings.strides: no setting, takes one of pretrained, ",
    ),
    "no source": (
        changed("rules", 0, "sources", "window", to=KeyError),
        "rules[0].sources: window is in one of settings and sources",
    ),
    "a type": (
        changed("rules", 0, "settings", "short_side", to="448"),
        'rules[0].settings.short_side: got "448", takes a whole number',
    ),
    "a flag for a number": (
        changed("rules", 0, "settings", "logit_scale", to=True),
        "rules[0].settings.logit_scale: got true, takes a number",
    ),
    "null": (changed("rules", 0, "settings", "resize", to=None), "rules[0].settings.resize: got null, takes text"),
    "activation": (
        changed("rules", 0, "settings", "activation", to="ReLU"),
        "rules[0].settings.activation: got 'ReLU', takes 'GELU' or 'QuickGELU'",
    ),
    "an unknown data set": (
        changed("rules", 1, "datasets", to=["voc21"]),
        "rules[1].datasets: got 'voc21', takes one of custom, cityscapes",
    ),
    "a scope that is no flag": (changed("rules", 1, "cdam", to=1), "rules[1].cdam: got 1, takes true or false"),
    "a setting that is never said": (
        lambda content: [content["rules"][0][part].pop("order") for part in ("settings", "sources")],
        "rules: no order for custom, sclip, tiny, with CDAM",
    ),
    "words of a class": (
        changed("rules", 0, "settings", "words", to=[["a", ""]]),
        'rules[0].settings.words[0]: got ["a", ""], takes a list of texts',
    ),
    "count of classes": (
        changed("rules", 0, "settings", "words", to=WORDS_OF_18),
        "rules[0].settings.words: got 18 classes, takes the 19 of cityscapes",
    ),
    "a percentage": (
        changed("published", 0, "miou", "cityscapes", to=50.0),
        "published[0].miou.cityscapes: got 50.0, takes a fraction of 1",
    ),
    "a number of another base": (
        changed("published", 0, "base", to="gem"),
        "published[0].base: got 'gem', takes one of sclip",
    ),
    "no object": (changed("published", 0, to=3), "published[0]: got 3, takes an object"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_file_that_is_none(tmp_path, case):
    change, message = BROKEN[case]
    content = copy.deepcopy(own_file())
    change(content)
    with pytest.raises(ValueError, match=f"^{re.escape(f'protocol mine.json: {message}')}"):
        load_protocol(written(tmp_path, content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "protocol mine.json: cannot be read: "),
        ('{"name": "a", "name": "b"}', "protocol mine.json: cannot be read: 'name' is there twice"),
        ("[1]", "protocol mine.json: the file: got [1], takes an object"),
        ("[" * 200_000, "protocol mine.json: cannot be read: "),
    ],
    ids=["cut", "twice", "list", "deep"],
)
def test_a_file_that_is_no_protocol(tmp_path, content, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        load_protocol(written(tmp_path, content))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"^protocol none\.json: cannot be read: "):
        load_protocol(tmp_path / "none.json")


def test_every_file_of_the_package_is_a_protocol():
    assert sorted(path.stem for path in FOLDER.glob("*.json")) == sorted(PROTOCOLS)
    for name in PROTOCOLS:
        assert load_protocol(name).name == name


@pytest.mark.parametrize("name", PROTOCOLS)
def test_whatever_is_cited_is_in_repositories(name):
    protocol = load_protocol(name)
    texts = [text for rule in protocol.rules for text in rule.sources.values()]
    texts += [*(row.source for row in protocol.published), *protocol.unconfirmed]
    file = r"[\w/*]+\.(?:py|txt|md)\b"
    place = rf"(?:{file}|(?:configs: )?scale of (?:every )?{file}|every {file}|section \d|Table \d|appendix [A-G])"
    cited = {one for text in texts for one in re.findall(rf"(?<![\w./:-])([A-Za-z][\w-]*), {place}", text)}
    assert len(cited) > 1
    assert cited <= protocol.repositories.keys()
    for address in protocol.repositories.values():
        assert re.match(r"https://github\.com/[\w-]+/[\w-]+ at [0-9a-f]{12}|Kang, Kim, Chun: ", address)
