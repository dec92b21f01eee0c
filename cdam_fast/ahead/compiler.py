"""Compile Triton kernels for GPUs that are not there, and read what the compiler made of them.

No step needs a GPU or its driver: ``triton.compile`` gets an explicit target, and ``nvdisasm`` and ``cuobjdump`` come
with Triton's wheel.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cdam_fast.ahead.child import Child, UnsupportedTargetError, compile_launch
from cdam_fast.ahead.listing import Listing, Loop, find_loops, parse_gcn, parse_sass
from cdam_fast.ahead.opcodes import access_bytes, classify
from cdam_fast.errors import UsageError, missing_package

if TYPE_CHECKING:
    from cdam_fast.kernels.configurations import Launch

TARGETS = ("sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "gfx942")

TENSOR_MEMORY = 512
"""Columns of a multiprocessor's tensor memory, from sm_100 on."""

HARMLESS_SPILL = 64
"""Bytes of a thread that may go to memory: sixteen registers, which some Tritons put aside outside the loops where
others keep them; they stay in the first-level cache. A kernel that does not fit its registers spills hundreds."""

Status = Literal["compiled", "not supported by this Triton", "failed"]


@dataclass(frozen=True)
class Compiled:
    """What the compiler made of one launch on one target; sizes in bytes, stack and spills per thread."""

    name: str
    target: str
    status: Status
    message: str = ""
    num_warps: int = 0
    constants: dict[str, Any] | None = None
    registers: int = 0
    accumulator_registers: int = 0  # AMD only
    stack_bytes: int = 0
    spill_store_bytes: int = 0
    spill_load_bytes: int = 0
    shared_bytes: int = 0
    instructions: int = 0
    loops: tuple[Loop, ...] = ()

    @property
    def spills(self) -> bool:
        """Whether registers go to memory."""
        return self.spilled_bytes > 0

    @property
    def spilled_bytes(self) -> int:
        """Bytes of a thread that go to memory: what it reserves, or all that it stores or loads there, if more."""
        return max(self.stack_bytes, self.spill_store_bytes, self.spill_load_bytes)


def parse_targets(text: str) -> tuple[str, ...]:
    """``sm_90,gfx942`` as a tuple, each target once."""
    targets = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for target in targets:
        if target not in TARGETS:
            raise UsageError(f"--target: got {target!r}, takes {', '.join(TARGETS)}, separated by commas")
    return targets


def compile_shipped(targets: Sequence[str], tell: Callable[[str], None]) -> list[Compiled]:
    """Every shipped configuration for every target; one line to ``tell`` before each target."""
    _check_process()
    from cdam_fast.kernels.configurations import shipped

    results: list[Compiled] = []
    with _own_cache():
        for target in targets:
            launches = shipped(target)
            tell(f"{target}: {len(launches)} configurations")
            results += compile_launches(launches, target)
    return results


@contextlib.contextmanager
def _own_cache() -> Iterator[None]:
    """Triton's cache in a new folder, with line information.

    A kernel that was compiled from elsewhere (another checkout, a removed environment) would be taken from the user's
    cache with the names of files that are not these, and its loops could not be told apart.
    """
    with tempfile.TemporaryDirectory(prefix="cdam_fast_triton_") as folder:
        variables = {"TRITON_CACHE_DIR": folder, "TRITON_DISABLE_LINE_INFO": "0"}
        shared = ("TRITON_CACHE_MANAGER", "TRITON_REMOTE_CACHE_BACKEND")
        before = {name: os.environ.pop(name, None) for name in (*variables, *shared)}
        os.environ.update(variables)
        try:
            yield
        finally:
            for name in variables:
                del os.environ[name]
            os.environ.update({name: value for name, value in before.items() if value is not None})


def _check_process() -> None:
    """Raise where nothing can be compiled: without Triton, or with its interpreter in the compiler's place."""
    try:
        import triton
    except ImportError as error:
        raise UsageError(missing_package(error)) from None
    from cdam_fast.kernels import attention

    if not isinstance(attention.attention_kernel, triton.runtime.JITFunction):
        raise UsageError("TRITON_INTERPRET: got a process that interprets kernels, takes one with the variable unset")


def compile_launches(launches: Sequence[Launch], target: str) -> Iterator[Compiled]:
    """Compile for one target ("sm_90", "gfx942") and inspect the results; compiler errors become a status.

    As many at a time as there are processors.
    """
    try:
        _check_target(target)
    except UnsupportedTargetError as error:
        yield from (Compiled(launch.name, target, "not supported by this Triton", str(error)) for launch in launches)
        return
    waiting = iter(launches)
    running = deque((launch, Child(launch, target)) for launch in islice(waiting, os.cpu_count() or 1))
    try:
        while running:
            launch, child = running[0]
            child.wait()
            running.popleft()
            running.extend((each, Child(each, target)) for each in islice(waiting, 1))
            yield _inspect(launch, target, child)
    finally:
        for _, child in running:
            child.stop()


def _inspect(launch: Launch, target: str, child: Child) -> Compiled:
    try:
        child.result()
        kernel = compile_launch(launch, target)
        _check_inline_assembly(str(kernel.asm["ttir"]), target)
        _check_tensor_memory(kernel.metadata)
    except UnsupportedTargetError as error:
        return Compiled(launch.name, target, "not supported by this Triton", str(error))
    except Exception as error:
        return Compiled(launch.name, target, "failed", str(error).strip())
    inspect_kernel = _inspect_amd if target.startswith("gfx") else _inspect_nvidia
    return inspect_kernel(launch, target, kernel)


def _check_target(target: str) -> None:
    """Raise where the installed Triton says by itself that it has no compiler for the target."""
    from triton.backends import backends

    name = "amd" if target.startswith("gfx") else "nvidia"
    if name not in backends:
        raise UnsupportedTargetError(f"Triton is installed without its {name} backend")
    if name == "nvidia" and target not in _ptxas_targets():
        raise UnsupportedTargetError(f"ptxas of the installed Triton does not know {target}")


@lru_cache(maxsize=1)
def _ptxas_targets() -> frozenset[str]:
    """Every architecture that one of the assemblers in Triton's wheel names in its help text."""
    import triton.backends.nvidia

    folder = Path(str(triton.backends.nvidia.__file__)).parent / "bin"
    tools = {*map(str, folder.glob("ptxas*")), _nvidia_tool("ptxas")}
    texts = (_output(tool, "--help") for tool in sorted(tools))
    return frozenset(found for text in texts for found in re.findall(r"'(sm_\d+)", text))


def _nvidia_tool(name: str) -> str:
    """Path of a CUDA tool as Triton finds it, its TRITON_<TOOL>_PATH variables included."""
    try:
        from triton import knobs
    except ImportError:  # before Triton 3.4
        from triton.backends.nvidia.compiler import _path_to_binary

        return str(_path_to_binary(name)[0])
    return str(getattr(knobs.nvidia, name).path)


def _check_inline_assembly(ttir: str, target: str) -> None:
    """Refuse PTX on AMD: LLVM prints an error, drops the instruction, and Triton goes on."""
    found = re.search(r'elementwise_inline_asm "([^"]*)"[^}]*constraints = "[^"]*[fhl]\b', ttir)
    if target.startswith("gfx") and found:
        raise RuntimeError(f"inline PTX in a kernel for {target}: {found[1]}")


def _check_tensor_memory(metadata: Any) -> None:
    """Refuse a kernel that is nothing but a trap: Triton compiles it so, and refuses it at its first launch."""
    columns = getattr(metadata, "tmem_size", None) or 0
    if columns > TENSOR_MEMORY:
        raise RuntimeError(f"takes {columns} columns of tensor memory, there are {TENSOR_MEMORY}")


def _inspect_nvidia(launch: Launch, target: str, kernel: Any) -> Compiled:
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(kernel.asm["cubin"])
        usage = _output(_nvidia_tool("cuobjdump"), "-res-usage", str(cubin))
        listing = parse_sass(_output(_nvidia_tool("nvdisasm"), "-c", "-gi", str(cubin)))
    sizes = {name: int(size) for name, size in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage)}
    return _compiled(launch, target, kernel, listing, sizes["REG"], 0, sizes["STACK"] + sizes["LOCAL"])


def _inspect_amd(launch: Launch, target: str, kernel: Any) -> Compiled:
    text = str(kernel.asm["amdgcn"])
    notes = {name: int(value) for name, value in re.findall(r"\.(\w+_(?:count|size)):\s+(\d+)", text)}
    # A spilled scalar register goes to a lane of a vector register, not to memory.
    stack = notes["private_segment_fixed_size"]
    return _compiled(launch, target, kernel, parse_gcn(text), notes["vgpr_count"], notes.get("agpr_count", 0), stack)


def _compiled(
    launch: Launch, target: str, kernel: Any, listing: Listing, registers: int, accumulators: int, stack: int
) -> Compiled:
    rows = [(classify(row.opcode, listing.vendor), row.opcode) for row in listing.instructions]
    return Compiled(
        launch.name,
        target,
        "compiled",
        num_warps=int(kernel.metadata.num_warps),
        constants=dict(launch.constants),
        registers=registers,
        accumulator_registers=accumulators,
        stack_bytes=stack,
        spill_store_bytes=sum(access_bytes(opcode) for name, opcode in rows if name == "local_store"),
        spill_load_bytes=sum(access_bytes(opcode) for name, opcode in rows if name == "local_load"),
        shared_bytes=int(kernel.metadata.shared),
        instructions=len(rows),
        loops=tuple(loop for loop in find_loops(listing) if not loop.waiting),
    )


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
