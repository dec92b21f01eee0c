"""Disassemblies read: loops, opcodes, sizes."""

import pytest

pytest.importorskip("triton", minversion="3.2")

from cdam_fast.ahead.listing import find_loops, parse_gcn, parse_sass
from cdam_fast.ahead.opcodes import access_bytes, classify, operations, tensor_flop

SASS = """
.text.k:
\t//## File "/nowhere.py", line 5
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/              @!P0 BRA `(.L_x_2) ;
.L_x_0:
        /*0020*/                   MOV R2, RZ ;
.L_x_1:
        /*0030*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0040*/              @P1  FFMA R5, R4, R4, R5 ;
        /*0050*/                   FFMA2 R6, R4, R4, R5 ;
        /*0060*/                   BRA.U !UP0, `(.L_x_1) ;
        /*0070*/               @P0 BRA `(.L_x_0) ;
.L_x_2:
        /*0080*/                   EXIT ;
.L_x_3:
        /*0090*/                   BRA `(.L_x_3);
.L_x_4:
"""

FAR_JUMPS = """
.L_x_0:
        /*0000*/                   MOV R2, RZ ;
.L_x_1:
        /*0010*/                   MUFU.LG2 R4, R2 ;
        /*0020*/                   CALL.REL.NOINC `($kernel$__internal_0_$__divide) ;
        /*0030*/              @!P1 CALL.REL.NOINC `(.L_x_2) ;
        /*0040*/                   BRA `(.L_x_1) ;
.L_x_2:
        /*0050*/               @P0 CALL.REL.NOINC `(.L_x_3) ;
        /*0060*/                   BRA `(.L_x_0) ;
.L_x_3:
        /*0070*/                   EXIT ;
"""

GCN = """
k:
\ts_load_dwordx2 s[2:3], s[0:1], 0x0
.LBB0_1:                                ; loop
\tglobal_load_dwordx4 v[0:3], v4, s[2:3]
\tv_pk_fma_f32 v[0:1], v[2:3], v[2:3], v[0:1]
\tv_log_f32_e32 v1, v1
\ts_cbranch_scc1 .LBB0_1
\ts_endpgm
.Lfunc_end0:
"""


def test_nested_loops_of_a_listing():
    outer, inner = find_loops(parse_sass(SASS))
    assert (outer.depth, outer.instructions) == (1, 2)
    assert (inner.depth, inner.instructions) == (2, 4)
    assert inner.counts == {"fp32": 3, "global_load": 1, "control": 1}


def test_calls_of_labels_are_jumps_and_others_return():
    outer, inner = find_loops(parse_sass(FAR_JUMPS))
    assert (outer.depth, outer.instructions) == (1, 3)
    assert (inner.depth, inner.instructions) == (2, 4)


def test_loop_of_an_amd_listing():
    (loop,) = find_loops(parse_gcn(GCN))
    assert loop.counts == {"special": 1, "fp32": 2, "global_load": 1, "control": 1}
    assert (loop.instructions, loop.issued) == (4, 2)
    assert find_loops(parse_gcn("")) == []


def test_a_loop_is_named_after_its_statement(tmp_path):
    source = tmp_path / "kernel.py"
    source.write_text(
        "def horner(x):\n"
        "    for k in tl.static_range(3):\n"
        "        x = x * x\n"
        "def kernel(n, rank):\n"
        "    for i in range(0, n, 2):\n"
        "        y = i\n"
        "        for r in range(2, rank):\n"
        "            y = horner(r)\n"
    )
    inlined = f'\t//## File "{source}", line 3 inlined at "{source}", line 8\n\t//## File "{source}", line 8'
    text = SASS.replace('\t//## File "/nowhere.py", line 5', f'\t//## File "{source}", line 6')
    text = text.replace(".L_x_1:\n", f".L_x_1:\n{inlined}\n")
    outer, inner = find_loops(parse_sass(text))
    # the end of the outer loop follows the inner one's places
    assert (outer.function, outer.range, outer.line) == ("kernel", "range(0, n, 2)", 5)
    assert (inner.function, inner.range, inner.line) == ("kernel", "range(2, rank)", 7)


@pytest.mark.parametrize(
    ("opcode", "vendor", "name"),
    [
        ("MUFU.EX2", "nvidia", "special"),
        ("IMAD.MOV.U32", "nvidia", "move"),
        ("IMAD.WIDE", "nvidia", "integer_multiply"),
        ("UIADD3", "nvidia", "uniform"),
        ("FSETP.GT.AND", "nvidia", "alu"),
        ("LDSM.16.M88.4", "nvidia", "shared_load"),
        ("UTCHMMA", "nvidia", "tensor"),
        ("STL.64", "nvidia", "local_store"),
        ("v_mfma_f32_32x32x2_f32", "amd", "tensor"),
        ("v_exp_f32_e32", "amd", "special"),
        ("ds_bpermute_b32", "amd", "shuffle"),
        ("scratch_store_dwordx2", "amd", "local_store"),
    ],
)
def test_classes(opcode, vendor, name):
    assert classify(opcode, vendor) == name


def test_sizes():
    assert access_bytes("STL.128") == 16
    assert access_bytes("LDL") == 4
    assert access_bytes("LDL.U16") == 2
    assert access_bytes("scratch_store_dwordx2") == 8
    assert operations("FFMA2") == operations("v_pk_fma_f32") == 2 * operations("FFMA")
    assert tensor_flop("HMMA.1688.F32.TF32") == 2 * 16 * 8 * 8
    assert tensor_flop("HMMA.16816.F32.BF16") == 2 * 16 * 8 * 16 / 2
    assert tensor_flop("HGMMA.64x64x8.F32.TF32") == 2 * 64 * 64 * 8 / 4
    assert tensor_flop("v_mfma_f32_32x32x2_f32") == 2 * 32 * 32 * 2
    assert tensor_flop("v_mfma_f32_4x4x1_16b_f32") == 2 * 4 * 4 * 1 * 16
