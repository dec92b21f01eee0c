"""What is installed: the wheel's files, what type checkers see, and README's pictures."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

USER = """\
import torch
import cdam_fast
import cdam_fast.kernels
from cdam_fast import cdam_attention
from cdam_fast.segmentation import CDAMSegmenter

attention: torch.Tensor = cdam_attention(torch.rand(3, 4, 4))
cdam_fast.with_cls_token("no tensor")
"""


@pytest.mark.slow
def test_type_checkers_of_a_user_see_the_package(tmp_path):
    (tmp_path / "user.py").write_text(USER)
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}
    command = [sys.executable, "-m", "mypy", "--strict", "user.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert re.findall(r"error: .*", done.stdout) == [
        'error: Argument 1 to "with_cls_token" has incompatible type "str"; expected "Tensor"  [arg-type]'
    ], done.stdout + done.stderr


def test_wheel_and_source_distribution_hold_everything(tmp_path):
    source = tmp_path / "source"  # a build leaves files beside the sources
    for folder in ("cdam_fast", "kernels"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [
        sys.executable,
        "-m",
        "build",
        "--sdist",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    tracked = [path.relative_to(ROOT) for path in (ROOT / "cdam_fast").rglob("*") if path.suffix != ".pyc"]
    expected = {path.as_posix() for path in tracked if (ROOT / path).is_file() and path.suffix != ".pyi"}
    expected |= {f"cdam_fast/kernels/{path.name}" for path in (ROOT / "kernels").glob("*.py")}
    packaged = {name for name in names if ".dist-info/" not in name}
    assert packaged == expected
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        sources = {name.partition("/")[2] for name in archive.getnames()}
    assert expected <= sources | {f"cdam_fast/{name}" for name in sources}  # kernels/ is beside the package there
    assert {Path(name).name for name in names if "/licenses/" in name} == {"LICENSE", "SOURCES.md"}


def test_a_bare_install_needs_neither_triton_nor_a_plotter():
    required = importlib.metadata.requires("cdam_fast")
    bare = {re.match(r"[\w-]+", line)[0].lower() for line in required if "extra ==" not in line}
    assert bare == {"torch", "numpy", "open_clip_torch", "safetensors", "pillow", "rich"}


def test_readmes_pictures_are_there():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    pictures = re.findall(r"!\[[^\]]*\]\(([^)\s]+)", text)
    assert pictures
    for picture in pictures:
        assert (ROOT / picture).is_file(), picture
