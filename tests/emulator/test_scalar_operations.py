"""Every operation of the scalar ALU that compilers seldom pick, one by one in assembly."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from rocmforge.tests.emulator.gpu_build import Gpu
from rocmforge.tests.emulator.operation_cases import (
    CLOBBERS,
    COMPARES,
    FLOATING,
    LAST,
    NEW,
    OLD,
    TYPES,
    Oracle,
    clamped,
    flushed,
    fmax,
    fmin,
    inputs,
    leading_signs,
    maximum,
    minimum,
    s8,
    same,
    wide,
    within_ulp,
)

# The scalar ALU: (arch, assembly, types, oracle). It gives the result and SCC, or the result alone where SCC stays.
# d, a, b, c are s[26:27], s[20:21], s[22:23] and s[24:25]; SCC is the lowest bit of c before.
S: list[tuple[str, str, str, Oracle]] = []
G = 64  # groups, of one wave each


def scalar(arch: str, types: str, cases: dict[str, Oracle]) -> None:
    letters = ", ".join("dab"[: len(types.split())])
    S.extend((arch, f"{name} {letters}", types, oracle) for name, oracle in cases.items())


def nonzero(operation: Oracle, bits: int = 32) -> Oracle:
    """SCC tells whether the result is not zero."""

    def both(*args: int) -> tuple[int, bool]:
        value = operation(*args) & ((1 << bits) - 1)
        return value, value != 0

    return both


def field(x: int, control: int, width: int, signed_: bool) -> int:
    offset, n = control & (width - 1), min(control >> 16 & 127, width)
    part = x >> offset & ((1 << n) - 1)
    return s8(part, n) if signed_ and n else part


def quads(x: int, bits: int) -> int:
    return sum(15 << i for i in range(0, bits, 4) if x >> i & 15)


for BITS in (32, 64):
    FULL = (1 << BITS) - 1
    T, SIGNED, B = f"u{BITS}", f"i{BITS}", f"b{BITS}"
    scalar(OLD, f"{T} {T} {T}", {f"s_{name}_{B}": nonzero(oracle, BITS) for name, oracle in {
        "and": lambda a, b: a & b, "or": lambda a, b: a | b, "xor": lambda a, b: a ^ b, "nand": lambda a, b: ~(a & b),
        "nor": lambda a, b: ~(a | b), "xnor": lambda a, b: ~(a ^ b), "andn2": lambda a, b: a & ~b,
        "orn2": lambda a, b: a | ~b,
    }.items()})  # fmt: skip
    scalar(OLD, f"{T} {T} u32", {
        f"s_lshl_{B}": nonzero(lambda a, b, w=BITS: a << (b & (w - 1)), BITS),
        f"s_lshr_{B}": nonzero(lambda a, b, w=BITS: a >> (b & (w - 1)), BITS),
        f"s_bfe_u{BITS}": nonzero(lambda a, b, w=BITS: field(a, b, w, False), BITS),
    })  # fmt: skip
    scalar(OLD, f"{SIGNED} {SIGNED} u32", {
        f"s_ashr_{SIGNED}": nonzero(lambda a, b, w=BITS: a >> (b & (w - 1)), BITS),
        f"s_bfe_{SIGNED}": nonzero(lambda a, b, w=BITS: field(a, b, w, True), BITS),
    })  # fmt: skip
    scalar(OLD, f"{T} {T}", {
        f"s_not_{B}": nonzero(lambda a: ~a, BITS), f"s_wqm_{B}": nonzero(lambda a, w=BITS: quads(a, w), BITS),
        f"s_brev_{B}": lambda a, w=BITS: int(f"{a:0{w}b}"[::-1], 2),
    })  # fmt: skip
    scalar(OLD, f"i32 {T}", {
        f"s_bcnt0_i32_{B}": nonzero(lambda a, w=BITS: w - a.bit_count()),
        f"s_bcnt1_i32_{B}": nonzero(lambda a: a.bit_count()),
        f"s_ff1_i32_{B}": lambda a: (a & -a).bit_length() - 1,
        f"s_flbit_i32_{B}": lambda a, w=BITS: w - a.bit_length() if a else -1,
        f"s_flbit_i32{'_i64' if BITS == 64 else ''}": lambda a, w=BITS: leading_signs(a, w),
    })  # fmt: skip
    scalar(OLD, f"{T} u32 u32", {f"s_bfm_{B}": lambda a, b, w=BITS: ((1 << (a & (w - 1))) - 1) << (b & (w - 1))})
    S.extend((OLD, text.format(B), types, oracle) for text, types, oracle in (
        ("s_cselect_{} d, a, b", f"{T} {T} {T}", lambda a, b, c: a if c & 1 else b),
        ("s_mov_{0} d, a; s_cmov_{0} d, b", f"{T} {T} {T}", lambda a, b, c: b if c & 1 else a),
        ("s_mov_{0} d, a; s_bitset0_{0} d, b", f"{T} {T} u32", lambda a, b, c, w=BITS: a & ~(1 << (b & (w - 1)))),
        ("s_mov_{0} d, a; s_bitset1_{0} d, b", f"{T} {T} u32", lambda a, b, c, w=BITS: a | 1 << (b & (w - 1))),
        ("s_bitcmp0_{} a, b", f"u32 {T} u32", lambda a, b, c, w=BITS: (0, not a >> (b & (w - 1)) & 1)),
        ("s_bitcmp1_{} a, b", f"u32 {T} u32", lambda a, b, c, w=BITS: (0, a >> (b & (w - 1)) & 1)),
    ))  # fmt: skip
for NAME, ORACLE in (COMPARES | {"lg": lambda a, b: a != b}).items():
    if NAME == "f":
        continue
    for T in ("i32", "u32", *(("u64",) if NAME in ("eq", "lg") else ())):
        S.append((OLD, f"s_cmp_{NAME}_{T} a, b", f"u32 {T} {T}", lambda a, b, c, o=ORACLE: (0, o(a, b))))
for NAME, ORACLE in FLOATING.items():
    if NAME not in ("f", "tru"):
        S.append((LAST, f"s_cmp_{NAME}_f32 a, b", "u32 f32 f32", lambda a, b, c, o=ORACLE: (0, o(a, b))))
scalar(OLD, "i32 i32", {"s_abs_i32": nonzero(abs), "s_sext_i32_i8": s8, "s_sext_i32_i16": lambda a: s8(a, 16)})
scalar(OLD, "u32 u32", {"s_quadmask_b32": nonzero(lambda a: sum(bool(a >> 4 * i & 15) << i for i in range(8)))})
scalar(OLD, "u64 u32", {"s_bitreplicate_b64_b32": lambda a: sum((a >> i & 1) * 3 << 2 * i for i in range(32))})
scalar(OLD, "u32 u32 u32", {
    "s_add_u32": lambda a, b: (a + b, a + b > 0xFFFFFFFF), "s_sub_u32": lambda a, b: (a - b, a < b),
    "s_min_u32": lambda a, b: (min(a, b), a < b), "s_max_u32": lambda a, b: (max(a, b), a >= b),
    "s_mul_hi_u32": lambda a, b: a * b >> 32, "s_mul_i32": lambda a, b: a * b,
    **{f"s_lshl{n}_add_u32": lambda a, b, n=n: ((a << n) + b, (a << n) + b > 0xFFFFFFFF) for n in (1, 2, 3, 4)},
    "s_pack_ll_b32_b16": lambda a, b: a & 0xFFFF | b << 16,
    "s_pack_lh_b32_b16": lambda a, b: a & 0xFFFF | b >> 16 << 16,
    "s_pack_hh_b32_b16": lambda a, b: a >> 16 | b >> 16 << 16,
})  # fmt: skip
scalar(OLD, "i32 i32 i32", {
    "s_add_i32": lambda a, b: (a + b, not -(2**31) <= a + b < 2**31), "s_mul_hi_i32": lambda a, b: a * b >> 32,
    "s_sub_i32": lambda a, b: (a - b, not -(2**31) <= a - b < 2**31), "s_absdiff_i32": nonzero(lambda a, b: abs(a - b)),
    "s_min_i32": lambda a, b: (min(a, b), a < b), "s_max_i32": lambda a, b: (max(a, b), a >= b),
})  # fmt: skip
S.extend((OLD, f"{name} d, a, b", "u32 u32 u32", oracle) for name, oracle in {
    "s_addc_u32": lambda a, b, c: (a + b + (c & 1), a + b + (c & 1) > 0xFFFFFFFF),
    "s_subb_u32": lambda a, b, c: (a - b - (c & 1), a < b + (c & 1)),
}.items())  # fmt: skip
scalar(LAST, "u64 u64 u64", {
    "s_add_nc_u64": lambda a, b: a + b, "s_sub_nc_u64": lambda a, b: a - b, "s_mul_u64": lambda a, b: a * b,
})  # fmt: skip
scalar(LAST, "f32 f32", {
    "s_ceil_f32": np.ceil, "s_floor_f32": np.floor, "s_trunc_f32": np.trunc, "s_rndne_f32": np.rint,
    "v_s_rcp_f32": within_ulp(lambda x: 1 / x), "v_s_sqrt_f32": within_ulp(np.sqrt),
    "v_s_rsq_f32": within_ulp(lambda x: 1 / np.sqrt(np.float64(x))),
    "v_s_exp_f32": lambda x: flushed(np.float32(np.exp2(np.float64(flushed(x))))),
    "v_s_log_f32": lambda x: np.float32(np.log2(np.float64(flushed(x)))),
})  # fmt: skip
scalar(LAST, "f32 f32 f32", {
    "s_add_f32": lambda a, b: a + b, "s_sub_f32": lambda a, b: a - b, "s_mul_f32": lambda a, b: a * b,
    "s_min_num_f32": fmin, "s_max_num_f32": fmax, "s_minimum_f32": minimum, "s_maximum_f32": maximum,
})  # fmt: skip
scalar(LAST, "f32 i32", {"s_cvt_f32_i32": np.float32})
scalar(LAST, "f32 u32", {
    "s_cvt_f32_u32": np.float32,
    "s_cvt_f32_f16": lambda a: np.float32(np.array([a & 0xFFFF], np.uint16).view(np.float16)[0]),
    "s_cvt_hi_f32_f16": lambda a: np.float32(np.array([a >> 16], np.uint16).view(np.float16)[0]),
})  # fmt: skip
scalar(LAST, "u32 f32", {"s_cvt_u32_f32": lambda x: clamped(x, 0, 2**32 - 1)})
scalar(LAST, "i32 f32", {"s_cvt_i32_f32": lambda x: clamped(x, -(2**31), 2**31 - 1)})
scalar(LAST, "f16 f32", {"s_cvt_f16_f32": np.float16})
# What sets EXEC: b is what it was; the result is what it was, or (wrexec) what it becomes, and the new one is c.
UPDATES: dict[str, Oracle] = {
    "and": lambda a, e: a & e, "or": lambda a, e: a | e, "xor": lambda a, e: a ^ e, "nand": lambda a, e: ~(a & e),
    "nor": lambda a, e: ~(a | e), "xnor": lambda a, e: ~(a ^ e), "andn1": lambda a, e: ~a & e,
    "orn1": lambda a, e: ~a | e, "andn2": lambda a, e: a & ~e, "orn2": lambda a, e: a | ~e,
}  # fmt: skip


def updates(bits: int, operation: Oracle, writes: bool) -> Oracle:
    def both(a: int, e: int, _: int) -> tuple[int, bool, int]:
        new = operation(a, e) & ((1 << bits) - 1)
        return new if writes else e, new != 0, new & 0xFFFFFFFF

    return both


for ARCH, BITS, MASK in ((OLD, 64, "exec"), (NEW, 32, "exec_lo")):
    for NAME, ORACLE in UPDATES.items():
        SPELT = NAME if ARCH == OLD else NAME.replace("n1", "_not0").replace("n2", "_not1")
        for KIND, WRITES in (("saveexec", False), *((("wrexec", True),) if NAME in ("andn1", "andn2") else ())):
            S.append((ARCH, f"s_mov_b{BITS} {MASK}, b; s_{SPELT}_{KIND}_b{BITS} d, a; s_mov_b{BITS} c, {MASK}; "
                      f"s_mov_b{BITS} {MASK}, -1", f"u{BITS} u{BITS} u{BITS}",
                      updates(BITS, ORACLE, WRITES)))  # fmt: skip
SCALARS = {"d": 26, "a": 20, "b": 22, "c": 24}
WIDE_TEMPORARIES = '"s20", "s21", "s22", "s23", "s24", "s25", "s26", "s27", "s28", "scc"'


def scalar_text(text: str, types: str) -> str:
    widths = dict(zip("dab", types.split(), strict=False))
    widths["c"] = widths["d"]

    def register(word: str) -> str:
        letter = word.rstrip(",;")
        if letter not in SCALARS or letter not in widths:
            return word
        first = SCALARS[letter]
        return (f"s[{first}:{first + 1}]" if widths[letter].endswith("64") else f"s{first}") + word[len(letter) :]

    return "\\n".join(" ".join(register(word) for word in line.split()) for line in text.split(";"))


SCALAR_KERNEL = """KERNEL {0}(u32 *out, const u32 *pa, const u32 *pb, const u32 *pc) {{
  asm volatile("{1}" : : "v"(out + 4 * {2} * GROUP), "v"(pa[2 * GROUP]), "v"(pa[2 * GROUP + 1]), "v"(pb[2 * GROUP]),
    "v"(pb[2 * GROUP + 1]), "v"(pc[2 * GROUP]), "v"(pc[2 * GROUP + 1]) : {3}, {4});
}}
"""


@cache
def scalar_gpu(arch: str) -> Gpu:
    old = arch.startswith("gfx9")
    store = "global_store_dwordx4" if old else "global_store_b128"
    kernels = []
    for types in dict.fromkeys(case[2] for case in S if case[0] == arch):
        lines = []
        for index, case in enumerate([case for case in S if (case[0], case[2]) == (arch, types)]):
            reads = [f"v_readfirstlane_b32 s{20 + i}, %{1 + i}" for i in range(6)]
            after = [f"v_mov_b32 v{16 + i}, s{s}" for i, s in enumerate((26, 27, 28, 24))]
            lines += [
                *reads,
                "s_mov_b32 s26, 0",
                "s_mov_b32 s27, 0",
                "s_bitcmp1_b32 s24, 0",
                scalar_text(case[1], types),
            ]
            lines += ["s_cselect_b32 s28, 1, 0", *after, f"{store} %0, v[16:19], off offset:{16 * index}"]
        count = sum((case[0], case[2]) == (arch, types) for case in S)
        name = types.replace(" ", "_")
        kernels.append(SCALAR_KERNEL.format(name, "\\n".join(lines), count, CLOBBERS, WIDE_TEMPORARIES))
    return Gpu("".join(kernels), arch)


@cache
def scalars_found_by(arch: str, types: str) -> dict[str, np.ndarray]:
    """Result (64 bits), SCC and what c holds, by operation."""
    texts = [case[1] for case in S if (case[0], case[2]) == (arch, types)]
    given = [wide(inputs(kind, i + 1)[::2].copy()) for i, kind in enumerate(types.split()[1:])]
    given += [np.random.default_rng(7).integers(0, 2**32, G).astype(np.uint64)] * (3 - len(given))
    out = np.zeros((G, len(texts), 4), np.uint32)
    scalar_gpu(arch).run(types.replace(" ", "_"), G, 64 if arch == OLD else 32, out, *given)
    return {text: out[:, i].copy() for i, text in enumerate(texts)}


@pytest.mark.parametrize("index", range(len(S)), ids=[case[1].replace(" ", "_") for case in S])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_scalar_operation(index: int) -> None:
    arch, text, types, oracle = S[index]
    kinds = types.split()
    arrays = [inputs(kind, i + 1)[::2] for i, kind in enumerate(kinds[1:])]
    third = np.random.default_rng(7).integers(0, 2**32, G)
    rows = list(zip(*(a if k[0] == "f" else a.tolist() for a, k in zip(arrays, kinds[1:], strict=True)), strict=True))
    dtype = TYPES[kinds[0]]
    found = scalars_found_by(arch, types)[text]
    takes_all = (
        oracle.__code__.co_argcount - len(oracle.__defaults__ or ()) == 3 if hasattr(oracle, "__code__") else False
    )
    for row, c, words in zip(rows, third.tolist(), found, strict=True):
        given = oracle(*row, c) if takes_all else oracle(*row)
        value, scc, *rest = given if isinstance(given, tuple) else (given, c & 1)
        result = words[:2].copy().view(np.uint64).astype(f"u{dtype.itemsize}").view(dtype)
        mask = (1 << 8 * dtype.itemsize) - 1
        want = np.array([float(value)]).astype(dtype) if dtype.kind == "f" else result
        if dtype.kind != "f":
            want = np.array([int(value) & mask], np.uint64).astype(f"u{dtype.itemsize}").view(dtype)
        assert same(result, want).all(), (row, c, result, want)
        assert words[2] == bool(scc), (row, c)
        assert not rest or words[3] == rest[0], (row, c)
