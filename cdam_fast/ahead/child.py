"""One compilation for a GPU that is not there, in a process of its own.

It runs in a forked child that fills Triton's own cache, from which this process then loads the result: a
target that Triton does not know can end in a failed C++ assertion (Triton 3.2: ``tl.dot`` for sm_100), which would take
this process with it.
"""

from __future__ import annotations

import contextlib
import inspect
import multiprocessing
import os
import re
import tempfile
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cdam_fast.kernels.configurations import Launch

COMPILE_SECONDS = 600


# What Triton and LLVM print about a target that they cannot compile for.
_UNKNOWN_TARGET = re.compile(
    r".*(not a recognized processor|unsupported target|computeCapability not supported|ld\.lld not found).*",
    re.IGNORECASE,
)


class UnsupportedTargetError(RuntimeError):
    """The installed Triton cannot compile for the target."""


def _gpu_target(target: str) -> Any:
    from triton.backends.compiler import GPUTarget

    if target.startswith("sm_"):
        return GPUTarget("cuda", int(target[3:]), 32)
    return GPUTarget("hip", target, 64)


class Child:
    """A forked process that compiles into Triton's cache."""

    def __init__(self, launch: Launch, target: str) -> None:
        context = multiprocessing.get_context("fork")
        self._receiver, sender = context.Pipe(duplex=False)
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self._process = context.Process(target=_compile_and_report, args=(launch, target, sender, self._log.fileno()))
        self._process.start()
        sender.close()

    def wait(self) -> None:
        """Until it ends, or has had its time."""
        self._process.join(COMPILE_SECONDS)

    def result(self) -> None:
        """Raise what it raised, or that it died; nothing where it compiled."""
        process = self._process
        if process.is_alive():
            self.stop()
            raise TimeoutError(f"no result after {COMPILE_SECONDS} s")
        self._log.seek(0)
        printed = self._log.read().strip()
        self._log.close()
        if process.exitcode == 0:
            return
        raised = ""  # stays empty where the compiler took the process down
        with contextlib.suppress(EOFError):
            raised = self._receiver.recv()
        if unknown := _UNKNOWN_TARGET.search(f"{printed}\n{raised}"):
            raise UnsupportedTargetError(unknown[0].strip())
        # What was printed can be the whole assembly, so only its end is kept.
        raise RuntimeError(raised or f"the compiler died (exit status {process.exitcode}): {printed[-2000:]}")

    def stop(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.join()
        self._log.close()


def _compile_and_report(launch: Launch, target: str, sender: Connection, log: int) -> None:
    os.dup2(log, 1)  # Triton prints whole listings when ptxas fails
    os.dup2(log, 2)
    try:
        compile_launch(launch, target)
    except BaseException as error:
        text = f"{type(error).__name__}: {error}"
        # More than a pipe holds would keep this process waiting for a parent that waits for it.
        sender.send(text if len(text) < 16000 else f"{text[:8000]}\n[...]\n{text[-8000:]}")
        os._exit(1)
    os._exit(0)


def compile_launch(launch: Launch, target: str) -> Any:
    """``triton.compile`` with the argument properties that the JIT would find on torch tensors."""
    import triton

    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages, "enable_fp_fusion": True}
    if launch.maxnreg is not None:
        options["maxnreg"] = launch.maxnreg
    return triton.compile(_source(launch, target), target=_gpu_target(target), options=options)


def _source(launch: Launch, target: str) -> Any:
    """The kernel with its types; pointers count as multiples of 16, as torch allocates them, integers where marked."""
    from triton.compiler import ASTSource

    kinds = {name: launch.signature[name].removesuffix(":16") for name in launch.kernel.arg_names}
    pointers = [i for i, kind in enumerate(kinds.values()) if kind.startswith("*")]
    aligned = [i for i, name in enumerate(kinds) if i in pointers or launch.signature[name].endswith(":16")]
    hip = target.startswith("gfx")

    if "constants" in inspect.signature(ASTSource.__init__).parameters:  # before Triton 3.3
        from triton.backends.compiler import AttrsDescriptor

        properties = {"tt.divisibility": aligned, "tt.equal_to": []}
        if hip:
            properties["tt.pointer_range"] = pointers
        attributes = AttrsDescriptor.from_dict(
            {"cls": "HIPAttrsDescriptor" if hip else "AttrsDescriptor", "arg_properties": properties}
        )
        kinds = {name: kind for name, kind in kinds.items() if kind != "constexpr"}
        return ASTSource(launch.kernel, kinds, launch.constants, attributes)

    marks: dict[tuple[int], list[list[Any]]] = {(i,): [["tt.divisibility", 16]] for i in aligned}
    if hip:  # tensors below 2 GB, which lets the backend use buffer instructions
        for i in pointers:
            marks[(i,)].append(["tt.pointer_range", 32])
    return ASTSource(launch.kernel, kinds, launch.constants, marks)
