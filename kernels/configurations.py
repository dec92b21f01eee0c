"""Block sizes, warps and switches of every launch: fixed for a target, so that nothing is tuned at run time."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton

from .attention import attention_kernel, normalise_kernel
from .distributions import distributions_kernel
from .divergence import divergence_kernel
from .plan import BLOCK_ROWS, TILE, Grid, row_layout

TF32_TARGETS = ("sm_80", "sm_90", "sm_100", "sm_103")
"""NVIDIA GPUs whose tensor cores multiply TF32 4 times or more as fast as their other units multiply float32."""

SHIPPED_GRIDS = ((28, 28), (37, 37), (64, 64), (64, 128))
"""Maps whose configurations are checked ahead of time; the last is the largest that is served."""


@lru_cache(maxsize=64)
def target_of(device: torch.device) -> str:
    """``sm_90``, ``gfx942``, or the device's type where there is no better name."""
    if device.type != "cuda":
        return device.type
    if torch.version.hip is not None:
        return str(torch.cuda.get_device_properties(device).gcnArchName).split(":")[0]
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


_TRITON = tuple(map(int, triton.__version__.split(".")[:2]))


def products(target: str) -> str:
    """``"tf32"`` on tensor cores, ``"ieee"`` on the units of float32."""
    if _TRITON == (3, 2) and target in ("sm_86", "sm_89"):
        return "tf32"  # float32 goes through 8 KB of spills there: 153 us for 109 by counts
    if (3, 4) <= _TRITON <= (3, 7) and target in ("sm_100", "sm_103"):
        return "ieee"  # each product gets tensor memory of its own, 592 columns of 512 in all: a kernel that traps
    return "tf32" if target in TF32_TARGETS else "ieee"


def _pairs_of_a_thread(target: str, metric: str) -> tuple[int, int, int]:
    """Rows, columns and warps: others than 4, 8 and 4 where Jensen-Shannon would spill, some 216 bytes.

    Twice the warps cost products in float32 2 % of their instructions and the logarithms no time (sm_120, Triton 3.9).
    """
    if metric == "js" and target in ("sm_86", "sm_89"):
        return 16, 2, 4
    if metric == "js" and target in ("sm_100", "sm_103", "sm_120") and products(target) == "ieee":
        return 4, 4, 8
    return 4, 8, 4


def _fast(target: str) -> bool:
    return target.startswith("sm_")


def distributions(target: str, metric: str) -> dict[str, Any]:
    """Launch options of `distributions_kernel`."""
    return {
        "METRIC": metric,
        "FAST": _fast(target),
        "BLOCK_CLASSES": 16,
        "BLOCK_ROWS": BLOCK_ROWS,
        "PER_THREAD": 2,
        "num_warps": 8,
    }


def divergence(target: str, metric: str) -> dict[str, Any]:
    """Launch options of `divergence_kernel`."""
    tensor_cores = target in TF32_TARGETS and products(target) == "tf32"
    rows, columns, warps = _pairs_of_a_thread(target, metric)
    return {
        "METRIC": metric,
        "FAST": _fast(target),
        # a matrix core of AMD's multiplies float32 itself
        "FEATURES_FIRST": tensor_cores or not target.startswith("sm_"),
        "PRODUCTS": products(target),
        "K_MAJOR": tensor_cores and target in ("sm_90", "sm_100", "sm_103"),
        "BLOCK": TILE,
        "BLOCK_CLASSES": 16,
        "ROWS": rows,
        "COLUMNS": columns,
        "num_warps": warps,
        # H100, one image and eight: 44 and 253 us; with loads that are copied ahead 48 and 277; with 168 registers, for
        # three blocks on a multiprocessor, 45 and 216, but up to 280 bytes are spilled
        **({"num_stages": 1} if target == "sm_90" else {}),
    }


def normalise(target: str, patches: int) -> dict[str, Any]:
    """Launch options of `normalise_kernel`, for N patches at the largest scale."""
    columns = max(16, triton.next_power_of_2(patches))
    return {"FAST": _fast(target), "BLOCK_COLUMNS": columns, "num_warps": min(16, max(1, columns // 512))}


def attention(target: str, full: Grid) -> dict[str, Any]:
    """Launch options of `attention_kernel`, for a map over a grid."""
    layout = row_layout(full)
    return {
        "FAST": _fast(target),
        # interpreted, a program costs the same whatever it holds
        "BLOCK_ROWS": 16 if target == "cpu" else 1,
        "LANES": layout.lanes,
        "PATCH_ROWS": layout.patch_rows,
        "SLOTS": layout.slots,
        "CERTAIN": layout.used - layout.step,
        "USED": layout.used,
        "BLOCK_SCALED": 8,
        "num_warps": max(1, layout.lanes // 32),
        # H100, one image and eight: 16.4 and 75 us, without 18.6 and 91; larger grids would spill
        **({"maxnreg": 128} if target == "sm_90" and layout.lanes == 32 else {}),
    }


class Launch(NamedTuple):
    """One kernel with one configuration, as a compiler takes it."""

    name: str
    kernel: Any
    signature: dict[str, str]
    """Type of each argument, ``constexpr`` included; ``i32:16`` is divisible by 16."""
    constants: dict[str, Any]
    num_warps: int
    num_stages: int = 0
    """0 is Triton's own number."""
    maxnreg: int | None = None
    """Most registers of a thread; None leaves it to the compiler."""


_OF_THE_COMPILER = ("num_warps", "num_stages", "maxnreg")

_TYPES = {
    "scales_ptr": "*i64",
    "blocks_ptr": "*i32",
    "tiles_ptr": "*i32",
    "taps_ptr": "*i64",
    "inverse_temperature": "fp32",
    "rounding": "fp32",
    "padded_classes": "i32:16",
    "rows_total": "i32:16",
}


def _launch(name: str, kernel: Any, options: dict[str, Any], **constants: Any) -> Launch:
    constants |= {key: value for key, value in options.items() if key not in _OF_THE_COMPILER}

    def type_of(argument: str) -> str:
        if argument in constants:
            return "constexpr"
        return _TYPES.get(argument, "*fp32" if argument.endswith("_ptr") else "i32")

    signature = {argument: type_of(argument) for argument in kernel.arg_names}
    chosen = {key: options[key] for key in _OF_THE_COMPILER if key in options}
    return Launch(name, kernel, signature, constants, **chosen)


def shipped(target: str) -> list[Launch]:
    """Every configuration that a target is served with, float32 in and out."""
    launches = []
    for metric in ("js", "kl", "wasserstein"):
        options = distributions(target, metric)
        launches.append(_launch(f"distributions {metric}", distributions_kernel, options, SOFTMAX=True))
    for metric in ("js", "kl", "wasserstein"):
        options = divergence(target, metric)
        constants = {"MIRRORED": metric != "kl", "LARGE": False}
        launches.append(_launch(f"divergence {metric}", divergence_kernel, options, **constants))
    minmax = {"MINMAX_BEFORE": True, "MINMAX_AFTER": True}
    for grid in SHIPPED_GRIDS:
        patches = grid[0] * grid[1]
        options = attention(target, grid)
        constants = {"OFFICIAL": True, "NARROW": False, **minmax}
        launches.append(_launch(f"attention N={patches}", attention_kernel, options, **constants))
        options = normalise(target, patches)
        launches.append(_launch(f"normalise N={patches}", normalise_kernel, options, **minmax))
    stages = 3 if target.startswith("sm_") else 2  # Triton's own numbers, which no launch changes
    return [launch._replace(num_stages=launch.num_stages or stages) for launch in launches]
