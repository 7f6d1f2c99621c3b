"""Dot and packed instructions, approximate functions, and exchange between lanes, against NumPy."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

from rocmforge.tests.emulator.gpu_build import Gpu
from rocmforge.tests.emulator.operation_cases import within_ulp

ARCHES = ["gfx1100", "gfx1201", "gfx942"]
RDNA = ["gfx1100", "gfx1201"]
N = 256
Oracle = Callable[..., Any]


def bytes_of(a: np.ndarray, dtype: type) -> Any:
    return a.view(dtype).reshape(len(a), -1).astype(np.int64)


def dot(signed_a: bool, signed_b: bool) -> Oracle:
    def oracle(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> Any:
        x = bytes_of(a, np.int8 if signed_a else np.uint8)
        y = bytes_of(b, np.int8 if signed_b else np.uint8)
        return ((x * y).sum(1) + c.view(np.int32)).astype(np.int64).astype(np.uint32)

    return oracle


def saturated(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> Any:
    total = (bytes_of(a, np.int8) * bytes_of(b, np.int8)).sum(1) + c.view(np.int32)
    return np.clip(total, -(2**31), 2**31 - 1).astype(np.int32).view(np.uint32)


def nibbles(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> Any:
    parts = [(x[:, None] >> np.arange(0, 32, 4, dtype=np.uint32) & 15).astype(np.int64) for x in (a, b)]
    return ((parts[0] * parts[1]).sum(1) + c).astype(np.uint32)


def byte_permute(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> Any:
    """Bytes 0-3 are b's, 4-7 a's; 12 gives 0 and 13 up gives 255."""
    table = np.zeros((len(a), 16), np.uint8)
    table[:, :4], table[:, 4:8], table[:, 13:] = b.view(np.uint8).reshape(-1, 4), a.view(np.uint8).reshape(-1, 4), 255
    chosen = np.array([0, 5, 12, 13], np.uint8)[None, :].repeat(len(a), 0)
    return np.take_along_axis(table, chosen, 1).copy().view(np.uint32).ravel() + (c & 0)


def halves(operation: Oracle, dtype: type) -> Oracle:
    """The same on both 16-bit halves."""
    return lambda *arrays: operation(*(a.view(dtype) for a in arrays)).astype(dtype).copy().view(np.uint32)


def masked_half(a: np.ndarray, mask: int) -> np.ndarray:
    return (a.view(np.uint16) & mask).view(np.float16)


def dot2(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> Any:
    x, y = (v.view(np.float16).reshape(-1, 2).astype(np.float32) for v in (a, b))
    total: np.ndarray = (x[:, 0] * y[:, 0] + c.view(np.float32)).astype(np.float32)
    return (total + x[:, 1] * y[:, 1]).astype(np.float32).view(np.uint32)


V2 = "typedef {0} v2{0} __attribute__((ext_vector_type(2)));"
PACKED = "__builtin_bit_cast(u32, __builtin_bit_cast(v2{0}, a) {1} __builtin_bit_cast(v2{0}, b))"
# name: (arches, expression of u32 a, b, c, oracle)
CASES: dict[str, tuple[list[str], str, Oracle]] = {
    "sudot4_ss": (RDNA, "__builtin_amdgcn_sudot4(true, a, true, b, c, false)", dot(True, True)),
    "sudot4_su": (RDNA, "__builtin_amdgcn_sudot4(true, a, false, b, c, false)", dot(True, False)),
    "sudot4_us": (RDNA, "__builtin_amdgcn_sudot4(false, a, true, b, c, false)", dot(False, True)),
    "sudot4_clamp": (RDNA, "__builtin_amdgcn_sudot4(true, a, true, b, c, true)", saturated),
    "sdot4": (["gfx942"], "__builtin_amdgcn_sdot4(a, b, c, false)", dot(True, True)),
    "udot4": (ARCHES, "__builtin_amdgcn_udot4(a, b, c, false)", dot(False, False)),
    "udot8": (ARCHES, "__builtin_amdgcn_udot8(a, b, c, false)", nibbles),
    "fdot2": (
        ARCHES,
        "AS(u32, __builtin_amdgcn_fdot2(HALVES(a), AS(v2f16, b & 0xbfffbfff), AS(float, c & 0x3fffffff), false))",
        lambda a, b, c: dot2(a & 0x3FFF3FFF, b & 0xBFFFBFFF, c & 0x3FFFFFFF),
    ),
    "perm": (ARCHES, "__builtin_amdgcn_perm(a, b, 0x0d0c0500) + (c & 0)", byte_permute),
    "pk_add_u16": (ARCHES, PACKED.format("u16", "+"), halves(lambda a, b, c: a + b, np.uint16)),
    "pk_mul_u16": (ARCHES, PACKED.format("u16", "*"), halves(lambda a, b, c: a * b, np.uint16)),
    "pk_sub_i16": (ARCHES, PACKED.format("i16", "-"), halves(lambda a, b, c: a - b, np.int16)),
    "pk_max_i16": (
        ARCHES,
        "AS(u32, __builtin_elementwise_max(AS(v2i16, a), AS(v2i16, b)))",
        halves(lambda a, b, c: np.maximum(a, b), np.int16),
    ),
    "pk_shl": (
        ARCHES,
        "AS(u32, AS(v2u16, a) << (AS(v2u16, b) & (u16)15))",
        halves(lambda a, b, c: a << (b & 15), np.uint16),
    ),
    "pk_add_f16": (
        ARCHES,
        "AS(u32, HALVES(a) + AS(v2f16, b & 0xbfffbfff))",
        halves(lambda a, b, c: masked_half(a, 0x3FFF) + masked_half(b, 0xBFFF), np.float16),
    ),
    "pk_swap_halves": (
        ARCHES,
        "AS(u32, AS(v2u16, a) + AS(v2u16, b).yx)",
        lambda a, b, c: halves(lambda x, y: x + y, np.uint16)(a, (b << 16 | b >> 16)),
    ),
    "cvt_pkrtz": (
        ARCHES,
        "AS(u32, __builtin_amdgcn_cvt_pkrtz(SMALL(a & 0x3fffffff), SMALL(b & 0xbfffffff)))",
        lambda a, b, c: toward_zero(a & 0x3FFFFFFF | 0x30000000) | toward_zero(b & 0xBFFFFFFF | 0x30000000) << 16,
    ),
    "mix": (
        ARCHES,
        "AS(u32, __builtin_fmaf((float)HALVES(a).y, (float)HALVES(b).x, AS(float, c & 0x3fffffff)))",
        lambda a, b, c: (
            ((a & 0x3FFF3FFF) >> 16).astype(np.uint16).view(np.float16).astype(np.float64)
            * (b & 0x3FFF).astype(np.uint16).view(np.float16).astype(np.float64)
            + (c & 0x3FFFFFFF).view(np.float32)
        ).astype(np.float32).view(np.uint32),
    ),
}  # fmt: skip


def toward_zero(bits: np.ndarray) -> np.ndarray:
    """Float32 bits to float16 bits, rounded toward zero."""
    value = bits.view(np.float32)
    near = value.astype(np.float16)
    away = np.abs(near.astype(np.float32)) > np.abs(value)
    return (near.view(np.uint16) - away).astype(np.uint32)


def prefix_bits(mask: int, wave: int) -> np.ndarray:
    return np.array([(mask & ((1 << lane) - 1)).bit_count() for lane in range(wave)], np.uint32)


def shifted_rows(a: np.ndarray, n: int, fill: int) -> np.ndarray:
    rows = a.reshape(-1, 16)
    return np.concatenate([np.full((len(rows), n), fill, np.uint32), rows[:, :-n]], 1).reshape(a.shape)


def masked_rows(a: np.ndarray, wave: int) -> np.ndarray:
    """Rows 0 and 2, banks (groups of 4 lanes) 1 and 2 take the mirrored row; others keep 7."""
    lane = np.arange(wave)
    taken = (0x5 >> lane // 16 & 1) & (0x6 >> lane % 16 // 4 & 1)
    return np.where(taken, a.reshape(-1, 16)[:, ::-1].reshape(a.shape), np.uint32(7))


def broadcast15(a: np.ndarray) -> np.ndarray:
    result = np.full_like(a, 7)
    for row in range(1, a.shape[1] // 16):
        result[:, 16 * row : 16 * row + 16] = a[:, 16 * row - 1 : 16 * row]
    return result


# name: (arches, expression over u32 a and lane, oracle of (a[waves, W], W))
CROSS: dict[str, tuple[list[str], str, Callable[[np.ndarray, int], np.ndarray]]] = {
    "row_shr": (ARCHES, "__builtin_amdgcn_update_dpp(7, a, 0x113, 0xf, 0xf, false)",
                lambda a, w: shifted_rows(a, 3, 7)),
    "row_shr_zero": (ARCHES, "__builtin_amdgcn_update_dpp(7, a, 0x113, 0xf, 0xf, true)",
                     lambda a, w: shifted_rows(a, 3, 0)),
    "row_shl": (ARCHES, "__builtin_amdgcn_update_dpp(7, a, 0x102, 0xf, 0xf, false)",
                lambda a, w: shifted_rows(a[:, ::-1], 2, 7)[:, ::-1]),
    "row_ror": (ARCHES, "__builtin_amdgcn_mov_dpp(a, 0x125, 0xf, 0xf, true)",
                lambda a, w: np.roll(a.reshape(-1, 16), 5, 1).reshape(a.shape)),
    "quad_perm": (ARCHES, "__builtin_amdgcn_mov_dpp(a, 0x1b, 0xf, 0xf, true)",
                  lambda a, w: a.reshape(-1, 4)[:, ::-1].reshape(a.shape)),
    "row_mirror": (ARCHES, "__builtin_amdgcn_mov_dpp(a, 0x140, 0xf, 0xf, true)",
                   lambda a, w: a.reshape(-1, 16)[:, ::-1].reshape(a.shape)),
    "half_mirror": (ARCHES, "__builtin_amdgcn_mov_dpp(a, 0x141, 0xf, 0xf, true)",
                    lambda a, w: a.reshape(-1, 8)[:, ::-1].reshape(a.shape)),
    "bank_mask": (ARCHES, "__builtin_amdgcn_update_dpp(7, a, 0x140, 0x5, 0x6, false)", masked_rows),
    "row_bcast15": (["gfx942"], "__builtin_amdgcn_update_dpp(7, a, 0x142, 0xf, 0xf, false)",
                    lambda a, w: broadcast15(a)),
    "row_share": (RDNA, "__builtin_amdgcn_mov_dpp(a, 0x153, 0xf, 0xf, true)",
                  lambda a, w: a.reshape(-1, 16)[:, [3] * 16].reshape(a.shape)),
    "row_xmask": (RDNA, "__builtin_amdgcn_mov_dpp(a, 0x165, 0xf, 0xf, true)",
                  lambda a, w: a.reshape(-1, 16)[:, np.arange(16) ^ 5].reshape(a.shape)),
    "dpp8": (RDNA, "__builtin_amdgcn_mov_dpp8(a, 0x53977)",
             lambda a, w: a.reshape(-1, 8)[:, [0x53977 >> 3 * i & 7 for i in range(8)]].reshape(a.shape)),
    "dpp_add": (ARCHES, "a + (u32)__builtin_amdgcn_mov_dpp(a, 0xb1, 0xf, 0xf, true)",
                lambda a, w: a + a[:, np.arange(w) ^ 1]),
    "permlane16": (RDNA, "__builtin_amdgcn_permlane16(a, a, 0x76543210, 0xfedcba98, false, false)", lambda a, w: a),
    "permlanex16": (RDNA, "__builtin_amdgcn_permlanex16(a, a, 0x89abcdef, 0x01234567, false, false)",
                    lambda a, w: a.reshape(-1, 2, 16)[:, ::-1, ::-1].reshape(a.shape)),
    "bpermute": (ARCHES, "__builtin_amdgcn_ds_bpermute(((lane * 5 + 3) & (W - 1)) << 2, a)",
                 lambda a, w: a[:, (np.arange(w) * 5 + 3) % w]),
    "permute": (ARCHES, "__builtin_amdgcn_ds_permute(((lane * 5 + 3) & (W - 1)) << 2, a)",
                lambda a, w: a[:, np.argsort((np.arange(w) * 5 + 3) % w)]),
    "swizzle_xor": (ARCHES, "__builtin_amdgcn_ds_swizzle(a, 0x1c1f)", lambda a, w: a[:, np.arange(w) ^ 7]),
    "swizzle_quad": (ARCHES, "__builtin_amdgcn_ds_swizzle(a, 0x80b1)", lambda a, w: a[:, np.arange(w) ^ 1]),
    "readlane": (ARCHES, "__builtin_amdgcn_readlane(a, 19)", lambda a, w: a[:, [19] * w]),
    "readfirstlane": (ARCHES, "lane < 5 ? 1u : (u32)__builtin_amdgcn_readfirstlane(a)",
                      lambda a, w: np.where(np.arange(w) < 5, np.uint32(1), a[:, 5:6])),
    "mbcnt": (ARCHES, "__builtin_amdgcn_mbcnt_hi(0xffff0000u, __builtin_amdgcn_mbcnt_lo(0x5555ffffu, a))",
              lambda a, w: a + prefix_bits(0xFFFF00005555FFFF, w)),
    "ballot": (ARCHES, "(u32)BALLOT(a & 1)",
               lambda a, w: np.packbits((a & 1).astype(np.uint8), axis=1, bitorder="little").copy()
               .view(np.uint32)[:, :1].repeat(w, 1)),
}  # fmt: skip


def source(arch: str) -> str:
    wave = 64 if arch == "gfx942" else 32
    parts = [V2.format("f16"), V2.format("u16"), V2.format("i16"), "#define AS __builtin_bit_cast", f"#define W {wave}"]
    parts.append("#define HALVES(x) AS(v2f16, x & 0x3fff3fff)\n#define SMALL(x) AS(float, x | 0x30000000)")
    parts.append(f"#define BALLOT __builtin_amdgcn_ballot_w{wave}")
    for name, (arches, expression, _) in CASES.items():
        if arch in arches:
            loads = "u32 a = pa[GLOBAL], b = pb[GLOBAL], c = pc[GLOBAL];"
            arguments = "u32 *out, const u32 *pa, const u32 *pb, const u32 *pc"
            parts.append(f"KERNEL {name}({arguments}) {{ {loads} out[GLOBAL] = {expression}; }}")
    for name, (arches, expression, _) in CROSS.items():
        if arch in arches:
            body = f"u32 a = pa[GLOBAL], lane = THREAD & (W - 1); out[GLOBAL] = {expression};"
            parts.append(f"KERNEL {name}(u32 *out, const u32 *pa) {{ {body} }}")
    for name in APPROXIMATE:
        body = f"out[GLOBAL] = __builtin_amdgcn_{APPROXIMATE[name][0]}(pa[GLOBAL]);"
        parts.append(f"KERNEL {name}(float *out, const float *pa) {{ {body} }}")
    return "\n".join(parts)


# name: (builtin, oracle in double)
APPROXIMATE: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "exp2": ("exp2f", np.exp2),
    "log2": ("logf", np.log2),
    "rcp": ("rcpf", lambda x: 1 / x),
    "rsq": ("rsqf", lambda x: 1 / np.sqrt(x)),
    "sqrt": ("sqrtf", np.sqrt),
    "sin": ("sinf", lambda x: np.sin(2 * np.pi * x)),
}


@cache
def gpu(arch: str) -> Gpu:
    return Gpu(source(arch), arch)


@pytest.mark.parametrize(("name", "arch"), [(n, a) for n, case in CASES.items() for a in case[0]])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_dot_and_packed(name: str, arch: str) -> None:
    rng = np.random.default_rng(3)
    arrays = [rng.integers(0, 2**32, N, dtype=np.uint32) for _ in range(3)]
    arrays[2][:8] = [2**31 - 1, 2**31, 2**32 - 1, 0, 1, 2, 3, 4]
    out = np.zeros(N, np.uint32)
    gpu(arch).run(name, N // 128, 128, out, *arrays)
    assert out.tolist() == CASES[name][2](*arrays).tolist()


@pytest.mark.parametrize(("name", "arch"), [(n, a) for n, case in CROSS.items() for a in case[0]])
def test_exchange_between_lanes(name: str, arch: str) -> None:
    wave = 64 if arch == "gfx942" else 32
    a = np.random.default_rng(4).integers(0, 2**32, N, dtype=np.uint32)
    out = np.zeros(N, np.uint32)
    gpu(arch).run(name, 2, N // 2, out, a)
    assert out.tolist() == CROSS[name][2](a.reshape(-1, wave), wave).ravel().tolist()


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("name", list(APPROXIMATE))
def test_approximate_functions(name: str, arch: str) -> None:
    """The emulator rounds a double result: half a unit in the last place, and the double function's own error. Of
    reciprocals and roots half are off by a unit, as the hardware's may be."""
    x = np.random.default_rng(5).uniform(0.01, 30, N).astype(np.float32)
    out = np.zeros(N, np.float32)
    gpu(arch).run(name, 2, N // 2, out, x)
    want = APPROXIMATE[name][1](x.astype(np.float64))
    if name in ("rcp", "rsq", "sqrt"):
        assert 0.4 < np.mean(out != want.astype(np.float32)) < 0.6
        oracle = within_ulp(lambda one: APPROXIMATE[name][1](np.asarray(one, np.float64)))
        assert out.tolist() == [oracle(one) for one in x]
    else:
        # Sine near its zeros: the argument's reduction is exact, the product with 2 pi is good to 2**-52 of up to 2 pi.
        slack = 2e-15 if name == "sin" else 0
        assert (np.abs(out - want) <= 0.5001 * np.spacing(np.abs(want).astype(np.float32)) + slack).all()
    special = np.array([0, np.inf, 1, 1e-40] * 32, np.float32)
    results = np.zeros(128, np.float32)
    gpu(arch).run(name, 1, 128, results, special)
    expected = {"exp2": [1, np.inf, 2, 1], "log2": [-np.inf, np.inf, 0, -np.inf], "rcp": [np.inf, 0, 1, np.inf],
                "rsq": [np.inf, 0, 1, np.inf], "sqrt": [0, np.inf, 1, 0], "sin": [0, np.nan, 0, 0]}[name]  # fmt: skip
    assert np.array_equal(results[:4], np.array(expected, np.float32), equal_nan=True)
