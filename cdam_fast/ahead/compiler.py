"""Compile Triton kernels for GPUs that are not there, and read what the compiler made of them.

No step needs a GPU or its driver: ``triton.compile`` gets an explicit target, and ``nvdisasm`` and ``cuobjdump`` come
with Triton's wheel.

Each compilation runs in a forked child that fills Triton's own cache, from which this process then loads the result: a
target that Triton does not know can end in a failed C++ assertion (Triton 3.2: ``tl.dot`` for sm_100), which would take
this process with it.
"""

from __future__ import annotations

import contextlib
import inspect
import multiprocessing
import os
import re
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cdam_fast.ahead.listing import Listing, Loop, find_loops, parse_gcn, parse_sass
from cdam_fast.ahead.opcodes import access_bytes, classify
from cdam_fast.errors import UsageError, missing_package

if TYPE_CHECKING:
    from cdam_fast.kernels.configurations import Launch

TARGETS = ("sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "gfx942")
COMPILE_SECONDS = 600

TENSOR_MEMORY = 512
"""Columns of a multiprocessor's tensor memory, from sm_100 on."""

HARMLESS_SPILL = 64
"""Bytes of a thread that may go to memory: sixteen registers, which some Tritons put aside outside the loops where
others keep them; they stay in the first-level cache. A kernel that does not fit its registers spills hundreds."""

Status = Literal["compiled", "not supported by this Triton", "failed"]

# What Triton and LLVM print about a target that they cannot compile for.
_UNKNOWN_TARGET = re.compile(
    r".*(not a recognized processor|unsupported target|computeCapability not supported|ld\.lld not found).*",
    re.IGNORECASE,
)


class UnsupportedTargetError(RuntimeError):
    """The installed Triton cannot compile for the target."""


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
    running = deque((launch, _Child(launch, target)) for launch in islice(waiting, os.cpu_count() or 1))
    try:
        while running:
            launch, child = running[0]
            child.wait()
            running.popleft()
            running.extend((each, _Child(each, target)) for each in islice(waiting, 1))
            yield _inspect(launch, target, child)
    finally:
        for _, child in running:
            child.stop()


def _inspect(launch: Launch, target: str, child: _Child) -> Compiled:
    try:
        child.result()
        kernel = _compile(launch, target)
        _check_inline_assembly(str(kernel.asm["ttir"]), target)
        _check_tensor_memory(kernel.metadata)
    except UnsupportedTargetError as error:
        return Compiled(launch.name, target, "not supported by this Triton", str(error))
    except Exception as error:
        return Compiled(launch.name, target, "failed", str(error).strip())
    inspect_kernel = _inspect_amd if target.startswith("gfx") else _inspect_nvidia
    return inspect_kernel(launch, target, kernel)


def _gpu_target(target: str) -> Any:
    from triton.backends.compiler import GPUTarget

    if target.startswith("sm_"):
        return GPUTarget("cuda", int(target[3:]), 32)
    return GPUTarget("hip", target, 64)


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


class _Child:
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
        _compile(launch, target)
    except BaseException as error:
        text = f"{type(error).__name__}: {error}"
        # More than a pipe holds would keep this process waiting for a parent that waits for it.
        sender.send(text if len(text) < 16000 else f"{text[:8000]}\n[...]\n{text[-8000:]}")
        os._exit(1)
    os._exit(0)


def _compile(launch: Launch, target: str) -> Any:
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
