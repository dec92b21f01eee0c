"""Peak rates of the GPUs that the kernels are written for, and the least time that some work takes on them.

A floor, not a forecast: it assumes that every pipe runs at its peak, beside all others, at the boost clock.

Rates per clock and multiprocessor: CUDA C++ Programming Guide, "Throughput of Native Arithmetic Instructions" (float32
and float64 add/multiply/fused multiply-add; reciprocal, rsqrt, log2, exp2, sine; compare/minimum/maximum and 32-bit
logic for ``alu``). Four schedulers issue one warp instruction each per clock on every NVIDIA target here. Shared memory
per block: the same guide, "Technical Specifications per Compute Capability"; CUTLASS ``include/cutlass/arch/arch.h``
holds the same numbers for sm_90, sm_100 and sm_120.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import NamedTuple

from cdam_fast.ahead.listing import Loop


@dataclass(frozen=True)
class GPU:
    """Peak rates of one product; "per clock" is per multiprocessor (AMD: compute unit), in thread-operations."""

    name: str
    target: str
    multiprocessors: int
    clock: float  # boost, Hz
    fp32: int  # fused multiply-adds per clock
    fp64: int
    special: int  # exp2, log2, ... per clock
    alu: int  # integer, logic, compare per clock
    issue: int  # instructions per clock
    tensor: float  # dense TF32 (NVIDIA) or float32-matrix (AMD) operations per second
    bandwidth: float  # of the memory, bytes per second
    cache: int  # last level, MB; what fits need not cross the memory bus
    shared_limit: int  # bytes that one block may ask for
    warp: int = 32


GPUS = (
    # NVIDIA A100 datasheet and GA100 whitepaper: 108 SMs, 1410 MHz, TF32 156 TFLOPS, 80 GB SXM 2039 GB/s, 40 MB L2.
    # Guide, 8.0: 64 float32 lanes.
    GPU("A100", "sm_80", 108, 1.410e9, 64, 32, 16, 64, 128, 156e12, 2.039e12, 40, 163 * 1024),
    # GA102 whitepaper: 82 SMs, 1695 MHz, TF32 35.6 TFLOPS dense (as fast as its float32 lanes), 936 GB/s, 6 MB L2.
    # Guide, 8.6: 128 lanes.
    GPU("RTX 3090", "sm_86", 82, 1.695e9, 128, 2, 16, 64, 128, 35.6e12, 936e9, 6, 99 * 1024),
    # A10 datasheet: TF32 62.5 TFLOPS, float32 31.2 TFLOPS, 600 GB/s; 72 SMs at 1695 MHz give that float32 figure.
    GPU("A10", "sm_86", 72, 1.695e9, 128, 2, 16, 64, 128, 62.5e12, 600e9, 6, 99 * 1024),
    # H100/H200 SXM datasheets: TF32 989 TFLOPS with sparsity, so 494.7; 3.35 and 4.8 TB/s; 50 MB L2. 132 SMs, 1980 MHz
    # (float32 67 TFLOPS).
    GPU("H200", "sm_90", 132, 1.980e9, 128, 64, 16, 64, 128, 494.7e12, 4.8e12, 50, 227 * 1024),
    GPU("H100", "sm_90", 132, 1.980e9, 128, 64, 16, 64, 128, 494.7e12, 3.35e12, 50, 227 * 1024),
    # HGX B200 datasheet, per GPU: TF32 1.1 PFLOPS dense, 8 TB/s. 148 SMs, 1980 MHz, 126 MB L2: third-party tables
    # (hmc-tech.com), NVIDIA prints none of them.
    GPU("B200", "sm_100", 148, 1.980e9, 128, 64, 16, 64, 128, 1.1e15, 8.0e12, 126, 227 * 1024),
    # RTX Blackwell whitepaper: 170 SMs, 2407 MHz, float32 104.8 and TF32 104.8 TFLOPS dense, 1792 GB/s, 96 MB L2; its
    # integer lanes are the float32 ones.
    GPU("RTX 5090", "sm_120", 170, 2.407e9, 128, 2, 16, 128, 128, 104.8e12, 1.792e12, 96, 99 * 1024),
    # MI300X datasheet: 304 CUs, 2100 MHz, float32 vector and matrix 163.4 TFLOPS each, 5.3 TB/s, 256 MB Infinity Cache;
    # LDS 64 KB per workgroup. That vector figure is 256 operations per CU and clock, two per lane (v_pk_fma_f32): 64
    # lanes issue; float64 81.7 TFLOPS. Transcendentals run at a quarter of 64 (LLVM, SISchedule.td).
    GPU("MI300X", "gfx942", 304, 2.100e9, 128, 64, 16, 64, 64, 163.4e12, 5.3e12, 256, 64 * 1024, 64),
)


def gpus_of(target: str) -> tuple[GPU, ...]:
    """The products of one compile target."""
    return tuple(gpu for gpu in GPUS if gpu.target == target)


@dataclass(frozen=True)
class Work:
    """What a launch executes in total, over all its threads."""

    special: float = 0.0
    fp32: float = 0.0
    fp64: float = 0.0
    alu: float = 0.0
    issued: float = 0.0
    tensor_flop: float = 0.0
    streamed: float = 0.0  # bytes that have to cross the memory bus
    passed_on: float = 0.0  # bytes between two launches, which stay in the cache where they fit

    def __add__(self, other: Work) -> Work:
        """Both, one after the other or side by side."""
        theirs = asdict(other)
        return Work(**{name: value + theirs[name] for name, value in asdict(self).items()})


class Floor(NamedTuple):
    """The least time of some work, and the pipe that sets it."""

    seconds: float
    limit: str


def loop_work(loop: Loop, warp_iterations: float, warp: int) -> Work:
    """Total work of a loop that all warps of a launch together run ``warp_iterations`` times."""
    threads = warp_iterations * warp
    counts = loop.counts
    return Work(
        special=counts.get("special", 0) * threads,
        fp32=counts.get("fp32", 0) * threads,
        fp64=counts.get("fp64", 0) * threads,
        alu=counts.get("alu", 0) * threads,
        issued=loop.issued * threads,
        tensor_flop=loop.tensor_flop * warp_iterations,
    )


def floor_time(gpu: GPU, work: Work) -> Floor:
    """Largest over the pipes of work divided by peak rate."""
    clocks = gpu.multiprocessors * gpu.clock
    times = {
        "special": work.special / (gpu.special * clocks),
        "fp32": work.fp32 / (gpu.fp32 * clocks),
        "fp64": work.fp64 / (gpu.fp64 * clocks),
        "alu": work.alu / (gpu.alu * clocks),
        "issue": work.issued / (gpu.issue * clocks),
        "tensor": work.tensor_flop / gpu.tensor,
        "memory": (work.streamed + max(0.0, work.passed_on - gpu.cache * 1e6)) / gpu.bandwidth,
    }
    limit = max(times, key=lambda pipe: times[pipe])
    return Floor(times[limit], limit)
