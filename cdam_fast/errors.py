"""What a person at the command line can mend."""

from __future__ import annotations

_INSTALL = {
    "gradio": 'pip install "cdam_fast[demo]"',
    "matplotlib": 'pip install "cdam_fast[plot]"',
    "torchmetrics": 'pip install "cdam_fast[evaluation]"',
    "skimage": 'pip install "cdam_fast[evaluation]"',
    "SimpleITK": 'pip install "cdam_fast[evaluation]"',
    "open_clip": "pip install open_clip_torch",
    "PIL": "pip install pillow",
}
"""How to get a package, where it is not by its own name."""


class UsageError(Exception):
    """A bad option or input; the command line prints its one line and exits with 2."""


def reason_of(error: BaseException) -> str:
    """One line about any exception: the message of a foreseen kind, the name of another's class before it."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    if isinstance(error, MemoryError):
        return "not enough memory" + (f": {lines[0]}" if lines else "")
    if not lines:
        return type(error).__name__
    foreseen = isinstance(
        error, (ValueError, OSError, RuntimeError, TypeError, SyntaxError, AssertionError, UsageError)
    )
    return lines[0] if foreseen else f"{type(error).__name__}: {lines[0]}"


def missing_package(error: ImportError) -> str:
    """Which package is not installed here, or cannot be imported, and how to get it."""
    package = (error.name or "").split(".")[0]
    if not package or not isinstance(error, ModuleNotFoundError):
        return f"cannot import {error.name or 'a package'}: {reason_of(error)}"
    return f"{package} is not installed; {_INSTALL.get(package, f'pip install {package}')}"


def require_matplotlib(what: str) -> None:
    """Raise before any work where there is none."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise UsageError(f"{what}: {missing_package(error)}") from None
