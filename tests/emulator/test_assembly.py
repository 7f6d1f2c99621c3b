"""Instructions that the compiler seldom picks, written in assembly: dual issue with hazards, SDWA, and others."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

from rocmforge.tests.emulator.gpu_build import Gpu

N = 64
# name: (arch, assembly over %0 (out, 0 at first), %1 and %2 (in), oracle of the inputs)
CASES: dict[str, tuple[str, str, Callable[..., Any]]] = {
    # Both halves read before either writes.
    "dual_swap": (
        "gfx1100",
        """
        v_mov_b32 v10, %1
        v_mov_b32 v11, %2
        v_dual_mov_b32 v10, v11 :: v_dual_mov_b32 v11, v10
        v_sub_nc_u32 %0, v10, v11
        """,
        lambda a, b: b - a,
    ),
    "dual_accumulate": (
        "gfx1100",
        """
        v_mov_b32 v10, 2.0
        v_mov_b32 v11, 0x40400000
        v_mov_b32 v12, 0x40a00000
        v_mov_b32 v13, 4.0
        v_dual_fmac_f32 v10, v11, v13 :: v_dual_mul_f32 v13, v10, v12
        v_add_f32 %0, v10, v13
        """,
        lambda a, b: np.full(N, (2 + 3 * 4) + 2 * 5, np.float32).view(np.uint32),
    ),
    # The register that is added to is a whole one, whatever its number: only 16-bit forms have halves.
    "fmac_of_a_high_register": (
        "gfx1100",
        """
        v_mov_b32 v200, 2.0
        v_mov_b32 v11, 0x40400000
        v_fmac_f32 v200, v11, 4.0
        v_fmac_f32 v200, v11, v11
        v_mov_b32 %0, v200
        """,
        lambda a, b: np.full(N, 2 + 3 * 4 + 3 * 3, np.float32).view(np.uint32),
    ),
    "dual_literal": (
        "gfx1201",
        """
        v_mov_b32 v10, %1
        v_mov_b32 v11, %2
        v_dual_mov_b32 v12, 0x12345 :: v_dual_and_b32 v13, 0x12345, v11
        v_dual_mov_b32 v14, v10 :: v_dual_lshlrev_b32 v15, 3, v13
        v_add3_u32 %0, v12, v14, v15
        """,
        lambda a, b: np.uint32(0x12345) + a + ((b & 0x12345) << 3),
    ),
    "dual_cndmask": (
        "gfx1100",
        """
        v_cmp_lt_u32 vcc_lo, %1, %2
        v_mov_b32 v10, %1
        v_mov_b32 v11, %2
        v_dual_cndmask_b32 v12, v10, v11 :: v_dual_mov_b32 v13, 5
        v_add_nc_u32 %0, v12, v13
        """,
        lambda a, b: np.maximum(a, b) + np.uint32(5),
    ),
    "scalar_loop": (
        "gfx1100",
        """
        s_mov_b32 s20, 5
        v_mov_b32 v10, 0
        1:
        v_add_nc_u32 v10, v10, %1
        s_sub_u32 s20, s20, 1
        s_cmp_lg_u32 s20, 0
        s_cbranch_scc1 1b
        v_mov_b32 %0, v10
        """,
        lambda a, b: a * np.uint32(5),
    ),
    "scalar_bits": (
        "gfx1100",
        """
        s_mov_b32 s20, 0xf0f01234
        s_bfe_u32 s21, s20, 0x80004
        s_bfe_i32 s22, s20, 0x4001c
        s_bfm_b32 s23, 5, 3
        s_brev_b32 s24, s20
        s_ctz_i32_b32 s25, s20
        s_clz_i32_u32 s26, 0xff
        s_add_i32 s21, s21, s22
        s_add_i32 s21, s21, s23
        s_xor_b32 s21, s21, s24
        s_lshl2_add_u32 s21, s25, s21
        s_pack_ll_b32_b16 s27, s21, s26
        v_mov_b32 %0, s27
        """,
        lambda a, b: np.full(N, scalar_bits(), np.uint32),
    ),
    "scalar_packs": (
        "gfx1100",
        """
        s_mov_b32 s20, 0x12348765
        s_mov_b32 s21, 0xabcdfedc
        s_pack_hh_b32_b16 s22, s20, s21
        s_pack_lh_b32_b16 s23, s20, s21
        s_pack_hl_b32_b16 s24, s20, s21
        s_mul_i32 s23, s23, 3
        s_mul_i32 s24, s24, 5
        s_xor_b32 s22, s22, s23
        s_xor_b32 s22, s22, s24
        v_mov_b32 %0, s22
        """,
        lambda a, b: np.full(N, 0xABCD1234 ^ 0xABCD8765 * 3 & 0xFFFFFFFF ^ 0xFEDC1234 * 5 & 0xFFFFFFFF, np.uint32),
    ),
    "scalar_float": (
        "gfx1201",
        """
        s_mov_b32 s20, 1.0
        s_add_f32 s21, s20, 2.0
        s_mul_f32 s21, s21, s21
        s_fmac_f32 s21, s20, 4.0
        s_cvt_i32_f32 s22, s21
        v_mov_b32 %0, s22
        """,
        lambda a, b: np.full(N, 13, np.uint32),
    ),
    "scalar_carry": (
        "gfx1100",
        """
        s_add_u32 s20, 0xfffffff0, 0x20
        s_addc_u32 s21, 7, 8
        s_sub_u32 s22, 3, 4
        s_subb_u32 s23, 7, 1
        s_add_i32 s20, s20, s21
        s_mul_i32 s20, s20, s23
        v_mov_b32 %0, s20
        """,
        lambda a, b: np.full(N, (0x10 + 16) * 5, np.uint32),
    ),
    "saveexec": (
        "gfx1100",
        """
        v_mov_b32 %0, 1
        v_cmp_lt_u32 s20, %1, %2
        s_and_saveexec_b32 s21, s20
        v_mov_b32 %0, 2
        s_and_not1_b32 exec_lo, s21, exec_lo
        v_mov_b32 %0, 3
        s_mov_b32 exec_lo, s21
        """,
        lambda a, b: np.where(a < b, np.uint32(2), np.uint32(3)),
    ),
    "negate_abs": (
        "gfx1100",
        "v_add_f32 %0, -|%1|, |%2|",
        lambda a, b: (np.abs(b.view(np.float32)) - np.abs(a.view(np.float32))).view(np.uint32),
    ),
    "clamp": (
        "gfx1100",
        """
        v_cvt_f32_u32 v10, %1
        v_mul_f32 v10, 0x30000000, v10
        v_add_f32 %0, v10, -0.5 clamp
        """,
        lambda a, b: np.clip(a.astype(np.float32) * np.float32(2**-31) - np.float32(0.5), 0, 1).view(np.uint32),
    ),
    "swap": (
        "gfx1100",
        """
        v_mov_b32 v10, %1
        v_mov_b32 v11, %2
        v_swap_b32 v10, v11
        v_sub_nc_u32 %0, v10, v11
        """,
        lambda a, b: b - a,
    ),
    "writelane": (
        "gfx1100",
        """
        v_mov_b32 %0, %1
        v_writelane_b32 %0, 63, 9
        v_writelane_b32 %0, 62, 31
        """,
        lambda a, b: written(a),
    ),
    "op_sel": (
        "gfx1100",
        "v_pk_add_u16 %0, %1, %2 op_sel:[1,0] op_sel_hi:[0,1]",
        lambda a, b: ((a >> 16) + b & 0xFFFF) | ((a << 16) + (b & 0xFFFF0000)),
    ),
    "mad_u16": (
        "gfx1100",
        """
        v_mov_b32 v10, -1
        v_mov_b32 v11, %1
        v_mov_b32 v12, %2
        v_mad_u16 v10.h, v11.h, v12.l, 3
        v_mov_b32 %0, v10
        """,
        lambda a, b: (((a >> 16) * b + 3) << 16) | 0xFFFF,
    ),
    "sdwa_sources": (
        "gfx942",
        "v_add_u32_sdwa %0, %1, %2 dst_sel:DWORD dst_unused:UNUSED_PAD src0_sel:BYTE_2 src1_sel:WORD_1",
        lambda a, b: (a >> 16 & 255) + (b >> 16),
    ),
    "sdwa_signed": (
        "gfx942",
        "v_add_u32_sdwa %0, sext(%1), %2 dst_sel:DWORD dst_unused:UNUSED_PAD src0_sel:BYTE_3 src1_sel:DWORD",
        lambda a, b: (a.view(np.int32) >> 24).view(np.uint32) + b,
    ),
    "sdwa_keep": (
        "gfx942",
        """
        v_mov_b32 %0, %1
        v_mov_b32_sdwa %0, %2 dst_sel:BYTE_1 dst_unused:UNUSED_PRESERVE src0_sel:BYTE_0
        """,
        lambda a, b: (a & 0xFFFF00FF) | (b & 255) << 8,
    ),
    "sdwa_pad": (
        "gfx942",
        "v_or_b32_sdwa %0, %1, %2 dst_sel:WORD_1 dst_unused:UNUSED_PAD src0_sel:WORD_0 src1_sel:WORD_1",
        lambda a, b: ((a & 0xFFFF) | (b >> 16)) << 16,
    ),
    "sdwa_compare": (
        "gfx942",
        """
        v_cmp_gt_u32_sdwa s[20:21], %1, %2 src0_sel:BYTE_0 src1_sel:BYTE_3
        v_cndmask_b32 %0, 1, 2, s[20:21]
        """,
        lambda a, b: np.where((a & 255) > b >> 24, np.uint32(2), np.uint32(1)),
    ),
    "packed_f32": (
        "gfx942",
        """
        v_cvt_f32_ubyte0 v10, %1
        v_cvt_f32_ubyte0 v11, %2
        v_pk_fma_f32 v[12:13], v[10:11], v[10:11], v[10:11] op_sel:[0,1,0] op_sel_hi:[1,0,1]
        v_pk_mul_f32 v[12:13], v[12:13], v[10:11] neg_lo:[1,0]
        v_add_f32 v12, v12, v13
        v_cvt_i32_f32 %0, v12
        """,
        lambda a, b: packed(a & 255, b & 255),
    ),
    "bitop3_high": ("gfx950", "v_bitop3_b32 %0, %1, %2, %1 bitop3:0xd8", lambda a, b: bitop3(a, b, a, 0xD8)),
    "bitop3": ("gfx950", "v_bitop3_b32 %0, %1, %2, %1 bitop3:0x6a", lambda a, b: bitop3(a, b, a, 0x6A)),
    "accumulator": (
        "gfx942",
        """
        v_accvgpr_write_b32 a3, %1
        v_accvgpr_read_b32 v10, a3
        v_add_u32 %0, v10, %2
        """,
        lambda a, b: a + b,
    ),
    "bcast31": (
        "gfx942",
        """
        v_mov_b32 %0, %1
        s_nop 4
        v_mov_b32_dpp %0, %2 row_bcast:31 row_mask:0xc bank_mask:0xf
        """,
        lambda a, b: np.where(np.arange(N) >= 32, b[31], a),
    ),
    # Only lanes 32 to 63 have their bit: VCC is not zero, in its high half alone.
    "vccz_of_the_high_half": (
        "gfx942",
        """
        v_mbcnt_lo_u32_b32 v10, -1, 0
        v_mbcnt_hi_u32_b32 v10, -1, v10
        v_cmp_lt_u32 vcc, 40, v10
        v_mov_b32 %0, %1
        s_cbranch_vccz 1f
        v_mov_b32 %0, %2
        1:
        """,
        lambda a, b: b,
    ),
    "vccnz_of_the_high_half": (
        "gfx942",
        """
        v_mbcnt_lo_u32_b32 v10, -1, 0
        v_mbcnt_hi_u32_b32 v10, -1, v10
        v_cmp_lt_u32 vcc, 40, v10
        v_mov_b32 %0, %1
        s_cbranch_vccnz 1f
        v_mov_b32 %0, %2
        1:
        """,
        lambda a, b: a,
    ),
    # Waves of 32: the high half is a register like any other, and no part of the mask.
    "vccz_of_32_lanes": (
        "gfx1100",
        """
        s_mov_b32 vcc_hi, 1
        v_cmp_lt_u32 vcc_lo, %1, %1
        v_mov_b32 %0, %1
        s_cbranch_vccz 1f
        v_mov_b32 %0, %2
        1:
        """,
        lambda a, b: a,
    ),
    "wave_shr": (
        "gfx942",
        """
        v_mov_b32 %0, %1
        s_nop 4
        v_mov_b32_dpp %0, %2 wave_shr:1 row_mask:0xf bank_mask:0xf
        """,
        lambda a, b: np.concatenate([a[:1], b[:-1]]),
    ),
}


def scalar_bits() -> int:
    """What the scalar sequence gives, in Python's integers."""
    value = 0xF0F01234
    low, high = value >> 4 & 255, -1
    total = low + high + (31 << 3) ^ int(f"{value:032b}"[::-1], 2)
    total = (2 << 2) + total & 0xFFFFFFFF
    return total & 0xFFFF | 24 << 16


def written(a: np.ndarray) -> Any:
    rows = a.reshape(-1, 32).copy()
    rows[:, 9], rows[:, 31] = 63, 62
    return rows.ravel()


def packed(x: Any, y: Any) -> Any:
    """Low: x * y + x, negated, times x. High: y * x + y, times y."""
    x, y = x.astype(np.int64), y.astype(np.int64)
    return (-(x * y + x) * x + (y * x + y) * y).astype(np.int32).view(np.uint32)


def bitop3(a: np.ndarray, b: np.ndarray, c: np.ndarray, table: int) -> Any:
    result = np.zeros_like(a)
    for bit in range(32):
        index = (a >> bit & 1) * 4 + (b >> bit & 1) * 2 + (c >> bit & 1)
        result |= (np.uint32(table) >> index & 1) << bit
    return result


@cache
def gpu(arch: str) -> Gpu:
    clobbers = ", ".join(f'"v{i}"' for i in (*range(10, 16), 200)) + ", " + ", ".join(f'"s{i}"' for i in range(20, 28))
    clobbers += ', "vcc", "scc", "memory"' + (', "a3"' if arch == "gfx942" else "")
    kernels = []
    for name, (target, text, _) in CASES.items():
        if target == arch:
            lines = "\\n".join(line.strip() for line in text.strip().splitlines())
            body = f'asm volatile("{lines}" : "+&v"(r) : "v"(a), "v"(b) : {clobbers});'
            loads = "u32 a = pa[GLOBAL], b = pb[GLOBAL], r = 0;"
            kernels.append(
                f"KERNEL {name}(u32 *out, const u32 *pa, const u32 *pb) {{ {loads} {body} out[GLOBAL] = r; }}"
            )
    return Gpu("\n".join(kernels), arch)


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_assembly(name: str) -> None:
    arch, _, oracle = CASES[name]
    rng = np.random.default_rng(6)
    a, b = (
        rng.integers(0, 2**32, N, dtype=np.uint32) & (0x7F7FFFFF if name == "negate_abs" else 0xFFFFFFFF) for _ in "ab"
    )
    out = np.zeros(N, np.uint32)
    gpu(arch).run(name, 1, N, out, a, b)
    assert out.tolist() == oracle(a, b).astype(np.uint32).tolist()
