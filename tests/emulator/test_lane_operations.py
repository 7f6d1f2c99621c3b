"""Exchange between lanes in assembly where some lanes are inactive, and parts of registers (SDWA), lane by lane."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from rocmforge.tests.emulator.gpu_build import Gpu

OLD = 0x5555AAAA  # what v20 holds before
EXEC = 0xF0FF3C5A_8F3CA5FE  # lanes that take part; of a wave of 32 the low half
# Of a wave's a (v10), b (v11) and active lanes: what v20 holds in each lane; None where it is not defined.
Oracle = Callable[..., list[int]]
CASES: list[tuple[str, int, str, Oracle]] = []  # (arch, wave size, assembly, oracle)
Source = Callable[[int], int | None]


def case(arch: str, wave: int, text: str, oracle: Oracle) -> None:
    CASES.append((arch, wave, text, oracle))


def moved(source: Source, rows: int = 15, banks: int = 15, bound: bool = False, fetch: bool = False) -> Oracle:
    """A DPP move: rows of 16 lanes, banks of 4; 0 where bounds are controlled and there is no lane to read."""

    def oracle(a: list[int], _: list[int], on: list[bool]) -> list[int]:
        result = [OLD] * len(a)
        for lane in range(len(a)):
            enabled = on[lane] and rows >> lane // 16 & 1 and banks >> lane // 4 % 4 & 1
            origin = source(lane)
            if enabled and origin is not None and (fetch or on[origin]):
                result[lane] = a[origin]
            elif enabled and bound:
                result[lane] = 0
        return result

    return oracle


def in_row(place: Callable[[int], int]) -> Source:
    """Of the lane's place in its row of 16; none where that lies outside."""
    return lambda lane: lane // 16 * 16 + place(lane % 16) if 0 <= place(lane % 16) < 16 else None


def shifted(n: int) -> Source:
    return in_row(lambda i: i + n)


ROWS: dict[str, Source] = {
    **{f"row_shl:{n}": shifted(n) for n in (1, 7, 15)},
    **{f"row_shr:{n}": shifted(-n) for n in (1, 8, 15)},
    "row_ror:1": in_row(lambda i: (i - 1) % 16),
    "row_ror:13": in_row(lambda i: (i - 13) % 16),
    "row_mirror": in_row(lambda i: 15 - i),
    "row_half_mirror": in_row(lambda i: i // 8 * 8 + 7 - i % 8),
    "quad_perm:[3,1,0,2]": in_row(lambda i: i // 4 * 4 + (3, 1, 0, 2)[i % 4]),
    "quad_perm:[3,3,3,3]": in_row(lambda i: i // 4 * 4 + 3),
}
NEW_ROWS: dict[str, Source] = {
    "row_share:0": in_row(lambda i: 0),
    "row_share:14": in_row(lambda i: 14),
    "row_xmask:1": in_row(lambda i: i ^ 1),
    "row_xmask:14": in_row(lambda i: i ^ 14),
}
WAVES: dict[str, Source] = {
    "row_newbcast:14": in_row(lambda i: 14),
    "wave_shl:1": lambda lane: lane + 1 if lane < 63 else None,
    "wave_shr:1": lambda lane: lane - 1 if lane else None,
    "wave_rol:1": lambda lane: (lane + 1) % 64,
    "wave_ror:1": lambda lane: (lane - 1) % 64,
    "row_bcast:15": lambda lane: lane // 16 * 16 - 1 if lane >= 16 else None,
    "row_bcast:31": lambda lane: 31 if lane >= 32 else None,
}
for _arch, _wave, _controls in (
    ("gfx1100", 32, ROWS | NEW_ROWS),
    ("gfx1100", 64, ROWS | NEW_ROWS),
    ("gfx942", 64, ROWS | WAVES),
):
    for _control, _source in _controls.items():
        _move = f"v_mov_b32_dpp v20, v10 {_control} row_mask:{{}} bank_mask:{{}}"
        case(_arch, _wave, _move.format("0xf", "0xf"), moved(_source))
        case(_arch, _wave, _move.format("0x6", "0xb"), moved(_source, 6, 11))
        case(_arch, _wave, _move.format("0xf", "0xf") + " bound_ctrl:1", moved(_source, bound=True))
        case(_arch, _wave, _move.format("0xd", "0x7") + " bound_ctrl:1", moved(_source, 13, 7, bound=True))
        if _arch != "gfx942":
            case(_arch, _wave, _move.format("0xf", "0xf") + " fi:1", moved(_source, fetch=True))
for _wave in (32, 64):
    _eight = (7, 0, 2, 1, 6, 5, 3, 4)
    for _fetch in (False, True):
        case(
            "gfx1100",
            _wave,
            "v_mov_b32_dpp v20, v10 dpp8:[7,0,2,1,6,5,3,4]" + (" fi:1" if _fetch else ""),
            moved(lambda lane: lane // 8 * 8 + (7, 0, 2, 1, 6, 5, 3, 4)[lane % 8], bound=True, fetch=_fetch),
        )
# The lanes that a DPP instruction leaves out take part in the next one again.
case(
    "gfx942",
    64,
    "v_mov_b32_dpp v20, v10 row_shl:3 row_mask:0x5 bank_mask:0x3; v_xor_b32 v20, 1, v20",
    lambda a, b, on: [x ^ on[i] for i, x in enumerate(moved(shifted(3), 5, 3)(a, b, on))],
)


def read(source: Callable[..., int], missing: int | None = 0, rest: bool = False) -> Oracle:
    """Each active lane reads another; of an inactive one `missing` (None: what was there) unless `rest` is read too."""

    def oracle(a: list[int], b: list[int], on: list[bool]) -> list[int]:
        result = [OLD] * len(a)
        for lane in range(len(a)):
            origin = source(lane, b)
            if on[lane] and (rest or on[origin]):
                result[lane] = a[origin]
            elif on[lane] and missing is not None:
                result[lane] = missing
        return result

    return oracle


def pushed(offset: int) -> Oracle:
    """Each active lane writes another's register: the last one wins, and 0 where none does."""

    def oracle(a: list[int], b: list[int], on: list[bool]) -> list[int]:
        result = [0 if active else OLD for active in on]
        for lane in range(len(a)):
            target = (b[lane] + offset) // 4 % len(a)
            if on[lane] and on[target]:
                result[target] = a[lane]
        return result

    return oracle


def reversed_bits(lane: int, mask: int) -> int:
    return int(f"{lane % 32:05b}"[::-1], 2) >> mask.bit_count() | lane % 32 & mask


def swizzles() -> dict[int, Callable[..., int]]:
    """The lane of 32 that is read, by offset."""
    result: dict[int, Callable[..., int]] = {0x8000 | 0b01_11_00_10: lambda i: i // 4 * 4 + (2, 0, 3, 1)[i % 4]}
    for keep, put, flip in ((31, 0, 1), (0, 7, 0), (0x18, 5, 0x12), (0x15, 0x0A, 0x1F), (15, 16, 0)):
        result[flip << 10 | put << 5 | keep] = lambda i, k=keep, p=put, f=flip: (i & k | p) ^ f
    for backward, count, mask in ((0, 1, 0), (1, 1, 0), (0, 31, 0x18), (1, 5, 0x10), (0, 9, 3)):
        step = -count if backward else count
        result[0xC000 | backward << 10 | count << 5 | mask] = lambda i, s=step, m=mask: i & m | (i + s) % 32 & ~m
    for mask in (0, 1, 0x10, 0x0C, 0x1F):
        result[0xE000 | mask] = lambda i, m=mask: reversed_bits(i, m)
    return result


for _arch, _wave in (("gfx1100", 32), ("gfx942", 64), ("gfx1201", 32)):
    for _offset, _place in swizzles().items():
        _read = read(lambda lane, _, place=_place: lane // 32 * 32 + place(lane % 32))
        case(_arch, _wave, f"ds_swizzle_b32 v20, v10 offset:{_offset:#x}", _read)
    for _offset in (0, 12, 1022):
        _read = read(lambda lane, b, o=_offset, w=_wave: (b[lane] + o) // 4 % w)
        case(_arch, _wave, f"ds_bpermute_b32 v20, v11, v10 offset:{_offset}", _read)
        case(_arch, _wave, f"ds_permute_b32 v20, v11, v10 offset:{_offset}", pushed(_offset))
case("gfx1201", 32, "ds_bpermute_fi_b32 v20, v11, v10", read(lambda lane, b: b[lane] // 4 % 32, rest=True))

LOW, HIGH = 0x3A7F19C0, 0x0B5D2E84  # selectors of lanes 0 to 7 and 8 to 15
SET = f"s_mov_b32 s20, {LOW:#x}; s_mov_b32 s21, {HIGH:#x}; "


def chosen(across: bool) -> Callable[[int, list[int]], int]:
    return lambda lane, _: (lane // 16 ^ across) * 16 + ((HIGH << 32 | LOW) >> 4 * (lane % 16) & 15)


def varied(across: bool) -> Callable[[int, list[int]], int]:
    return lambda lane, b: (lane // 16 ^ across) * 16 + b[lane] % 16


for _arch, _wave in (("gfx1100", 32), ("gfx1100", 64), ("gfx1201", 32)):
    for _across, _name in ((False, "v_permlane16"), (True, "v_permlanex16")):
        for _bits, _missing, _rest in (("0,0", None, False), ("1,0", None, True), ("0,1", 0, False), ("1,1", 0, True)):
            _text = f"{_name}_b32 v20, v10, s20, s21 op_sel:[{_bits}]"
            case(_arch, _wave, SET + _text, read(chosen(_across), _missing, _rest))
            if _arch == "gfx1201":
                _text = f"{_name}_var_b32 v20, v10, v11 op_sel:[{_bits}]"
                case(_arch, _wave, _text, read(varied(_across), _missing, _rest))
case("gfx1100", 64, "v_permlane64_b32 v20, v10", read(lambda lane, _: lane ^ 32, rest=True))
case("gfx1100", 32, "v_permlane64_b32 v20, v10", lambda a, b, on: [OLD] * 32)


def exchanged(width: int, second: bool) -> Oracle:
    """Rows of so many lanes: odd ones of the first register change places with even ones of the second."""

    def oracle(a: list[int], b: list[int], on: list[bool]) -> list[int]:
        result = list(b if second else a)
        for lane in range(64):
            if on[lane] and bool(lane & width) != second:
                result[lane] = (a if second else b)[lane ^ width]
        return [x if active else OLD for x, active in zip(result, on, strict=True)]

    return oracle


for _width in (16, 32):
    for _second in (False, True):
        _text = f"v_permlane{_width}_swap_b32 v10, v11; v_mov_b32 v20, v1{int(_second)}"
        case("gfx950", 64, _text, exchanged(_width, _second))


def active(function: Callable[..., int]) -> Oracle:
    """Lane by lane, of a and b."""
    return lambda a, b, on: [function(x, y) & 0xFFFFFFFF if e else OLD for x, y, e in zip(a, b, on, strict=True)]


PARTS = {f"BYTE_{i}": (8 * i, 8) for i in range(4)} | {"WORD_0": (0, 16), "WORD_1": (16, 16), "DWORD": (0, 32)}


def cut(x: int, name: str, signed: bool = False) -> int:
    at, bits = PARTS[name]
    value = x >> at & ((1 << bits) - 1)
    return value - (1 << bits) if signed and value >> (bits - 1) else value


def put(x: int, name: str, unused: str) -> int:
    at, bits = PARTS[name]
    mask = (1 << bits) - 1
    if unused == "UNUSED_PRESERVE":
        return OLD & ~(mask << at) | (x & mask) << at
    return cut(x, {8: "BYTE_0", 16: "WORD_0", 32: "DWORD"}[bits], unused == "UNUSED_SEXT") << at


for _name in PARTS:
    for _signed in (False, True):
        _a = "sext(v10)" if _signed else "v10"
        _text = f"v_add_u32_sdwa v20, {_a}, v11 dst_sel:DWORD dst_unused:UNUSED_PAD src0_sel:{_name} src1_sel:DWORD"
        case("gfx942", 64, _text, active(lambda x, y, n=_name, s=_signed: cut(x, n, s) + y))
        _b = "sext(v11)" if _signed else "v11"
        _text = f"v_sub_u32_sdwa v20, v10, {_b} dst_sel:DWORD dst_unused:UNUSED_PAD src0_sel:DWORD src1_sel:{_name}"
        case("gfx942", 64, _text, active(lambda x, y, n=_name, s=_signed: x - cut(y, n, s)))
    for _unused in ("UNUSED_PAD", "UNUSED_SEXT", "UNUSED_PRESERVE"):
        _text = f"v_xor_b32_sdwa v20, v10, v11 dst_sel:{_name} dst_unused:{_unused} src0_sel:DWORD src1_sel:DWORD"
        case("gfx942", 64, _text, active(lambda x, y, n=_name, u=_unused: put(x ^ y, n, u)))


@cache
def gpu(arch: str, wave: int) -> Gpu:
    clobbers = '"v10", "v11", "v20", "s20", "s21", "s22", "s23", "memory"'
    lanes = f"s_mov_b32 exec_lo, {EXEC & 0xFFFFFFFF:#x}"
    everything = "s_mov_b32 exec_lo, -1"
    if wave == 64:
        lanes += f"\\ns_mov_b32 exec_hi, {EXEC >> 32:#x}"
        everything = "s_mov_b64 exec, -1"
    kernels = []
    for index, (target, size, text, _) in enumerate(CASES):
        if (target, size) == (arch, wave):
            lines = "\\n".join(line.strip() for line in text.split(";"))
            lines = (
                f"v_mov_b32 v10, %1\\nv_mov_b32 v11, %2\\nv_mov_b32 v20, {OLD:#x}\\n{lanes}\\n{lines}\\n{everything}"
            )
            kernels.append(
                f"KERNEL case_{index}(u32 *out, const u32 *pa, const u32 *pb) {{ u32 r; "
                f'asm volatile("{lines}\\nv_mov_b32 %0, v20" : "=&v"(r) : "v"(pa[THREAD]), "v"(pb[THREAD]) '
                f": {clobbers}); out[THREAD] = r; }}"
            )
    flags = ("-mwavefrontsize64",) if wave == 64 and arch.startswith("gfx11") else ()
    return Gpu("\n".join(kernels), arch, flags)


@pytest.mark.parametrize(
    "index", range(len(CASES)), ids=[f"{c[0]}-{c[1]}-{c[2].rpartition('; ')[2].replace(' ', '_')}" for c in CASES]
)
def test_lane_operation(index: int) -> None:
    arch, wave, _, oracle = CASES[index]
    a, b = np.random.default_rng(15).integers(0, 2**32, (2, wave), dtype=np.uint32)
    b[: wave // 2] %= 256
    out = np.zeros(wave, np.uint32)
    gpu(arch, wave).run(f"case_{index}", 1, wave, out, a.copy(), b.copy())
    on = [bool(EXEC >> lane & 1) for lane in range(wave)]
    assert out.tolist() == oracle(a.tolist(), b.tolist(), on)
