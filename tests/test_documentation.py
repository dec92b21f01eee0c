"""Every block of the documentation runs as it is copied, with random weights where it would download some."""

import math
import re
import runpy
import shlex
import sys

import documentation
import numpy as np
import open_clip
import pytest
import tiny_scenes
import tiny_table
import torch
from PIL import Image
from towers import small_model

from cdam_fast import CDAMSegmenter, cli, entropy_threshold
from cdam_fast.compat import TORCH
from cdam_fast.segmentation import segmenter as segmenter_module
from cdam_fast.segmentation.load import model_defaults

FILES = (
    *("README.md", "CONTRIBUTING.md", "kernels/README.md"),
    *(f"docs/{path.name}" for path in sorted((documentation.ROOT / "docs").glob("*.md"))),
)
WEIGHTS = ("ViT-B-16", "laion2b_s34b_b88k")
RUN_ELSEWHERE = {"The released CDAM code", "SCLIP's code", "ClearCLIP's code", "Any mmseg segmentor"}
"""Recipes that go into other code: test_recipes_cdam, test_recipes_bases and test_recipes."""
LONG = {"bench", "kernels", "tune", "demo"}
"""Subcommands that take minutes, or go on until they are stopped; of them, only the arguments are tried here."""

OF_DATA_SETS = "--root"
"""What commands have that read data sets, which are not here; only the arguments are tried."""

IN_A_ROW = {"docs/bases.md", "docs/nearest-neighbours.md", "docs/demo.md"}
"""Pages whose blocks go on from each other, each run by a test of its own."""

SCENE_SEED = 98
"""Of README's scene."""

BLOCKS = [block for file in FILES for block in documentation.blocks(file)]


def of_language(language):
    chosen = [block for block in BLOCKS if block.language == language]
    if language == "python":
        chosen = [block for block in chosen if block.file not in IN_A_ROW]
    return pytest.mark.parametrize(
        "block",
        [
            pytest.param(
                block,
                id=f"{block.file}:{block.line}",
                marks=[pytest.mark.slow] if "benchmarks/pictures.py" in block.code else [],
            )
            for block in chosen
        ],
    )


@pytest.fixture
def scene():
    """README's scene."""
    return tiny_scenes.make_scenes(1, SCENE_SEED)[0]


@pytest.fixture
def place(tmp_path, monkeypatch, scene):
    """A folder with the files that the documentation names, and random weights in place of the download."""

    def load(model_name, pretrained=None, *arguments, **options):
        if (model_name, pretrained) != WEIGHTS:
            return own(model_name, pretrained, *arguments, **options)
        return small_model(), open_clip.get_tokenizer("ViT-B-16")

    own = segmenter_module.load_clip
    monkeypatch.setattr(segmenter_module, "load_clip", load)
    for folder in ("photos", "more"):
        (tmp_path / folder).mkdir()
    for name in ("photo.jpg", "photos/a.jpg", "photos/b.png", "more/c.jpg"):
        Image.fromarray(scene.pixels).resize((192, 192)).save(tmp_path / name)
    Image.fromarray(scene.pixels).save(tmp_path / "scene.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_block_is_of_a_kind_that_is_run():
    assert {block.language for block in BLOCKS} <= {"python", "sh", ""}
    assert {block.heading for block in BLOCKS if block.file == "docs/recipes.md"} >= RUN_ELSEWHERE


@of_language("python")
def test_python(block, place, monkeypatch, capsys):
    if block.heading in RUN_ELSEWHERE:
        compile(block.code, block.file, "exec")
        return
    if block.heading == "Transforms" and TORCH < (2, 6):
        pytest.skip("torch.func of the functions takes torch 2.6")
    names = documentation.execute(block, monkeypatch)
    if "weight" in names:
        assert names["attention"].shape == (2, 784, 784)
        assert names["features"].shape == (2, 784, 768)
        assert names["weight"].shape == (24, 785, 785)
    if "result" in names:
        assert len(names["result"].labels.unique()) > 1
    printed = re.search(r"^print\(.*\)  # (\[.*\])", block.code, re.MULTILINE)
    assert capsys.readouterr().out.strip() == (printed[1] if printed else "")


@of_language("sh")
def test_commands(block, place, capsys, monkeypatch):
    for line in re.split(r"\n|&&", block.code.replace("\\\n", " ")):
        command, *arguments = shlex.split(line, comments=True) or [""]
        if command == "cdam-fast" and arguments[0] not in LONG and OF_DATA_SETS not in arguments:
            arguments = [match for word in arguments for match in (sorted(map(str, place.glob(word))) or [word])]
            assert cli.main(arguments) == 0, line
        elif command == "cdam-fast":
            cli._parser().parse_args(arguments)
        elif command == "python":
            script, *rest = arguments
            monkeypatch.setattr(sys, "argv", [script, *rest])
            runpy.run_path(str(documentation.ROOT / script), run_name="__main__")
        else:
            assert command in ("", "pip", "pytest", "nox"), line  # what this suite is run by
    if "cdam-fast segment" in block.code.replace("segment --help", ""):
        labels = [np.asarray(Image.open(path)) for path in place.glob("cdam-fast-out/*_labels.png")]
        assert labels
        assert all(len(np.unique(one)) > 1 for one in labels)


# --- what README says of words and background


@pytest.mark.parametrize("words", [2, 3, 5, 6, 21])
def test_the_least_threshold_of_few_words(words):
    """One patch that is certain, one that is not at all: 2.5 / log2 Q, and more with anything in between."""
    certain, uncertain = torch.zeros(words), torch.zeros(words)
    certain[0] = 100.0
    least = float(entropy_threshold(torch.stack((certain, uncertain), 1)))
    assert least == pytest.approx(2.5 / math.log2(words))
    assert (least > 1) == (words <= 5)
    for row in torch.randn(20, words) / 50:
        between = float(entropy_threshold(torch.stack((certain, row), 1)))
        assert between >= least * (1 - 1e-6)


@pytest.mark.parametrize("background", [None, 0.5], ids=["none", "fixed"])
def test_a_few_words_give_a_picture(scene, background):
    """With no threshold or a fixed one more than one class is found; by Eq. 4 five words are all background."""
    words = ["background", "square", "ring", "star", "moon"]
    photograph = torch.from_numpy(scene.pixels).permute(2, 0, 1)

    def labels(**options):
        model, tokenizer = tiny_table.load()
        made = CDAMSegmenter(model, tokenizer, words, **model_defaults("tiny"), **options)
        return made(photograph).labels

    assert len(labels(background=background).unique()) > 1
    with pytest.warns(UserWarning, match="every pixel is background"):
        assert labels().unique().tolist() == [0]


# --- how README looks elsewhere


@pytest.mark.parametrize("file", FILES)
def test_links_lead_to_files(file):
    text = (documentation.ROOT / file).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]*)(?:#[^)]*)?\)", text):
        if target and "://" not in target:
            assert ((documentation.ROOT / file).parent / target).exists(), target


@pytest.mark.parametrize("file", FILES)
def test_links_inside_a_page_lead_to_headings(file):
    text = (documentation.ROOT / file).read_text(encoding="utf-8")
    headings = [re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()) for line in text.splitlines() if line[:1] == "#"]
    anchors = {heading.replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]*)\)", text)) <= anchors


def test_pictures_have_a_text():
    for file in FILES:
        text = (documentation.ROOT / file).read_text(encoding="utf-8")
        assert not re.findall(r"!\[\s*\]|<img", text), file


def test_readme_is_short():
    assert len((documentation.ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_every_page_is_in_the_sites_navigation():
    listed = re.findall(
        r"^ +- ([\w-]+\.md)$", (documentation.ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert sorted(listed) == sorted(path.name for path in (documentation.ROOT / "docs").glob("*.md"))


def options_of(parser):
    """Every option of every subcommand."""
    (commands,) = (action for action in parser._actions if hasattr(action, "choices") and action.choices)
    for name, command in commands.choices.items():
        for action in command._actions:
            yield from ((name, option) for option in action.option_strings if option not in ("-h", "--help"))


@pytest.mark.parametrize(("command", "option"), list(options_of(cli._parser())))
def test_every_option_has_an_example(command, option):
    """In a block of its command that is run, or whose arguments are tried."""
    lines = [
        line
        for block in BLOCKS
        if block.language == "sh"
        for line in block.code.replace("\\\n", " ").splitlines()
        if line.startswith(f"cdam-fast {command}")
    ]
    assert any(option in line.split() for line in lines)
