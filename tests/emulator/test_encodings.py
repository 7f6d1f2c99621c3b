"""Encodings: constants, halves of registers, dual issue, scalar immediates, branches, hints; and what is refused."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

from rocmforge.tests.emulator.gpu_build import Gpu

N = 64
OLD = 0x5555AAAA  # what v20 and v21 hold before
CDNA, RDNA3, RDNA4 = "gfx942", "gfx1100", "gfx1201"
# v10, v11 and v12 are a, b and c; the result is v20, or v20 and v21 where the oracle gives 64 bits.
Oracle = Callable[..., int]
CASES: list[tuple[str, str, Oracle]] = []


def add(arches: str | tuple[str, ...], cases: dict[str, Oracle]) -> None:
    for arch in (arches,) if isinstance(arches, str) else arches:
        CASES.extend((arch, text, oracle) for text, oracle in cases.items())


def both(low: int, high: int = OLD) -> int:
    return low & 0xFFFFFFFF | (high & 0xFFFFFFFF) << 32


def f32(x: Any) -> int:
    return int(np.array([x], np.float32).view(np.uint32)[0])


def f64(x: Any) -> int:
    return int(np.array([x], np.float64).view(np.uint64)[0])


def f16(x: Any) -> int:
    return int(np.array([x], np.float16).view(np.uint16)[0])


def real(bits: int) -> Any:
    return np.array([bits & 0xFFFFFFFF], np.uint32).view(np.float32)[0]


def half(bits: int) -> Any:
    return np.array([bits & 0xFFFF], np.uint16).view(np.float16)[0]


def constant(value: int) -> Oracle:
    return lambda a, b, c: value


# Constants in the instruction.
INLINE = {"0.5": 0.5, "-0.5": -0.5, "1.0": 1, "-1.0": -1, "2.0": 2, "-2.0": -2, "4.0": 4, "-4.0": -4}
INLINE["0.15915494"] = float(np.float32(1 / (2 * np.pi)))
for _name, _value in INLINE.items():
    _double = 0.15915494309189532 if "15" in _name else _value
    add((CDNA, RDNA3), {f"v_mov_b32 v20, {_name}": constant(both(f32(_value)))})
    _tail = "0.15915494309189532" if "15" in _name else _name
    add((CDNA, RDNA3), {f"v_add_f64 v[20:21], {_tail}, 0": constant(f64(_double))})
    add(CDNA, {f"v_add_f16 v20, {_name}, 0": constant(both(f16(_value)))})
    add(RDNA3, {f"v_add_f16 v20.l, {_name}, 0": constant(both(OLD & 0xFFFF0000 | f16(_value)))})
    add(CDNA, {f"v_pk_add_f16 v20, {_name}, 0 op_sel_hi:[0,0]": constant(both(f16(_value) * 0x10001))})
for _value in (0, 1, 64, -1, -16):
    add((CDNA, RDNA3), {f"v_mov_b32 v20, {_value}": constant(both(_value))})
    add(CDNA, {f"v_lshl_add_u64 v[20:21], {_value}, 0, 0": constant(_value & (2**64 - 1))})
    add(
        (CDNA, RDNA3),
        {f"s_mov_b64 s[20:21], {_value}; v_mov_b32 v20, s20; v_mov_b32 v21, s21": constant(_value % 2**64)},
    )
add((CDNA, RDNA3), {
    "v_mov_b32 v20, 65": constant(both(65)),
    "v_mov_b32 v20, 0x87654321": constant(both(0x87654321)),
    "v_xor_b32 v20, 0x87654321, v10": lambda a, b, c: both(a ^ 0x87654321),
    "s_ashr_i64 s[20:21], 0x87654321, 4; v_mov_b32 v20, s20; v_mov_b32 v21, s21":
        constant((0x87654321 - 2**32 >> 4) % 2**64),
    "s_and_b64 s[20:21], 0x87654321, -1; v_mov_b32 v20, s20; v_mov_b32 v21, s21": constant(0x87654321),
    "s_mov_b32 m0, 9; s_mov_b32 s20, m0; v_mov_b32 v20, s20": constant(both(9)),
    "s_getpc_b64 s[20:21]; s_getpc_b64 s[22:23]; s_sub_u32 s20, s22, s20; v_mov_b32 v20, s20": constant(both(4)),
    "s_call_b64 s[20:21], 1f; v_add3_u32 v20, v20, v10, 1; s_branch 2f; 1:; v_mov_b32 v20, 5; s_setpc_b64 s[20:21]; 2:":
        lambda a, b, c: both(5 + a + 1),
    "s_movk_i32 s20, -3; v_mov_b32 v20, s20": constant(both(-3)),
    "s_movk_i32 s20, 7; s_mulk_i32 s20, -300; v_mov_b32 v20, s20": constant(both(-2100)),
    "s_movk_i32 s20, 7; s_cmp_eq_u32 s20, s20; s_cmovk_i32 s20, -5; v_mov_b32 v20, s20": constant(both(-5)),
    "s_movk_i32 s20, 7; s_cmp_lg_u32 s20, s20; s_cmovk_i32 s20, -5; v_mov_b32 v20, s20": constant(both(7)),
    "s_movk_i32 s20, 7; s_addk_i32 s20, -9; s_cselect_b32 s21, 1, 0; v_mov_b32 v20, s20; v_mov_b32 v21, s21":
        constant(both(-2, 0)),
    "s_mov_b32 s20, 0x7fffffff; s_addk_i32 s20, 1; s_cselect_b32 s21, 1, 0; v_mov_b32 v20, s20; v_mov_b32 v21, s21":
        constant(both(0x80000000, 1)),
})  # fmt: skip
COMPARES: dict[str, Callable[[int, int], bool]] = {
    "eq": lambda x, y: x == y, "lg": lambda x, y: x != y, "gt": lambda x, y: x > y, "ge": lambda x, y: x >= y,
    "lt": lambda x, y: x < y, "le": lambda x, y: x <= y,
}  # fmt: skip
for _name, _compare in COMPARES.items():
    for _x in (-1, 5, 65535):
        for _kind, _y in (("i32", -1), ("i32", 5), ("u32", 65535), ("u32", 5)):
            _wanted = _compare(_x, _y) if _kind == "i32" else _compare(_x % 2**32, _y)
            _text = (
                f"s_mov_b32 s20, {_x}; s_cmpk_{_name}_{_kind} s20, {_y}; s_cselect_b32 s21, 1, 0; v_mov_b32 v20, s21"
            )
            add((CDNA, RDNA3), {_text: constant(both(int(_wanted)))})
for _bit in (0, 1):
    for _branch in (0, 1):
        _text = f"s_cmp_eq_u32 {_bit}, 1; v_mov_b32 v20, 1; s_cbranch_scc{_branch} 1f; v_mov_b32 v20, 2; 1:"
        add((CDNA, RDNA3, RDNA4), {_text: constant(both(1 if _bit == _branch else 2))})
    for _name, _taken in (("z", not _bit), ("nz", _bit)):
        _text = f"s_mov_b32 s20, 1; s_mov_b32 exec_lo, {_bit}; s_cbranch_exec{_name} 1f; s_mov_b32 s20, 2; 1:; "
        _text += "s_mov_b32 exec_lo, -1; v_mov_b32 v20, s20"
        add((RDNA3, RDNA4), {_text: constant(both(1 if _taken else 2))})
    add(RDNA3, {
        f"s_cmp_eq_u32 {_bit}, 1; s_mov_b32 s20, src_scc; v_mov_b32 v20, s20": constant(both(_bit)),
    })  # fmt: skip
    add(CDNA, {
        f"s_mov_b64 vcc, {_bit}; s_mov_b32 s20, src_vccz; v_mov_b32 v20, s20": constant(both(1 - _bit)),
        f"s_mov_b64 exec, {_bit}; s_mov_b32 s20, src_execz; s_mov_b64 exec, -1; v_mov_b32 v20, s20":
            constant(both(1 - _bit)),
    })  # fmt: skip
add((RDNA3, RDNA4), {
    "v_add_f64 v[20:21], 0x40080000, 0": constant(f64(3.0)),
    "v_add3_u32 v20, v10, 0x12345, v11": lambda a, b, c: both(a + 0x12345 + b),
    "s_mov_b32 s20, 5; s_or_b32 s20, s20, null; v_mov_b32 v20, s20": constant(both(5)),
    "s_mov_b32 null, 7; s_mov_b32 s20, null; v_mov_b32 v20, s20": constant(both(0)),
    "v_mov_b32 v20, null": constant(both(0)),
    "s_mov_b64 null, -1; v_mov_b32 v20, 1": constant(both(1)),
})  # fmt: skip

# Bytes as floats: x of a, y of b, z of c. Sums of their products are exact.
FLOATS = "v_cvt_f32_ubyte0 v14, v10; v_cvt_f32_ubyte1 v15, v11; v_cvt_f32_ubyte2 v16, v12; "
HALVES = "v_mov_b32 v14, 0x3c004000; v_mov_b32 v15, 0x44004200; "  # 1 above 2, 4 above 3


def floats(
    operation: Callable[[int, int, int], float], second: Callable[[int, int, int], float] | None = None
) -> Oracle:
    def oracle(a: int, b: int, c: int) -> int:
        x, y, z = a & 255, b >> 8 & 255, c >> 16 & 255
        return both(f32(operation(x, y, z)), f32(second(x, y, z)) if second else OLD)

    return oracle


add((CDNA, RDNA3, RDNA4), {
    FLOATS + "v_mov_b32 v20, v16; v_fmac_f32 v20, v14, v15": floats(lambda x, y, z: x * y + z),
    FLOATS + "v_fmaak_f32 v20, v14, v15, 0x40a00000": floats(lambda x, y, z: x * y + 5),
    FLOATS + "v_fmamk_f32 v20, v14, 0x40a00000, v15": floats(lambda x, y, z: x * 5 + y),
    FLOATS + "v_fma_f32 v20, -v14, v15, |v16|": floats(lambda x, y, z: z - x * y),
    FLOATS + "v_fma_f32 v20, v14, -|v15|, -v16": floats(lambda x, y, z: -z - x * y),
    FLOATS + "v_sub_f32 v20, v14, v15 mul:4": floats(lambda x, y, z: 4 * (x - y)),
    FLOATS + "v_sub_f32 v20, v14, v15 div:2": floats(lambda x, y, z: (x - y) / 2),
    FLOATS + "v_sub_f32 v20, v14, v15 clamp": floats(lambda x, y, z: min(max(x - y, 0), 1)),
    FLOATS + "v_sub_f32 v14, 0, v14; v_max_f32 v20, |v14|, -v14": floats(lambda x, y, z: x),
    HALVES + "v_pk_add_f16 v20, v14, v15 op_sel:[1,0] op_sel_hi:[0,1]": constant(both(f16(1 + 3) | f16(2 + 4) << 16)),
    HALVES + "v_pk_add_f16 v20, v14, v15 op_sel:[0,1] op_sel_hi:[1,0]": constant(both(f16(2 + 4) | f16(1 + 3) << 16)),
    HALVES + "v_pk_add_f16 v20, v14, v15 neg_lo:[1,0] neg_hi:[0,1]": constant(both(f16(1) | f16(-3) << 16)),
    HALVES + "v_pk_mul_f16 v20, v14, v15 neg_lo:[0,1]": constant(both(f16(-6) | f16(4) << 16)),
    HALVES + "v_mov_b32 v20, 0x40004200; v_pk_fmac_f16 v20, v14, v15": constant(both(f16(9) | f16(6) << 16)),
    "v_dot4_u32_u8 v20, v10, v11, 7":
        lambda a, b, c: both(7 + sum((a >> i & 255) * (b >> i & 255) for i in (0, 8, 16, 24))),
    "v_dot8_u32_u4 v20, v10, v11, v12":
        lambda a, b, c: both(c + sum((a >> i & 15) * (b >> i & 15) for i in range(0, 32, 4))),
})  # fmt: skip
MIX = HALVES + "v_mov_b32 v16, 0x41000000; "  # 8
for _arch, _mix in ((CDNA, "v_fma_mix"), (RDNA3, "v_fma_mix"), (RDNA4, "v_fma_mix")):
    add(_arch, {
        f"{MIX}{_mix}_f32 v20, v14, v15, v16 op_sel:[1,0,0] op_sel_hi:[1,1,0]": constant(both(f32(1 * 3 + 8))),
        f"{MIX}{_mix}_f32 v20, -v14, v15, v16 op_sel:[0,1,0] op_sel_hi:[1,1,0]": constant(both(f32(-2 * 4 + 8))),
        f"{MIX}{_mix}_f32 v20, v14, v15, -v16 op_sel:[0,1,0] op_sel_hi:[1,1,0]": constant(both(f32(2 * 4 - 8))),
        f"{MIX}v_mov_b32 v16, 0xc1000000; {_mix}_f32 v20, v14, v15, |v16| op_sel_hi:[1,1,0]":
            constant(both(f32(2 * 3 + 8))),
        f"{MIX}{_mix}_f32 v20, v16, v16, v14 op_sel:[0,0,1] op_sel_hi:[0,0,1]": constant(both(f32(65))),
        f"{MIX}{_mix}_f32 v20, v14, v15, v16 op_sel_hi:[1,1,0] clamp": constant(both(f32(1))),
        f"{MIX}{_mix}lo_f16 v20, v14, v15, v16 op_sel_hi:[1,1,0]": constant(both(OLD & 0xFFFF0000 | f16(14))),
        f"{MIX}{_mix}hi_f16 v20, v14, v15, v16 op_sel_hi:[1,1,0]": constant(both(OLD & 0xFFFF | f16(14) << 16)),
    })  # fmt: skip
add(CDNA, {
    FLOATS + "v_mov_b32 v17, v14; v_pk_add_f32 v[20:21], v[14:15], v[16:17] op_sel:[1,0] op_sel_hi:[0,1] neg_lo:[0,1]":
        floats(lambda x, y, z: y - z, lambda x, y, z: x + x),
    FLOATS + "v_mov_b32 v17, v15; v_pk_mul_f32 v[20:21], v[14:15], v[16:17] op_sel:[0,1] op_sel_hi:[1,0] neg_hi:[1,0]":
        floats(lambda x, y, z: x * y, lambda x, y, z: -y * z),
    "v_mov_b32 v13, 3; v_pk_mov_b32 v[20:21], v[10:11], v[12:13] op_sel:[1,0]": lambda a, b, c: both(b, c),
    "v_mov_b32 v13, 3; v_pk_mov_b32 v[20:21], v[10:11], v[12:13] op_sel:[0,1]": lambda a, b, c: both(a, 3),
    "v_accvgpr_write_b32 a3, v10; v_accvgpr_mov_b32 a5, a3; v_accvgpr_read_b32 v20, a5": lambda a, b, c: both(a),
    "v_accvgpr_write_b32 a3, -7; v_accvgpr_read_b32 v20, a3": constant(both(-7)),
    "v_mad_u16 v20, v10, v11, v12": lambda a, b, c: both(a * b + c & 0xFFFF),
    "v_mad_u16 v20, v10, v11, v12 op_sel:[1,0,1,1]":
        lambda a, b, c: both(OLD & 0xFFFF | ((a >> 16) * b + (c >> 16) & 0xFFFF) << 16),
    "v_mad_u16 v20, v10, v11, v12 op_sel:[0,1,0,0]": lambda a, b, c: both(a * (b >> 16) + c & 0xFFFF),
    FLOATS + "v_cvt_f64_f32 v[14:15], v14; v_mov_b32 v20, 0; v_mov_b32 v21, 0x40080000; "
    "v_fmac_f64 v[20:21], v[14:15], v[14:15]": lambda a, b, c: f64((a & 255) ** 2 + 3),
    "v_cmpx_lt_u32 vcc, v10, v11; v_mov_b32 v20, 1; s_mov_b64 exec, -1; v_cndmask_b32 v21, 0, 1, vcc":
        lambda a, b, c: both(1 if a < b else OLD, a < b),
    "v_cmpx_lt_u32 s[20:21], v10, v11; v_mov_b32 v20, 1; s_mov_b64 exec, -1; v_cndmask_b32 v21, 0, 1, s[20:21]":
        lambda a, b, c: both(1 if a < b else OLD, a < b),
    "v_cmp_lt_u32 s[20:21], v10, v11; v_mov_b32 v20, 1; v_cndmask_b32 v21, 0, 1, s[20:21]":
        lambda a, b, c: both(1, a < b),
    FLOATS + "v_add_f32_sdwa v20, -v14, |v15| dst_sel:DWORD dst_unused:UNUSED_PAD src0_sel:DWORD src1_sel:DWORD":
        floats(lambda x, y, z: y - x),
    FLOATS + "v_add_f32_sdwa v20, v14, -v15 clamp dst_sel:DWORD dst_unused:UNUSED_PAD src0_sel:DWORD src1_sel:DWORD":
        floats(lambda x, y, z: min(max(x - y, 0), 1)),
    FLOATS + "v_add_f32_sdwa v20, v14, -v15 mul:2 dst_sel:DWORD dst_unused:UNUSED_PAD src0_sel:DWORD src1_sel:DWORD":
        floats(lambda x, y, z: 2 * (x - y)),
    HALVES + "v_add_f16_sdwa v20, -v14, v15 dst_sel:DWORD dst_unused:UNUSED_PAD src0_sel:WORD_1 src1_sel:WORD_0":
        constant(both(f16(2))),
    "s_mov_b32 s20, 7; v_add_u32_sdwa v20, s20, v10 dst_sel:DWORD dst_unused:UNUSED_PAD src0_sel:DWORD src1_sel:BYTE_1":
        lambda a, b, c: both(7 + (a >> 8 & 255)),
    "s_mov_b32 s20, 7; v_add_u32_sdwa v20, v10, s20 dst_sel:DWORD dst_unused:UNUSED_PAD src0_sel:BYTE_1 src1_sel:DWORD":
        lambda a, b, c: both(7 + (a >> 8 & 255)),
    "v_mov_b32 v20, v12; v_dot4c_i32_i8 v20, v10, v11": lambda a, b, c: both(c + products(a, b, 8, 3)),
    "v_mov_b32 v20, v12; v_dot8c_i32_i4 v20, v10, v11": lambda a, b, c: both(c + products(a, b, 4, 3)),
    "v_mov_b32 v20, v12; v_dot2c_i32_i16 v20, v10, v11": lambda a, b, c: both(c + products(a, b, 16, 3)),
    HALVES + "v_mov_b32 v20, 0x41200000; v_dot2c_f32_f16 v20, v14, v15": constant(both(f32(10 + 6 + 4))),
})  # fmt: skip
BRAINS = "v_mov_b32 v14, 0x3f804000; v_mov_b32 v15, 0x40804040; "  # the same numbers as bfloat16
add("gfx950", {
    BRAINS + "v_mov_b32 v20, 0x41200000; v_dot2c_f32_bf16 v20, v14, v15": constant(both(f32(10 + 6 + 4)))
})  # fmt: skip


def products(a: int, b: int, bits: int, signs: int) -> int:
    """Sum of products of parts; bit 0 of signs: a's are signed, bit 1: b's."""

    def parts(x: int, signed: int) -> list[int]:
        found = [x >> at & ((1 << bits) - 1) for at in range(0, 32, bits)]
        return [p - (1 << bits) if signed and p >> (bits - 1) else p for p in found]

    return sum(p * q for p, q in zip(parts(a, signs & 1), parts(b, signs & 2), strict=True))


for _signs in range(4):
    for _bits, _name in ((4, "v_dot8_i32_iu4"), (8, "v_dot4_i32_iu8")):
        _text = f"{_name} v20, v10, v11, v12 neg_lo:[{_signs & 1},{_signs >> 1},0]"
        add((RDNA3, RDNA4), {_text: lambda a, b, c, n=_bits, s=_signs: both(c + products(a, b, n, s))})
add(RDNA3, {
    HALVES + "v_mov_b32 v20, 0x45004500; v_fmac_f16 v20.h, v14.l, v15.h": constant(both(0x4500 | f16(5 + 8) << 16)),
    HALVES + "v_mov_b32 v20, 0x45004500; v_fmac_f16 v20.l, v14.h, v15.h": constant(both(f16(5 + 4) | 0x45000000)),
    HALVES + "v_fmaak_f16 v20.l, v14.l, v15.h, 0x4500": constant(both(OLD & 0xFFFF0000 | f16(13))),
    HALVES + "v_fmamk_f16 v20.h, v14.l, 0x4500, v15.h": constant(both(OLD & 0xFFFF | f16(14) << 16)),
    HALVES + "v_add_f16 v20.h, v14.h, -v15.l": constant(both(OLD & 0xFFFF | f16(-2) << 16)),
    HALVES + "v_fma_f16 v20.h, v14.l, v15.h, -|v14.h|": constant(both(OLD & 0xFFFF | f16(7) << 16)),
    HALVES + "v_mov_b32 v200, v14; v_fma_f16 v20.l, v200.h, v15.h, v15.l": constant(both(OLD & 0xFFFF0000 | f16(7))),
    HALVES + "v_cvt_f32_f16 v20, v14.h; v_cvt_f32_f16 v21, v15.l": constant(both(f32(1), f32(3))),
    FLOATS + "v_cvt_f16_f32 v20.h, v14": lambda a, b, c: both(OLD & 0xFFFF | f16(a & 255) << 16),
    "v_add_nc_u16 v20.h, v10.h, v11.l": lambda a, b, c: both(OLD & 0xFFFF | (a >> 16) + b << 16),
    "v_mov_b32 v200, v11; v_add_nc_u16 v200.l, v10.h, v200.h; v_mov_b32 v20, v200":
        lambda a, b, c: both(b & 0xFFFF0000 | (a >> 16) + (b >> 16) & 0xFFFF),
    "v_lshlrev_b16 v20.l, 3, v10.h": lambda a, b, c: both(OLD & 0xFFFF0000 | (a >> 16) << 3 & 0xFFFF),
})  # fmt: skip
add((RDNA3, RDNA4), {
    "s_mov_b32 vcc_lo, 0x1234; v_cmpx_lt_u32 v10, v11; v_mov_b32 v20, 1; s_mov_b32 exec_lo, -1; v_mov_b32 v21, vcc_lo":
        lambda a, b, c: both(1 if a < b else OLD, 0x1234),
    "s_mov_b32 s20, -1; v_cmpx_lt_u32_e64 v10, v11; v_mov_b32 v20, 1; s_mov_b32 exec_lo, s20":
        lambda a, b, c: both(1 if a < b else OLD),
    "v_cmp_lt_u32 s20, v10, v11; v_cndmask_b32 v20, 0, 1, s20": lambda a, b, c: both(a < b),
    "v_cmp_lt_u32 s20, v10, v11; v_add_co_ci_u32 v20, s21, v10, v11, s20; v_cndmask_b32 v21, 0, 1, s21":
        lambda a, b, c: both(a + b + (a < b), a + b + (a < b) >= 2**32),
    "v_add_co_u32 v20, s20, v10, v11; v_cndmask_b32 v21, 0, 1, s20": lambda a, b, c: both(a + b, a + b >= 2**32),
    "v_add_co_u32 v20, vcc_lo, v10, v11; v_add_co_ci_u32 v20, vcc_lo, v10, v12, vcc_lo; "
    "v_cndmask_b32 v21, 0, 1, vcc_lo":
        lambda a, b, c: both(a + c + (a + b >= 2**32), a + c + (a + b >= 2**32) >= 2**32),
})  # fmt: skip
add(RDNA3, {
    FLOATS + "v_mov_b32 v20, v16; v_fmac_dx9_zero_f32 v20, v14, v15": floats(lambda x, y, z: x * y + z),
    HALVES + "v_mov_b32 v20, 0x41200000; v_dot2acc_f32_f16 v20, v14, v15": constant(both(f32(10 + 6 + 4))),
})  # fmt: skip
# Dual issue: X, and beside it a move of c; then a move of c, and beside it Y.
DUAL: dict[str, tuple[str, Callable[[int, int, int], float]]] = {
    "add_f32": ("{}, v14, v15", lambda x, y, z: x + y),
    "sub_f32": ("{}, v14, v15", lambda x, y, z: x - y),
    "subrev_f32": ("{}, v14, v15", lambda x, y, z: y - x),
    "mul_f32": ("{}, v14, v15", lambda x, y, z: x * y),
    "mul_dx9_zero_f32": ("{}, v14, v15", lambda x, y, z: x * y),
    "max_f32": ("{}, v14, v15", lambda x, y, z: max(x, y)),
    "min_f32": ("{}, v14, v15", lambda x, y, z: min(x, y)),
    "fmac_f32": ("{}, v14, v15", lambda x, y, z: x * y + z),
    "fmaak_f32": ("{}, v14, v15, 0x40a00000", lambda x, y, z: x * y + 5),
    "fmamk_f32": ("{}, v14, 0x40a00000, v15", lambda x, y, z: x * 5 + y),
}
DUAL_WORDS: dict[str, Oracle] = {
    "add_nc_u32": lambda a, b, c: a + b,
    "lshlrev_b32": lambda a, b, c: b << (a & 31),
    "and_b32": lambda a, b, c: a & b,
}
for _name, (_operands, _operation) in DUAL.items():
    for _arch in (RDNA3, RDNA4):
        _spelt = _name.replace("max_", "max_num_").replace("min_", "min_num_") if _arch == RDNA4 else _name
        for _x in (True, False):
            _one = f"v_dual_{_spelt} {_operands.format('v20')}"
            _two = "v_dual_mov_b32 v21, v17"
            _text = f"{FLOATS}v_mov_b32 v17, 1.0; v_mov_b32 v20, v16; {_one if _x else _two} :: {_two if _x else _one}"
            add(_arch, {_text: floats(_operation, lambda x, y, z: 1)})
for _name, _oracle in DUAL_WORDS.items():
    _text = f"v_dual_mov_b32 v20, v13 :: v_dual_{_name} v21, v10, v11"
    add(RDNA3, {f"v_mov_b32 v13, v12; {_text}": lambda a, b, c, o=_oracle: both(c, o(a, b, c))})
    # Y reads, first or second, what X writes, and X what Y writes.
    _text = f"v_mov_b32 v20, v10; v_mov_b32 v21, v11; v_dual_mov_b32 v20, v21 :: v_dual_{_name} v21, v20, v21"
    add(RDNA3, {_text: lambda a, b, c, o=_oracle: both(b, o(a, b, c))})
    _text = f"v_mov_b32 v20, v11; v_mov_b32 v21, v10; v_dual_mov_b32 v20, v21 :: v_dual_{_name} v21, v10, v20"
    add(RDNA3, {_text: lambda a, b, c, o=_oracle: both(a, o(a, b, c))})
add(RDNA3, {
    "s_mov_b32 vcc_lo, 0xf0f0; v_dual_cndmask_b32 v20, v10, v11 :: v_dual_mov_b32 v21, v12; s_mov_b32 s20, 0xf0f0; "
    "v_cndmask_b32 v22, v10, v11, s20; v_sub_nc_u32 v20, v20, v22": lambda a, b, c: both(0, c),
    "v_mov_b32 v13, v11; v_dual_mov_b32 v20, 0x12345 :: v_dual_and_b32 v21, 0x12345, v13":
        lambda a, b, c: both(0x12345, b & 0x12345),
    HALVES + "v_mov_b32 v16, 0; v_mov_b32 v20, 4.0; v_dual_dot2acc_f32_f16 v20, v14, v15 :: v_dual_mov_b32 v21, v16":
        constant(both(f32(14), 0)),
})  # fmt: skip
add(RDNA4, {
    "s_mov_b32 s20, 1.0; s_mov_b32 s21, 4.0; s_fmaak_f32 s22, s20, s21, 0x40a00000; v_mov_b32 v20, s22":
        constant(both(f32(9))),
    "s_mov_b32 s20, 2.0; s_mov_b32 s21, 4.0; s_fmamk_f32 s22, s20, 0x40a00000, s21; v_mov_b32 v20, s22":
        constant(both(f32(14))),
    "s_mov_b32 s20, 2.0; s_mov_b32 s22, 4.0; s_fmac_f32 s22, s20, 0x40a00000; v_mov_b32 v20, s22":
        constant(both(f32(14))),
    "s_sendmsg_rtn_b64 s[20:21], sendmsg(MSG_RTN_GET_REALTIME); s_mov_b32 s22, s20; "
    "s_sendmsg_rtn_b64 s[20:21], sendmsg(MSG_RTN_GET_REALTIME); v_mov_b32 v20, 1": constant(both(1)),
})  # fmt: skip
# Waits, hints and cache control do nothing here.
HINTS = {
    CDNA: "s_nop 3; s_setprio 1; s_waitcnt 0; s_icache_inv; s_incperflevel 1; s_decperflevel 1; s_ttracedata; "
    "s_dcache_inv; s_dcache_wb; s_dcache_inv_vol; s_dcache_wb_vol; s_wakeup; s_sendmsg sendmsg(MSG_INTERRUPT); "
    "s_sleep 1; buffer_inv sc1; buffer_wbl2 sc1; v_nop; ds_nop; s_barrier; s_memtime s[20:21]; s_memrealtime s[20:21]",
    RDNA3: "s_nop 3; s_clause 0x1; s_delay_alu instid0(VALU_DEP_1); s_waitcnt 0; s_wait_idle; s_waitcnt_depctr 0xfffe; "
    "s_set_inst_prefetch_distance 1; s_setprio 1; s_wakeup; s_code_end; s_icache_inv; s_incperflevel 1; s_barrier; "
    "s_decperflevel 1; s_ttracedata; s_ttracedata_imm 1; s_waitcnt_vscnt null, 0; s_waitcnt_vmcnt null, 0; v_nop; "
    "s_waitcnt_expcnt null, 0; s_waitcnt_lgkmcnt null, 0; s_wait_event 0; s_sendmsg sendmsg(MSG_INTERRUPT); s_sleep 1; "
    "s_dcache_inv; s_gl1_inv; s_version 1; buffer_gl0_inv; buffer_gl1_inv; ds_nop; "
    "s_getreg_b32 s20, hwreg(HW_REG_SHADER_CYCLES); s_setreg_imm32_b32 hwreg(HW_REG_MODE, 0, 8), 0xf0; "
    "s_setreg_imm32_b32 hwreg(HW_REG_MODE, 2, 4), 0xc; s_setreg_imm32_b32 hwreg(HW_REG_MODE, 6, 2), 0x3; "
    "s_sendmsg_rtn_b32 s20, sendmsg(MSG_RTN_GET_DOORBELL)",
    RDNA4: "s_nop 3; s_clause 0x1; s_delay_alu instid0(VALU_DEP_1); s_wait_alu 0xfffe; s_wait_loadcnt 0; "
    "s_wait_storecnt 0; s_wait_samplecnt 0; s_wait_bvhcnt 0; s_wait_expcnt 0; s_wait_dscnt 0; s_wait_kmcnt 0; "
    "s_wait_loadcnt_dscnt 0; s_wait_storecnt_dscnt 0; s_prefetch_inst s[20:21], 0, s22, 1; s_wait_event 0; "
    "s_wait_idle; s_prefetch_data s[20:21], 0, s22, 1; s_prefetch_inst_pc_rel 0, s22, 1; "
    "s_prefetch_data_pc_rel 0, s22, 1; global_inv; global_wb; global_wbinv; s_barrier_signal -1; "
    "s_barrier_wait -1; s_sleep_var s20; s_setprio 1; "
    "s_dcache_inv; s_icache_inv; s_code_end; s_version 1; ds_nop; v_nop",
}
for _arch, _text in HINTS.items():
    add(_arch, {f"{_text}; v_mov_b32 v20, v10": lambda a, b, c: both(a)})

KERNEL = """KERNEL {name}(u64 *out, const u32 *pa, const u32 *pb, const u32 *pc) {{
  asm volatile("v_mov_b32 v10, %1\\nv_mov_b32 v11, %2\\nv_mov_b32 v12, %3\\nv_mov_b32 v20, 0x5555aaaa\\n"
    "v_mov_b32 v21, v20\\n{text}\\n{store} %0, v[20:21], off"
    : : "v"(out + GLOBAL), "v"(pa[GLOBAL]), "v"(pb[GLOBAL]), "v"(pc[GLOBAL]) : {clobbers});
}}
"""


def kernel(arch: str, name: str, text: str) -> str:
    clobbers = ", ".join(f'"v{i}"' for i in (*range(10, 24), 200)) + ', "s20", "s21", "s22", "s23", "m0", "vcc", "scc"'
    clobbers += ', "memory"' + (', "a3", "a5"' if arch.startswith("gfx9") else "")
    lines = "\\n".join(line.strip() for line in text.split(";"))
    store = "global_store_dwordx2" if arch.startswith("gfx9") else "global_store_b64"
    return KERNEL.format(name=name, text=lines, store=store, clobbers=clobbers)


@cache
def gpu(arch: str) -> Gpu:
    return Gpu(
        "".join(kernel(arch, f"case_{i}", c[1]) for i, c in enumerate(CASES) if c[0] == arch), arch, max_ops=100_000
    )


@pytest.mark.parametrize("index", range(len(CASES)), ids=[f"{c[0]}-{c[1]}".replace(" ", "_") for c in CASES])
def test_encoding(index: int) -> None:
    arch, _, oracle = CASES[index]
    given = np.random.default_rng(21).integers(0, 2**32, (3, N), dtype=np.uint32)
    out = np.zeros(N, np.uint64)
    gpu(arch).run(f"case_{index}", 1, N, out, *(g.copy() for g in given))
    want = [oracle(*row) for row in given.T.tolist()]
    assert [hex(x) for x in out.tolist()] == [hex(x) for x in want]


# (arch, assembly, what the message says of it)
REFUSED = [
    (RDNA3, "buffer_load_b32 v20, v10, s[20:23], 0 offen", "buffer_load_b32 at 0x.*buffer instructions are not"),
    (RDNA3, "ds_append v20", "ds_append at 0x"),
    (RDNA3, "ds_storexchg_2addr_rtn_b32 v[20:21], v10, v11, v12", "ds_storexchg_2addr_rtn_b32 at"),
    (RDNA3, "global_load_addtid_b32 v20, s[20:21]", "global_load_addtid_b32 at"),
    (RDNA4, "s_barrier_signal 1", "s_barrier_signal at .*only the workgroup's barrier"),
    (RDNA4, "s_barrier_signal_isfirst -1", "s_barrier_signal_isfirst at .*only the workgroup's barrier"),
    (RDNA4, "s_barrier_wait 1", "s_barrier_wait at .*only the workgroup's barrier"),
    (RDNA3, "s_getreg_b32 s20, hwreg(HW_REG_HW_ID1)", "s_getreg_b32 at .*hardware register 23"),
    (RDNA3, "s_setreg_b32 hwreg(HW_REG_MODE, 0, 8), s20", "s_setreg_b32 at .*hardware register 1"),
    (RDNA3, "s_setreg_imm32_b32 hwreg(HW_REG_MODE, 0, 9), 0xf0", "hardware register 1"),
    (RDNA3, "s_setreg_imm32_b32 hwreg(HW_REG_MODE, 0, 8), 0xf1", "hardware register 1"),
    (RDNA3, "v_cmpx_lt_u32_dpp v10, v11 row_shl:1 row_mask:0xf bank_mask:0xf", "v_cmpx with DPP"),
    (RDNA3, "v_swap_b16 v10.l, v11.h", "v_swap_b16 at"),
    ("gfx950", "v_bitop3_b16 v20, v10, v11, v12 bitop3:0x3", "v_bitop3_b16 at"),
    (RDNA3, "s_branch 0x7000", "branch at 0x.* to 0x.*: not an instruction"),
    (RDNA3, "s_branch 1; v_mov_b32 v20, 0x12345", "branch at 0x.* to 0x.*: not an instruction"),
]


@pytest.mark.parametrize(("arch", "text", "message"), REFUSED, ids=[case[1].replace(" ", "_") for case in REFUSED])
def test_what_is_refused(arch: str, text: str, message: str) -> None:
    """By name and place, when the kernel is asked for."""
    device, function = Gpu(kernel(arch, "refused", text), arch), ctypes.c_void_p()
    assert device.api.hipModuleGetFunction(ctypes.byref(function), device.module, b"refused") == 200
    assert re.search(message, device.api.hipGetErrorString(200).decode())


# (arch, assembly, class of its last instruction)
CLASSES = [
    (RDNA3, "s_mov_b32 s20, 1", "salu"),
    (RDNA3, "s_branch 1f; 1:", "branch"),
    (RDNA3, "s_cmp_eq_u32 0, 0; s_cbranch_scc1 1f; 1:", "branch"),
    (RDNA3, "s_call_b64 s[20:21], 1f; 1:", "branch"),
    (RDNA3, "v_mov_b32 v20, 1", "valu"),
    (RDNA3, "v_dual_mov_b32 v20, v11 :: v_dual_mov_b32 v21, v10", "valu"),
    (RDNA3, "v_dot4_u32_u8 v20, v10, v11, v12", "dot"),
    (RDNA3, "v_dual_mov_b32 v20, v11 :: v_dual_dot2acc_f32_f16 v21, v10, v12", "dot"),
    (CDNA, "v_mfma_f32_4x4x1f32 v[20:23], v10, v11, v[20:23]", "matrix"),
]


@pytest.mark.parametrize(("arch", "text", "kind"), CLASSES, ids=[case[1].replace(" ", "_") for case in CLASSES])
def test_classes_of_instructions(arch: str, text: str, kind: str) -> None:
    """One more of its class than the kernel has without it; what stands before it is of the scalar ALU."""
    counts = []
    for name, body in (("without", "s_nop 0"), ("with_it", text)):
        device = Gpu(kernel(arch, name, body), arch)
        device.run(name, 1, 1, np.zeros(1, np.uint64), *(np.zeros(1, np.uint32) for _ in range(3)))
        counts.append(device.api.counters()[name].instructions)
    more = {name: counts[1][name] - counts[0][name] for name in counts[0] if counts[1][name] != counts[0][name]}
    assert more.pop(kind) == 1
    assert more in ({}, {"salu": 1})
