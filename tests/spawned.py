"""Several Python processes of one run, as torchrun starts them, without torchrun."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LONGEST = 300
"""Seconds after which a test fails instead of hanging."""

SLOWLY = """
import sys, time
from cdam_fast.cli import main
from cdam_fast.evaluation.kept import Kept

add = Kept.add

def add_slowly(kept, *row):
    add(kept, *row)
    time.sleep(0.3)

Kept.add = add_slowly
sys.exit(main(["evaluate", *sys.argv[1:]]))
"""
"""``cdam-fast evaluate`` that is still at work when a signal comes late, on a machine with much else to do."""


def free_port():
    with socket.socket() as trial:
        trial.bind(("localhost", 0))
        return trial.getsockname()[1]


def environment(**variables):
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""} | variables


def start(count, *arguments):
    """``python *arguments`` as each of so many."""
    port = str(free_port())
    return [
        subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            env=environment(RANK=str(rank), WORLD_SIZE=str(count), MASTER_ADDR="localhost", MASTER_PORT=port),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def finish(processes):
    """``(exit status, standard output, standard error)`` of each; none is left behind."""
    try:
        ends = [process.communicate(timeout=LONGEST) for process in processes]
        return [(process.returncode, *said) for process, said in zip(processes, ends)]
    finally:
        for process in processes:
            process.kill()
