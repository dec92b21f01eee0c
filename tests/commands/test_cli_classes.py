"""``--classes``: files and words."""

import pytest

from cdam_fast.commands.classes import parse_classes
from cdam_fast.errors import UsageError
from cdam_fast.segmentation.class_files import read_class_file
from cdam_fast.segmentation.words import check_class_names


def test_classes_from_a_file(tmp_path):
    path = tmp_path / "cls.txt"
    path.write_bytes("\ufeffsky, wall , tree\r\nperson;body\n\n  \ncat|kitten,\npotted plant".encode())
    expected = [["sky", "wall", "tree"], ["person", "body"], ["cat", "kitten"], "potted plant"]
    assert read_class_file(path) == parse_classes(str(path)) == expected
    assert check_class_names(path) == check_class_names(expected)
    path.write_bytes("Hund\r\nKätzchen\r\n".encode("utf-16"))
    assert read_class_file(path) == ["Hund", "Kätzchen"]
    assert parse_classes(f"background,{path}") == ["background", "Hund", "Kätzchen"]


def test_a_file_wins_over_a_word_and_what_looks_like_one_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_classes("cat") == ["cat"]
    (tmp_path / "cat").write_text("lion\ntiger\n")
    (tmp_path / "voc21").write_text("only this")
    (tmp_path / "dog").mkdir()
    assert parse_classes("cat") == ["lion", "tiger"]
    assert parse_classes("voc21") == ["only this"]
    assert parse_classes("cat,dog") == ["cat", "dog"]
    assert parse_classes("dog") == ["dog"]
    for text in ("classes.txt", "lists/cat", "cat,classes.TXT", "./cat2", "/nowhere/cls_voc21.txt"):
        with pytest.raises(UsageError, match=r"--classes: .* is not there"):
            parse_classes(text)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "has no class"),
        (b"\n\n", "has no class"),
        (b"cat\n,;|\n", "line 2"),
        (b"cat\xe9", "is no text in UTF-8"),
        (b"c\0at", "takes words of one line without control characters"),
        (b"c\x1bat", "takes words of one line without control characters"),
        (b"x" * 201, "got a word of 201 characters"),
        (b"\n".join(b"c%d" % i for i in range(257)), "got 257 classes"),
        (b"a" * (1 << 21), "takes a list of classes"),
        (bytes.fromhex("89504e470d0a1a0a"), "is no text in UTF-8"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_files_that_are_no_list(tmp_path, content, named):
    path = tmp_path / "cls.txt"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=f"--classes: .*{named}"):
        parse_classes(str(path))
