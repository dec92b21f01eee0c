"""Files that appear whole, and text that any file can hold."""

from __future__ import annotations

import json
import re
import secrets
from pathlib import Path
from typing import Any

from cdam_fast.errors import UsageError


def readable(text: str) -> str:
    """Bytes of a name that are no text as escapes: what is left can be written in any UTF-8 file."""
    named = re.sub("[\udc80-\udcff]", lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", text)
    return named.encode("utf-8", "backslashreplace").decode()


def write_whole(path: Path, content: bytes, option: str = "--out") -> None:
    """Write by rename, so that nobody sees half a file; UsageError names the option."""
    temporary = _temporary(path.parent)
    try:
        with temporary.open("xb") as file:
            file.write(content)
        temporary.replace(path)
    except OSError as error:
        raise UsageError(f"{option}: cannot write {path}: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def check_room(path: Path) -> None:
    """OSError where no file can be made in the path's folder, or none of this name."""
    trial = _temporary(path.parent)
    trial.touch()
    trial.unlink()
    path.is_symlink()  # too long a name is found out here


def _temporary(folder: Path) -> Path:
    """Shorter than any result's name: what has room for that has room for this."""
    return folder / f".cdam-fast-{secrets.token_hex(4)}"


def json_text(content: dict[str, Any]) -> bytes:
    """Names that are no text included."""
    return json.dumps(readable_entries(content), indent=1, ensure_ascii=False).encode() + b"\n"


def readable_entries(value: Any) -> Any:
    """As `readable`, of every text in lists and dicts."""
    if isinstance(value, dict):
        return {key: readable_entries(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [readable_entries(entry) for entry in value]
    return readable(value) if isinstance(value, str) else value
