"""Maps the import package cdam_fast.kernels onto the top-level folder kernels/; the rest is in pyproject.toml."""

from base64 import urlsafe_b64encode
from hashlib import sha256
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

from setuptools import setup
from setuptools.command.editable_wheel import editable_wheel

ROOT = Path(__file__).resolve().parent


class TypedEditableWheel(editable_wheel):
    """An editable install that type checkers see too.

    With a package_dir such as the one below setuptools leaves an import hook, which no type checker runs; they follow
    a .pth file that names the folder. What stands for kernels/ there is cdam_fast/kernels.pyi.
    """

    def run(self) -> None:
        """Build the wheel and add the .pth file."""
        super().run()
        for wheel in Path(self.dist_dir).glob("cdam_fast-*.editable-*.whl"):
            _add_file(wheel, "__editable__.cdam_fast.types.pth", f"{ROOT}\n".encode())


def _add_file(wheel: Path, name: str, content: bytes) -> None:
    with ZipFile(wheel) as archive:
        files = {info: archive.read(info) for info in archive.infolist()}
    digest = urlsafe_b64encode(sha256(content).digest()).rstrip(b"=").decode()
    with ZipFile(wheel, "w", ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
        for info, data in files.items():
            record = f"{name},sha256={digest},{len(content)}\n".encode() if info.filename.endswith("/RECORD") else b""
            archive.writestr(info, record + data)


setup(
    cmdclass={"editable_wheel": TypedEditableWheel},
    packages=[
        "cdam_fast",
        "cdam_fast.ahead",
        "cdam_fast.commands",
        "cdam_fast.demo",
        "cdam_fast.evaluation",
        "cdam_fast.evaluation.datasets",
        "cdam_fast.evaluation.tables",
        "cdam_fast.kernels",
        "cdam_fast.measuring",
        "cdam_fast.models",
        "cdam_fast.models.towers",
        "cdam_fast.segmentation",
    ],
    package_dir={"cdam_fast": "cdam_fast", "cdam_fast.kernels": "kernels"},
)
