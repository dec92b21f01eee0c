"""The suite on the versions that people have.

``nox -s tests`` is the README's second command in a new environment, ``nox -s matrix`` the suite on versions from the
oldest to the newest, ``nox -s triton`` the interpreted kernels on every Triton. With its CUDA libraries an environment
takes 6 GB, so each is removed before the next is made.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import nox
from nox.command import CommandFailed

nox.options.sessions = ["tests", "lint", "types"]
nox.options.error_on_missing_interpreters = True

QUICK = ("pytest", "-q", "-n", "2", "--dist", "loadfile", "-m", "not slow")
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # for each of the two workers

PINS: dict[str, tuple[str, ...]] = {
    # the versions of the released CDAM code, and the lowest of everything else
    "torch1.13.1": (
        *("torch==1.13.1", "torchvision==0.14.1", "numpy<2", "open_clip_torch==2.24.0"),
        *("pillow==10.0.0", "safetensors==0.4.0", "rich==13.0.0", "transformers==4.30.2"),
    ),
    "torch2.6-triton3.2": ("torch==2.6.0", "numpy==2.0.*", "transformers==4.46.3"),
    "torch2.11-triton3.6": ("torch==2.11.0", "numpy==2.3.*"),
    "torch2.14-triton3.8": ("torch==2.14.1",),
    "newest": ("transformers",),
}

LEGS = (
    ("3.9", "torch1.13.1"),
    ("3.10", "torch2.6-triton3.2"),
    ("3.11", "torch2.11-triton3.6"),
    ("3.11", "torch2.14-triton3.8"),
    ("3.12", "newest"),
    ("3.13", "newest"),
)

LEFT_OUT: dict[tuple[str, str], tuple[str, ...]] = {
    ("3.10", "torch2.6-triton3.2"): ("evaluation", "measuring"),
    ("3.11", "torch2.11-triton3.6"): ("commands", "evaluation", "measuring", "models", "segmentation"),
    ("3.13", "newest"): ("ahead", "evaluation", "kernels", "measuring", "models", "recipes"),
}
"""Folders of tests that a leg leaves to its neighbours: 2.6 and 2.14 hold what is between them, and 3.12 has 3.13's
torch and Triton. What a leg is there for stays: the kernels on its Triton, the command line on its Python."""

TRITONS = ("3.2.0", "3.3.1", "3.4.0", "3.5.1", "3.6.0", "3.7.1", "3.8.0", "newest")
"""The last of each minor release."""

OF_TRITON = ("torch==2.11.0", "numpy==2.3.*")
"""One torch, which imports Triton only to compile; the interpreters up to Triton 3.6 break with numpy 2.4."""


@contextlib.contextmanager
def _removed_afterwards(session: nox.Session) -> Iterator[None]:
    try:
        yield
    finally:
        shutil.rmtree(Path(session.virtualenv.location), ignore_errors=True)


def _install(session: nox.Session, *packages: str, newest: bool = False) -> None:
    """Where the newest is wanted, with the configuration of pip that NEWEST_PIP_CONFIG_FILE names, if it is set."""
    uncapped = os.environ.get("NEWEST_PIP_CONFIG_FILE") if newest else None
    # byte code of the few modules that a leg imports comes by itself
    session.install("--no-compile", *packages, env={"PIP_CONFIG_FILE": uncapped} if uncapped else {})


def _print_versions(session: nox.Session) -> None:
    names = ("torch", "triton", "numpy", "open_clip_torch", "transformers", "pillow")
    code = (
        "import sys; from importlib.metadata import distributions; "
        "found = {one.metadata['Name'].lower().replace('-', '_'): one.version for one in distributions()}; "
        f"print('python', sys.version.split()[0], *(name + ' ' + found.get(name, 'none') for name in {names}))"
    )
    session.run("python", "-c", code)


@nox.session
def tests(session: nox.Session) -> None:
    """The README's second command."""
    with _removed_afterwards(session):
        session.install("-e", ".[dev]")
        _print_versions(session)
        session.run("pytest", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: its rules, and its format."""
    session.install("ruff>=0.9")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Mypy, strict."""
    with _removed_afterwards(session):
        session.install("-e", ".[dev]")
        session.run("mypy")


@nox.session
def demo(session: nox.Session) -> None:
    """The page in a headless browser: Debian's chromium, or the one that playwright has."""
    with _removed_afterwards(session):
        session.install("-e", ".[dev,demo-test]")
        session.run("pytest", *(session.posargs or ("-q", "tests/demo")))


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation as a site; a warning is an error."""
    with _removed_afterwards(session):
        session.install("-e", ".[docs]")
        session.run("mkdocs", "build", "--strict", "--site-dir", session.create_tmp(), *session.posargs)


@nox.session
@nox.parametrize(("python", "pins"), LEGS, ids=[f"{python}-{pins}" for python, pins in LEGS])
def matrix(session: nox.Session, pins: str) -> None:
    """The suite less what is marked slow, on one combination of versions."""
    with _removed_afterwards(session):
        _install(session, "-e", ".[dev]", *PINS[pins], newest=pins == "newest")
        _print_versions(session)
        left_out = LEFT_OUT.get((str(session.python), pins), ())
        session.run(*QUICK, *(f"--ignore=tests/{folder}" for folder in left_out), *session.posargs, env=ONE_THREAD)


@nox.session(python="3.11")
def triton(session: nox.Session) -> None:
    """The kernels, interpreted, on every Triton."""
    failed = []
    with _removed_afterwards(session):
        session.install("-e", ".[dev]", *OF_TRITON)
        for version in TRITONS:
            newest = version == "newest"
            _install(session, "--no-deps", "--upgrade", "triton" if newest else f"triton=={version}", newest=newest)
            _print_versions(session)
            try:
                session.run(*QUICK, *(session.posargs or ("tests/kernels/test_triton.py",)), env=ONE_THREAD)
            except CommandFailed:
                failed.append(version)
    if failed:
        session.error(f"failed with Triton {', '.join(failed)}")
