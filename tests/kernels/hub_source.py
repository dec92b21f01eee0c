"""The source of a kernel of Hugging Face's hub, written once a module."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def command(*arguments):
    script = [sys.executable, str(ROOT / "benchmarks" / "kernel_hub.py"), *map(str, arguments)]
    return subprocess.run(script, capture_output=True, text=True, check=False)


def written(path, unique_id="first"):
    """The source, and the module that kernel-builder adds."""
    done = command(path, "--unique-id", unique_id, "--repo-id", "someone/cdam-attention")
    assert done.returncode == 0, done.stderr
    assert {Path(line) for line in done.stdout.splitlines()} == {file for file in path.rglob("*") if file.is_file()}
    return path
