"""Table 18: files of scores and values of other methods, with and without CDAM."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from cdam_fast import reference
from cdam_fast.evaluation.tables.supervised import (
    find_methods,
    harmonic_mean,
    labels_of,
    plan_supervised,
    read_image,
)


def test_harmonic_mean():
    assert harmonic_mean(0.5, 0.25) == pytest.approx(1 / 3)
    assert harmonic_mean(0.0, 0.5) == harmonic_mean(0.0, 0.0) == 0.0


@pytest.fixture
def method(tmp_path):
    """Three classes; the last is unseen."""
    folder = tmp_path / "scores" / "zegclip"
    folder.mkdir(parents=True)
    (folder / "classes.json").write_text(json.dumps({"classes": ["a", "b", "c"], "unseen": ["c"]}))
    return folder


def tensors(labels, truth):
    """Scores that say the labels of the quarters of 4 x 4 patches, and themselves as values."""
    patches = torch.tensor(labels).reshape(2, 2).repeat_interleave(2, 0).repeat_interleave(2, 1)
    scores = torch.nn.functional.one_hot(patches, 3).permute(2, 0, 1).float().contiguous()
    return {"scores": scores, "values": scores.flatten(1).T.contiguous(), "truth": torch.tensor(truth)}


def measured(folder, **options):
    plan = plan_supervised(find_methods(folder.parent), torch.device("cpu"), **options)
    jobs = {cell.row: cell.job for cell in plan.cells if cell.job is not None}
    return {row: job.measure(folder) for row, job in jobs.items()}


def test_seen_and_unseen_by_hand(method):
    save_file(tensors([0, 0, 1, 2], [[0, 0], [1, 1]]), method / "one.safetensors")
    save_file(tensors([2, 2, 1, 0], [[2, 0], [255, -1]]), method / "two.safetensors")
    found = measured(method)["zegclip"]
    # a: 2 of 3 (one said to be c); b: 1 of 2; c: 1 of 3 (2 and 1 said wrongly)
    assert found["seen"].number == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found["unseen"].number == pytest.approx(1 / 3)
    assert found["harmonic mean"].number == pytest.approx(2 * (7 / 12) * (1 / 3) / (7 / 12 + 1 / 3))
    assert {value.images for value in found.values()} == {2}
    assert measured(method, limit=1)["zegclip"]["unseen"].number == 0


@pytest.mark.parametrize("with_text", [False, True])
def test_cdam_is_the_map_applied_to_the_values(with_text):
    torch.manual_seed(3)
    scores, values, text = torch.rand(4, 4, 5) / 5, torch.randn(20, 7), torch.randn(4, 7)
    image = {"scores": scores, "values": values, "text": text, "truth": torch.zeros(4, 5, dtype=torch.int64)}
    if not with_text:
        image |= {"values": scores.flatten(1).T}
        del image["text"]
    attended = reference.cdam_attention(scores.double()) @ image["values"].double()
    if with_text:
        attended = torch.nn.functional.cosine_similarity(attended[:, None], text.double()[None], dim=-1)
    assert torch.equal(labels_of(image, cdam=True), attended.argmax(1).reshape(4, 5))
    assert torch.equal(labels_of(image, cdam=False), scores.argmax(0))


def broken(name, value):
    return lambda image: {**image, name: value}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda image: {key: value for key, value in image.items() if key != "values"}, "has no values, takes"),
        (broken("scores", torch.zeros(2, 2, 2)), r"scores: got shape \(2, 2, 2\), takes \[3, h, w\]"),
        (broken("values", torch.zeros(3, 3)), r"values: got shape \(3, 3\), takes \[16, 3\]"),
        (broken("text", torch.zeros(2, 3)), r"text: got shape \(2, 3\), takes \[3, D\]"),
        (broken("truth", torch.zeros(2, 2)), r"truth: got torch.float32 of shape \(2, 2\), takes integers"),
        (broken("truth", torch.full((2, 2), 3)), "truth: has a value of no class, takes 0 to 2, 255 and -1"),
        (broken("truth", torch.full((2, 2), -2)), "truth: has a value of no class"),
        (broken("truth", torch.full((2, 2), 65537)), "truth: has a value of no class"),  # 1 in 16 bits
        (broken("truth", torch.zeros(0, 2, dtype=torch.int64)), r"truth: got torch.int64 of shape \(0, 2\)"),
        (broken("truth", torch.zeros(2, 2, dtype=torch.bool)), "truth: got torch.bool"),
        (broken("scores", torch.full((3, 4, 4), torch.nan)), "scores: has values that are NaN or infinite"),
        (broken("values", torch.full((16, 3), torch.inf)), "values: has values that are NaN or infinite"),
        (broken("text", torch.full((3, 3), torch.nan)), "text: has values that are NaN or infinite"),
        (broken("text", torch.tensor(1.0)), r"text: got shape \(\), takes \[3, D\]"),
        (broken("scores", torch.zeros(3, 4, 4, dtype=torch.int64)), "scores: got torch.int64, takes a floating dtype"),
        (broken("scores", torch.zeros(3, 0, 4)), r"scores: got shape \(3, 0, 4\)"),
    ],
)
def test_a_file_that_is_wrong_is_named(tmp_path, spoil, message):
    save_file(spoil(tensors([0, 0, 1, 2], [[0, 0], [1, 1]])), tmp_path / "image.safetensors")
    with pytest.raises(ValueError, match=f"image.safetensors: {message}"):
        read_image(tmp_path / "image.safetensors", 3)


def test_a_file_that_is_none_is_named(tmp_path):
    (tmp_path / "image.safetensors").write_bytes(b"nothing at all")
    with pytest.raises(ValueError, match=r"image\.safetensors: cannot be read"):
        read_image(tmp_path / "image.safetensors", 3)


def test_a_damaged_image_is_counted(method):
    save_file(tensors([0, 0, 1, 2], [[0, 0], [1, 1]]), method / "one.safetensors")
    (method / "two.safetensors").write_bytes(b"nothing")
    found = measured(method)["zegclip + CDAM"]
    assert {(value.images, value.failed) for value in found.values()} == {(1, 1)}
    assert {value.reason.partition(": c")[0] for value in found.values()} == {"two.safetensors"}


def test_a_link_to_nothing_is_a_damaged_image(method):
    save_file(tensors([0, 0, 1, 2], [[0, 0], [1, 1]]), method / "one.safetensors")
    (method / "two.safetensors").symlink_to("nowhere")
    assert measured(method)["zegclip"]["seen"].failed == 1


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("[", "takes {"),
        ('{"classes": ["a", "b"]}', "takes {"),
        ('{"classes": ["a", "b"], "unseen": []}', "some of them, and not all, unseen"),
        ('{"classes": ["a", "b"], "unseen": ["a", "b"]}', "not all, unseen"),
        ('{"classes": ["a", "a", "b"], "unseen": ["b"]}', "takes different classes"),
        ('{"classes": [["a"], "b"], "unseen": ["b"]}', r"got \[\['a'\], 'b'\]; takes {"),
        ('{"classes": "ab", "unseen": "b"}', "got ab; takes {"),
        ('{"classes": ["a", "b"], "unseen": ["b"]}', "has no NAME.safetensors"),
    ],
)
def test_a_folder_of_a_method_that_is_wrong(method, classes, message):
    (method / "classes.json").write_text(classes)
    with pytest.raises(ValueError, match=message):
        find_methods(method.parent)


def test_a_folder_without_methods(tmp_path):
    with pytest.raises(ValueError, match=r"takes a folder with METHOD/classes.json"):
        find_methods(tmp_path)


def test_a_method_with_the_name_of_another_ones_row(method):
    save_file(tensors([0, 0, 1, 2], [[0, 0], [1, 1]]), method / "one.safetensors")
    shutil.copytree(method, method.with_name("zegclip + CDAM"))
    with pytest.raises(ValueError, match="has the name of a row of zegclip"):
        find_methods(method.parent)
