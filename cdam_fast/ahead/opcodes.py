"""What the opcodes of NVIDIA (SASS) and AMD (gfx9 assembly) do: class, operations, bytes."""

from __future__ import annotations

import re

CLASSES = (
    "special",  # exp2, log2, reciprocal, square roots, sine
    "fp32",  # add, multiply, fused multiply-add; a packed instruction counts as two
    "fp64",
    "half",  # 16-bit floating point
    "alu",  # integer, logic, compare, select, minimum, maximum
    "integer_multiply",
    "move",
    "conversion",
    "tensor",  # matrix instructions
    "tensor_memory",  # copies to and from Blackwell's tensor memory
    "global_load",
    "global_store",
    "shared_load",
    "shared_store",
    "local_load",  # spilled registers come back
    "local_store",  # registers are spilled
    "constant",
    "shuffle",
    "barrier",
    "uniform",  # scalar unit: once per warp, beside the vector pipes
    "control",
    "other",
)

# Base opcode → class. Longest prefix first where one begins with another.
_SASS_CLASSES = {
    "special": "MUFU",
    "tensor": "HMMA HGMMA IMMA IGMMA QMMA QGMMA OMMA DMMA BGMMA UTCHMMA UTCIMMA UTCQMMA UTCOMMA UTCMXQMMA",
    "tensor_memory": "LDTM STTM UTCCP UTCSHIFT UTCBAR UTCATOMSWS",
    "fp32": "FADD FMUL FFMA FADD32I FMUL32I FFMA32I FADD2 FMUL2 FFMA2",
    "fp64": "DADD DMUL DFMA DSETP DMNMX",
    "half": "HADD2 HMUL2 HFMA2 HSET2 HSETP2 HMNMX2 HADD2_32I HMUL2_32I HFMA2_32I",
    "integer_multiply": "IMAD IMUL IDP",
    "move": "MOV MOV32I S2R CS2R S2UR R2UR P2R R2P",
    "conversion": "F2F F2I I2F F2FP F2IP I2FP I2I I2IP FRND",
    "global_load": "LDG LD LDGSTS UBLKCP UTMALDG TLD TEX",
    "global_store": "STG ST RED REDG ATOM ATOMG UTMASTG UTMAREDG",
    "shared_load": "LDS LDSM",
    "shared_store": "STS STSM ATOMS",
    "local_load": "LDL",
    "local_store": "STL",
    "constant": "LDC ULDC LDCU",
    "shuffle": "SHFL VOTE VOTEU MATCH REDUX",
    "barrier": "BAR DEPBAR LDGDEPBAR MEMBAR SYNCS WARPSYNC WARPGROUP ERRBAR FENCE NANOSLEEP CCTL CCTLL ARRIVES "
    "UCGABAR_ARV UCGABAR_WAIT ACQBULK CREDUX ELECT USETMAXREG",
    "control": "BRA BRX JMP CALL RET EXIT BSSY BSYNC BREAK NOP BMOV YIELD BPT RPCMOV KILL JMX LEPC PREEXIT",
}
_SASS_CLASS = {opcode: name for name, opcodes in _SASS_CLASSES.items() for opcode in opcodes.split()}

_GCN_RULES = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"v_s?mfmac?_", "tensor"),
        (r"v_(exp|log|rcp|rcp_iflag|rsq|sqrt|sin|cos)_f(32|16)", "special"),
        (r"v_pk_(add|mul|fma)_f32", "fp32"),
        (r"v_pk_\w+_(f16|bf16)", "half"),
        (r"v_\w*_f64", "fp64"),
        (r"v_cvt_", "conversion"),
        (r"v_(add|sub|subrev|mul|mul_legacy|fma|fmac|fmaak|fmamk|mac|mad)_f32", "fp32"),
        (r"v_(add|sub|mul|fma|fmac|mad)_f16", "half"),
        (r"v_(mul_lo|mul_hi|mad)_[ui]", "integer_multiply"),
        (r"v_(mov|accvgpr)_|v_pk_mov_|v_(readlane|readfirstlane|writelane|swap)_", "move"),
        (r"v_\w+", "alu"),
        (r"(global|flat|buffer)_load", "global_load"),
        (r"(global|flat|buffer)_(store|atomic)", "global_store"),
        (r"ds_(bpermute|permute|swizzle)", "shuffle"),
        (r"ds_(read|load)", "shared_load"),
        (r"ds_\w+", "shared_store"),
        (r"scratch_load", "local_load"),
        (r"scratch_store", "local_store"),
        (r"s_(load|buffer_load)", "constant"),
        (r"s_(waitcnt|barrier|nop|sleep|setprio|sched)", "barrier"),
        (r"s_(cbranch|branch|endpgm|setpc|swappc|call)", "control"),
        (r"s_\w+", "uniform"),
    )
)


def classify(opcode: str, vendor: str) -> str:
    """Name the class of an opcode, one of CLASSES."""
    if vendor == "amd":
        return next((name for rule, name in _GCN_RULES if rule.match(opcode)), "other")
    base = opcode.split(".")[0]
    if base == "IMAD" and ".MOV" in opcode:
        return "move"
    if (known := _SASS_CLASS.get(base)) is not None:
        return known
    # Every other opcode with a U in front is the scalar twin of a vector one; the rest are integer, compare, select.
    return "uniform" if base.startswith("U") else "alu"


def operations(opcode: str) -> int:
    """Float operations that one thread does in one fp32 instruction, a fused multiply-add being one."""
    return 2 if re.match(r"(FADD2|FMUL2|FFMA2|v_pk_)", opcode) else 1


def tensor_flop(opcode: str) -> float:
    """Floating-point operations of one matrix instruction per warp, 0 where the opcode does not tell.

    Weighted by what the same unit does in TF32 (NVIDIA) or float32 (AMD): 16-bit operands run 2 (8) times as fast.
    """
    if found := re.match(r"v_s?mfmac?_\w+?_(\d+)x(\d+)x(\d+)(?:_(\d+)b)?_(x?\w?f\w+)", opcode):
        m, n, k, blocks = (int(part or 1) for part in found.groups()[:4])
        return 2.0 * m * n * k * blocks / {"f32": 1, "xf32": 4, "f64": 1}.get(found[5], 8)
    if found := re.match(r"HGMMA\.(\d+)x(\d+)x(\d+)", opcode):  # four warps issue it together
        flop = 2.0 * int(found[1]) * int(found[2]) * int(found[3]) / 4
        return flop if "TF32" in opcode else flop / 2
    if found := re.match(r"HMMA\.(16)(8)(4|8|16)\b", opcode):
        flop = 2.0 * int(found[1]) * int(found[2]) * int(found[3])
        return flop if "TF32" in opcode else flop / 2
    return 0.0


def access_bytes(opcode: str) -> int:
    """Bytes per thread of one load or store."""
    if found := re.search(r"\.(64|128|256)\b", opcode):
        return int(found[1]) // 8
    if found := re.search(r"_dwordx(\d)", opcode):
        return 4 * int(found[1])
    if re.search(r"\.[US]8\b|_[su]?byte", opcode):
        return 1
    return 2 if re.search(r"\.[US]16\b|short", opcode) else 4
