"""Every memory operation in assembly, one by one, on a lane's own bytes: atomics, halves, offsets, two addresses."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from rocmforge.tests.emulator.gpu_build import Gpu
from rocmforge.tests.oracles.atomics import (
    ATOMIC,
    high,
    into,
    low,
    sext,
)

N = 64
FRESH = 0x5555AAAA5555AAAA  # what the result registers hold before
MASK = 2**64 - 1
# Of a lane: a, b and c are 64 bits each; results are v[20:21] and v[22:23] at the end.
Oracle = Callable[[int, int, int], tuple[int, int]]
CASES: list[tuple[str, str, str, Oracle]] = []  # (arch, kind of inputs, assembly, oracle)


def atomic(operation: str, bits: int, returns: bool) -> Oracle:
    def oracle(a: int, b: int, c: int) -> tuple[int, int]:
        mask = (1 << bits) - 1
        second = c if bits == 64 else high(b)
        after = ATOMIC[operation](a & mask, b & mask, second & mask, bits) & mask
        return into(FRESH, a, bits) if returns else FRESH, into(a, after, bits)

    return oracle


def register(name: str, bits: int) -> str:
    first = {"a": 10, "b": 12, "c": 14, "d": 20, "e": 22}[name]
    return f"v[{first}:{first + 1}]" if bits == 64 else f"v{first}"


def lds_atomic(arch: str, name: str, operation: str, bits: int, kind: str = "int", returns: bool = True) -> None:
    second = {"cmpswap", "mskor"} & {operation}
    x, y = register("b", bits), register("c", 64) if bits == 64 else "v13"
    data = [x, y] if second else [x]
    if arch == "gfx942" and operation == "cmpswap":
        data.reverse()  # there the value compared with comes first
    stem, _, suffix = name.rpartition("_")
    for rtn in (True, False) if returns else (True,):
        text = f"ds_{stem}_rtn_{suffix} {register('d', bits)}, v18, " if rtn else f"ds_{name} v18, "
        text += ", ".join(data) + " offset:8"
        store, load = ("write", "read") if arch == "gfx942" else ("store", "load")
        CASES.append(
            (
                arch,
                kind,
                f"ds_{store}_b64 v18, v[10:11] offset:8; {text}; ds_{load}_b64 v[22:23], v18 offset:8",
                atomic(operation, bits, rtn),
            )
        )


def global_atomic(arch: str, name: str, operation: str, bits: int, kind: str = "int", segment: str = "global") -> None:
    wide = {"cmpswap": {32: "v[12:13]", 64: "v[12:15]"}}.get(operation, {})
    data = wide.get(bits, register("b", bits))
    returned = {"gfx942": "sc0", "gfx1100": "glc", "gfx1201": "th:TH_ATOMIC_RETURN"}[arch]
    off = ", off" if segment == "global" else ""
    size = "dwordx2" if arch == "gfx942" else "b64"
    for rtn in (True,) if operation == "sub_clamp" else (True, False):
        text = f"{segment}_atomic_{name} " + (f"{register('d', bits)}, " if rtn else "")
        text += f"v[16:17], {data}{off}" + (f" {returned}" if rtn else "")
        CASES.append(
            (
                arch,
                kind,
                f"{segment}_store_{size} v[16:17], v[10:11]{off}; {text}; "
                f"{segment}_load_{size} v[22:23], v[16:17]{off}",
                atomic(operation, bits, rtn),
            )
        )


for _bits in (32, 64):
    _names = {f"{n}_u{_bits}": n for n in ("add", "sub", "inc", "dec")}
    _names |= {f"{n}_{k}{_bits}": f"{n}_{k}" for n in ("min", "max") for k in "iu"}
    _names |= {f"{n}_b{_bits}": n for n in ("and", "or", "xor")}
    for _name, _operation in (_names | {f"rsub_u{_bits}": "rsub", f"mskor_b{_bits}": "mskor"}).items():
        lds_atomic("gfx1100", _name, _operation, _bits)
        lds_atomic("gfx942", _name, _operation, _bits)
    for _name, _operation in (_names | {f"swap_b{_bits}": "swap", f"cmpswap_b{_bits}": "cmpswap"}).items():
        global_atomic("gfx1100", _name, _operation, _bits)
        if _operation in ("add", "cmpswap", "max_i"):
            global_atomic("gfx1100", _name, _operation, _bits, segment="flat")
            global_atomic("gfx1201", _name, _operation, _bits)
    _old = {"add": "add", "sub": "sub", "inc": "inc", "dec": "dec", "smin": "min_i", "umin": "min_u", "smax": "max_i"}
    _old |= {"umax": "max_u", "and": "and", "or": "or", "xor": "xor", "swap": "swap", "cmpswap": "cmpswap"}
    for _name, _operation in _old.items():
        global_atomic("gfx942", _name + ("_x2" if _bits == 64 else ""), _operation, _bits)
    lds_atomic("gfx1100", f"storexchg_b{_bits}", "swap", _bits, returns=False)
    lds_atomic("gfx1100", f"cmpstore_b{_bits}", "cmpswap", _bits)
    lds_atomic("gfx942", f"wrxchg_b{_bits}", "swap", _bits, returns=False)
    lds_atomic("gfx942", f"cmpst_b{_bits}", "cmpswap", _bits)
    for _name in ("min", "max"):
        lds_atomic("gfx1100", f"{_name}_f{_bits}", f"{_name}_f", _bits, f"f{_bits}")
        lds_atomic("gfx942", f"{_name}_f{_bits}", f"{_name}_f", _bits, f"f{_bits}")
    lds_atomic("gfx942", f"add_f{_bits}", "add_f", _bits, f"f{_bits}")
    global_atomic("gfx942", f"add_f{_bits}", "add_f", _bits, f"f{_bits}")
lds_atomic("gfx1100", "add_f32", "add_f", 32, "f32")
for _name in ("add", "min", "max"):
    global_atomic("gfx1100", f"{_name}_f32", f"{_name}_f", 32, "f32")
    if _name != "add":
        global_atomic("gfx942", f"{_name}_f64", f"{_name}_f", 64, "f64")
global_atomic("gfx1100", "csub_u32", "sub_clamp", 32)
global_atomic("gfx1201", "sub_clamp_u32", "sub_clamp", 32)
lds_atomic("gfx1201", "sub_clamp_u32", "sub_clamp", 32)
global_atomic("gfx1201", "cond_sub_u32", "cond_sub", 32)
lds_atomic("gfx1201", "cond_sub_u32", "cond_sub", 32)
for _arch in ("gfx942", "gfx1201"):
    for _name, _kind in (("pk_add_f16", "f16"), ("pk_add_bf16", "bf16")):
        global_atomic(_arch, _name, _name, 32, _kind)
        lds_atomic(_arch, _name, _name, 32, _kind)


# Loads and stores: of which bytes of memory, whose 16 bytes are a and b, and into which part of the register.
def loads(arch: str, prefix: str, names: dict[str, Callable[[int], int]]) -> None:
    """The second word of memory is read: b's low one. `prefix` stores a and b, and ends with how a load begins."""
    for name, result in names.items():
        first, _, rest = prefix.rpartition("; ")
        text = f"{first}; {rest.format(name=name)}"

        def oracle(a: int, b: int, c: int, result: Callable[[int], int] = result) -> tuple[int, int]:
            return result(b), FRESH

        CASES.append((arch, "int", text, oracle))


def part(bits: int, signed: bool = False, at: int | None = None) -> Callable[[int], int]:
    """What v[20:21] holds: a whole word, or a half of it with the rest kept."""

    def result(b: int) -> int:
        value = sext(b, bits) if signed else b & ((1 << bits) - 1)
        if at is None:
            return into(FRESH, value, max(bits, 32))
        return FRESH & ~(0xFFFF << at) | (value & 0xFFFF) << at

    return result


NEW_LOADS = {
    "load_u8 v20": part(8),
    "load_i8 v20": part(8, True),
    "load_u16 v20": part(16),
    "load_i16 v20": part(16, True),
    "load_b32 v20": part(32),
    "load_b64 v[20:21]": part(64),
}
HALF_LOADS = {
    "load_d16_u8 v20": part(8, at=0),
    "load_d16_i8 v20": part(8, True, 0),
    "load_d16_b16 v20": part(16, at=0),
    "load_d16_hi_u8 v20": part(8, at=16),
    "load_d16_hi_i8 v20": part(8, True, 16),
    "load_d16_hi_b16 v20": part(16, at=16),
}
OLD_LOADS = {
    "load_ubyte v20": part(8),
    "load_sbyte v20": part(8, True),
    "load_ushort v20": part(16),
    "load_sshort v20": part(16, True),
    "load_dword v20": part(32),
    "load_dwordx2 v[20:21]": part(64),
    "load_ubyte_d16 v20": part(8, at=0),
    "load_sbyte_d16 v20": part(8, True, 0),
    "load_short_d16 v20": part(16, at=0),
    "load_ubyte_d16_hi v20": part(8, at=16),
    "load_sbyte_d16_hi v20": part(8, True, 16),
    "load_short_d16_hi v20": part(16, at=16),
}
LDS_HALVES = {
    "load_u8_d16 v20": part(8, at=0),
    "load_i8_d16 v20": part(8, True, 0),
    "load_u16_d16 v20": part(16, at=0),
    "load_u8_d16_hi v20": part(8, at=16),
    "load_i8_d16_hi v20": part(8, True, 16),
    "load_u16_d16_hi v20": part(16, at=16),
}
for _arch in ("gfx1100", "gfx1201"):
    loads(
        _arch,
        "global_store_b128 v[16:17], v[10:13], off; global_{name}, v[16:17], off offset:8",
        NEW_LOADS | HALF_LOADS,
    )
    loads(_arch, "flat_store_b128 v[16:17], v[10:13]; v_add_nc_u32 v16, 8, v16; flat_{name}, v[16:17]", HALF_LOADS)
    loads(_arch, "scratch_store_b128 v26, v[10:13], off; scratch_{name}, v26, off offset:8", NEW_LOADS | HALF_LOADS)
    loads(
        _arch,
        "scratch_store_b128 v26, v[10:13], off; v_readfirstlane_b32 s20, v26; scratch_{name}, off, s20 offset:8",
        NEW_LOADS,
    )
    loads(
        _arch,
        "scratch_store_b128 v26, v[10:13], off; s_mov_b32 s20, 4; scratch_{name}, v26, s20 offset:4",
        NEW_LOADS,
    )
    loads(_arch, "ds_store_b128 v18, v[10:13]; ds_{name}, v18 offset:8", NEW_LOADS | LDS_HALVES)
    # A scalar base, a vector offset and an immediate one, which may be negative.
    loads(
        _arch,
        "global_store_b128 v[16:17], v[10:13], off; v_readfirstlane_b32 s20, v16; v_readfirstlane_b32 s21, v17; "
        "v_sub_nc_u32 v24, v16, s20; v_add_nc_u32 v24, 24, v24; global_{name}, v24, s[20:21] offset:-16",
        NEW_LOADS,
    )
    # Through a generic pointer into LDS.
    loads(_arch, "ds_store_b128 v18, v[10:13]; flat_{name}, v[28:29] offset:8", NEW_LOADS)
loads("gfx942", "global_store_dwordx4 v[16:17], v[10:13], off; global_{name}, v[16:17], off offset:8", OLD_LOADS)
loads("gfx942", "scratch_store_dwordx4 v26, v[10:13], off; scratch_{name}, v26, off offset:8", OLD_LOADS)
loads("gfx942", "flat_store_dwordx4 v[16:17], v[10:13]; flat_{name}, v[16:17] offset:8", OLD_LOADS)
loads(
    "gfx942",
    "ds_write_b128 v18, v[10:13]; ds_{name}, v18 offset:8",
    {
        "read_u8 v20": part(8),
        "read_i8 v20": part(8, True),
        "read_u16 v20": part(16),
        "read_i16 v20": part(16, True),
        "read_b32 v20": part(32),
        "read_b64 v[20:21]": part(64),
        "read_u8_d16 v20": part(8, at=0),
        "read_i8_d16_hi v20": part(8, True, 16),
        "read_u16_d16_hi v20": part(16, at=16),
    },
)


def stores(arch: str, text: str, at: int, take: int, bits: int) -> None:
    """Memory holds a; the bits of b from `take` on are written at bit `at` of it."""

    def oracle(a: int, b: int, c: int) -> tuple[int, int]:
        mask = (1 << bits) - 1
        return a & ~(mask << at) & MASK | (b >> take & mask) << at, FRESH

    CASES.append((arch, "int", text, oracle))


for _arch in ("gfx1100", "gfx1201"):
    for _bits, _name in ((8, "b8"), (16, "b16"), (32, "b32"), (8, "d16_hi_b8"), (16, "d16_hi_b16")):
        _take = 16 if "hi" in _name else 0
        for _segment, _pointer in (("global", "v[16:17], {}, off"), ("scratch", "v26, {}, off")):
            _text = "; ".join(
                f"{_segment}_{_what} " + _pointer.format(_data) + _offset
                for _what, _data, _offset in (
                    ("store_b64", "v[10:11]", ""),
                    (f"store_{_name}", "v12", " offset:4"),
                )
            )
            _load = (
                "global_load_b64 v[20:21], v[16:17], off"
                if _segment == "global"
                else ("scratch_load_b64 v[20:21], v26, off")
            )
            stores(_arch, f"{_text}; {_load}", 32, _take, _bits)
        _lds = f"{_name.removeprefix('d16_hi_')}{'_d16_hi' if _take else ''}"
        stores(
            _arch,
            f"ds_store_b64 v18, v[10:11]; ds_store_{_lds} v18, v12 offset:4; ds_load_b64 v[20:21], v18",
            32,
            _take,
            _bits,
        )
for _bits, _name in ((8, "byte"), (16, "short"), (32, "dword"), (8, "byte_d16_hi"), (16, "short_d16_hi")):
    stores(
        "gfx942",
        f"global_store_dwordx2 v[16:17], v[10:11], off; global_store_{_name} v[16:17], v12, off offset:4; "
        "global_load_dwordx2 v[20:21], v[16:17], off",
        32,
        16 if "hi" in _name else 0,
        _bits,
    )

# Two addresses of one instruction: offsets in units of the size, or of 64 times that.
for _arch, _store, _load in (("gfx1100", "store_2addr", "load_2addr"), ("gfx942", "write2", "read2")):
    _wide = ("store_2addr_stride64", "load_2addr_stride64") if _arch == "gfx1100" else ("write2st64", "read2st64")
    _one, _two = ("store", "load") if _arch == "gfx1100" else ("write", "read")
    CASES += [
        (
            _arch,
            "int",
            f"ds_{_store}_b32 v18, v10, v12 offset0:1 offset1:3; ds_{_two}_b32 v20, v18 offset:4; "
            f"ds_{_two}_b32 v21, v18 offset:12",
            lambda a, b, c: (low(a) | low(b) << 32, FRESH),
        ),
        (
            _arch,
            "int",
            f"ds_{_store}_b64 v18, v[10:11], v[12:13] offset0:1 offset1:0; ds_{_two}_b64 v[20:21], v18 offset:8; "
            f"ds_{_two}_b64 v[22:23], v18",
            lambda a, b, c: (a, b),
        ),
        (
            _arch,
            "int",
            f"ds_{_one}_b128 v18, v[10:13]; ds_{_load}_b32 v[20:21], v18 offset0:3 offset1:1",
            lambda a, b, c: (high(b) | high(a) << 32, FRESH),
        ),
        (
            _arch,
            "int",
            f"ds_{_one}_b128 v18, v[10:13]; ds_{_load}_b64 v[20:23], v18 offset0:1 offset1:0",
            lambda a, b, c: (b, a),
        ),
        (
            _arch,
            "int",
            f"ds_{_wide[0]}_b32 v18, v10, v12 offset0:0 offset1:4; ds_{_two}_b32 v20, v18; "
            f"ds_{_two}_b32 v21, v18 offset:1024",
            lambda a, b, c: (low(a) | low(b) << 32, FRESH),
        ),
        (
            _arch,
            "int",
            f"ds_{_one}_b64 v18, v[10:11] offset:1024; ds_{_one}_b64 v18, v[12:13]; "
            f"ds_{_wide[1]}_b64 v[20:23], v18 offset0:2 offset1:0",
            lambda a, b, c: (a, b),
        ),
    ]  # fmt: skip

# Loads to LDS: M0 says where; a lane's word lies behind the lane's before.
CASES.append(
    (
        "gfx942",
        "int",
        "global_store_dwordx2 v[16:17], v[10:11], off; v_readfirstlane_b32 s20, v18; s_mov_b32 m0, s20; "
        "global_load_lds_dword v[16:17], off offset:4; v_lshlrev_b32 v24, 2, v19; v_add_u32 v24, s20, v24; "
        "ds_read_b32 v20, v24 offset:4",
        lambda a, b, c: (into(FRESH, high(a)), FRESH),
    )
)

# Accumulation registers hold data as well.
CASES += [
    (
        "gfx942",
        "int",
        "v_accvgpr_write_b32 a3, v10; global_store_dword v[16:17], a3, off; global_load_dword a5, v[16:17], off; "
        "v_accvgpr_read_b32 v20, a5",
        lambda a, b, c: (into(FRESH, a), FRESH),
    ),
    (
        "gfx942",
        "int",
        "v_accvgpr_write_b32 a3, v10; v_accvgpr_write_b32 a4, v12; ds_write2_b32 v18, a3, a4 offset0:0 offset1:1; "
        "ds_read_b64 a[6:7], v18; v_accvgpr_read_b32 v20, a6; v_accvgpr_read_b32 v21, a7",
        lambda a, b, c: (low(a) | low(b) << 32, FRESH),
    ),
    (
        "gfx942",
        "int",
        "v_accvgpr_write_b32 a3, v12; ds_write_b32 v18, v10; ds_add_rtn_u32 a5, v18, a3; v_accvgpr_read_b32 v20, a5; "
        "ds_read_b32 v22, v18",
        lambda a, b, c: (into(FRESH, a), into(FRESH, a + b)),
    ),
    (
        "gfx942",
        "int",
        "v_accvgpr_write_b32 a3, v12; global_store_dword v[16:17], v10, off; "
        "global_atomic_add a5, v[16:17], a3, off sc0; v_accvgpr_read_b32 v20, a5; global_load_dword v22, v[16:17], off",
        lambda a, b, c: (into(FRESH, a), into(FRESH, a + b)),
    ),
]

# 16 bytes of LDS, of global memory and of scratch a lane; half a wave lies between two lanes' first bytes at most.
KERNEL = """KERNEL {name}(u64 *out, u64 *memory, const u64 *pa, const u64 *pb, const u64 *pc) {{
  __shared__ u64 lds[64 + 256][2];
  u64 own[4];
  u64 *o = out + 2 * GLOBAL;
  asm volatile("v_mov_b32 v10, %1\\nv_mov_b32 v11, %2\\nv_mov_b32 v12, %3\\nv_mov_b32 v13, %4\\nv_mov_b32 v14, %5\\n"
    "v_mov_b32 v15, %6\\nv_mov_b32 v16, %7\\nv_mov_b32 v17, %8\\nv_mov_b32 v18, %9\\nv_mov_b32 v19, %10\\n"
    "v_mov_b32 v26, %11\\nv_mov_b32 v28, %12\\nv_mov_b32 v29, %13\\n"
    "v_mov_b32 v20, 0x5555aaaa\\nv_mov_b32 v21, v20\\nv_mov_b32 v22, v20\\nv_mov_b32 v23, v20\\n{text}\\n"
    "{store} %0, v[20:23]{off}" : : "v"(o), "v"((u32)pa[GLOBAL]), "v"((u32)(pa[GLOBAL] >> 32)), "v"((u32)pb[GLOBAL]),
    "v"((u32)(pb[GLOBAL] >> 32)), "v"((u32)pc[GLOBAL]), "v"((u32)(pc[GLOBAL] >> 32)),
    "v"((u32)(u64)(memory + 4 * GLOBAL)), "v"((u32)((u64)(memory + 4 * GLOBAL) >> 32)),
    "v"((__attribute__((address_space(3))) u64 *)lds[THREAD]), "v"(THREAD),
    "v"((__attribute__((address_space(5))) u64 *)own), "v"((u32)(u64)lds[THREAD]), "v"((u32)((u64)lds[THREAD] >> 32))
    : {clobbers});
}}
"""
CLOBBERS = ", ".join(f'"v{i}"' for i in range(10, 30)) + ', "s20", "s21", "s22", "s23", "m0", "vcc", "memory"'
ACCUMULATORS = ', "a3", "a4", "a5", "a6", "a7"'


@cache
def gpu(arch: str) -> Gpu:
    store = "global_store_dwordx4" if arch.startswith("gfx9") else "global_store_b128"
    kernels = []
    for index, (target, _, text, _) in enumerate(CASES):
        if target == arch:
            lines = "\\n".join(line.strip() for line in text.split(";"))
            values = {
                "text": lines,
                "store": store,
                "off": ", off",
                "clobbers": CLOBBERS + ACCUMULATORS * (arch == "gfx942"),
            }
            kernels.append(KERNEL.format(name=f"case_{index}", **values))
    return Gpu("".join(kernels), arch)


def inputs(kind: str) -> list[np.ndarray]:
    """Memory, operand and second operand: equal ones in places, edges, and any bits. Floats have no NaN and no -0."""
    rng = np.random.default_rng(12)
    if kind != "int":
        kind = {"bf16": "f32"}.get(kind, kind)
        count, size = N * 8 // np.dtype(f"f{int(kind[1:]) // 8}").itemsize, f"f{int(kind[1:]) // 8}"
        values = [(rng.standard_normal(count) * 8 + 20 * (i - 1)).astype(size) for i in range(3)]
        values[1][:16] = values[0][:16]
        return [v.view(np.uint64) for v in values]
    a, b, c = rng.integers(0, 2**64, (3, N), dtype=np.uint64)
    edges = np.array([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1], np.uint64)
    a[:32], b[:32] = edges[np.arange(32) % 8], edges[(np.arange(32) * 3 + np.arange(32) // 8) % 8]
    a[32:40] = edges | edges << np.uint64(32)
    b[40:48], c[44:52] = a[40:48], a[44:52]
    b[48:56] = b[48:56] & np.uint64(0xFFFFFFFF) | a[48:56] << np.uint64(32)
    return [a, b, c]


def named(case: tuple[str, str, str, Oracle]) -> str:
    return f"{case[0]}-{case[2]}".replace("; ", "-").replace(" ", "_")


@pytest.mark.parametrize("index", range(len(CASES)), ids=[named(case) for case in CASES])
def test_memory_operation(index: int) -> None:
    arch, kind, _, oracle = CASES[index]
    out, memory, given = np.zeros((N, 2), np.uint64), np.zeros((N, 4), np.uint64), inputs(kind)
    gpu(arch).run(f"case_{index}", 1, N, out, memory, *given)
    want = [oracle(*row) for row in zip(*(g.tolist() for g in given), strict=True)]
    found = [tuple(row) for row in out.tolist()]
    bad = [i for i in range(N) if found[i] != want[i]]
    assert not bad, [tuple(map(hex, (*(int(g[i]) for g in given), *found[i], *want[i]))) for i in bad[:4]]
