"""Global, scratch and scalar memory: traffic against a model of lines and bytes, bounds, alignment, scalar loads."""

from __future__ import annotations

import ctypes
from functools import cache

import numpy as np
import pytest

from rocmforge.tests.emulator.gpu_build import Gpu

U32 = ctypes.c_uint32
SIZES = {1: "u8", 2: "u16", 4: "b32", 8: "b64", 12: "b96", 16: "b128"}
LANES = 32


def registers(size: int) -> str:
    return "v20" if size <= 4 else f"v[20:{19 + size // 4}]"


def kernel(name: str, text: str) -> str:
    clobbers = ", ".join(f'"v{i}"' for i in range(20, 26)) + ', "memory"'
    return f"""KERNEL {name}(const u64 *places, u32 lanes) {{
      u64 at = places[THREAD];
      if (THREAD < lanes) asm volatile("v_mov_b32 v20, 0\\n{text}" : : "v"(at) : {clobbers});
    }}
    """


@cache
def source() -> str:
    parts = [kernel(f"load_{n}", f"global_load_{t} {registers(n)}, %0, off") for n, t in SIZES.items()]
    parts += [
        kernel(f"store_{n}", f"global_store_{t.replace('u', 'b')} %0, {registers(n)}, off") for n, t in SIZES.items()
    ]
    parts += [kernel(f"flat_{n}", f"flat_load_{t} {registers(n)}, %0") for n, t in SIZES.items()]
    parts += [kernel(f"atomic_{n}", f"global_atomic_add_u{8 * n} %0, {registers(n)}, off") for n in (4, 8)]
    parts.append("""
    KERNEL kernarg(u32 first, u32 lanes) {
      u32 *at = (u32 *)__builtin_amdgcn_kernarg_segment_ptr();
      if (THREAD < lanes) *(volatile u32 *)(at + first + THREAD) = THREAD;
    }
    KERNEL kernarg_read(u32 *out) {
      const volatile u32 *at = (const volatile u32 *)__builtin_amdgcn_kernarg_segment_ptr();
      out[THREAD] = at[THREAD];
    }
    """)
    return "\n".join(parts)


class Arrays:
    """A GPU with labelled arrays of the given sizes, in the order of their addresses."""

    def __init__(self, *sizes: int) -> None:
        self.gpu = Gpu(source(), "gfx1100", threads=1)
        made = sorted((self.gpu.upload(np.zeros(size, np.uint8)).value or 0, size) for size in sizes)
        self.begins, self.sizes = [m[0] for m in made], [m[1] for m in made]
        for index, begin in enumerate(self.begins):
            self.gpu.api.label(begin, f"x{index}")

    def run(self, name: str, places: np.ndarray, lanes: int = LANES, grid: int = 1) -> int:
        return self.gpu.launch(name, grid, LANES, places.astype(np.uint64), U32(lanes))


@pytest.mark.parametrize("size", SIZES)
def test_traffic_of_any_addresses(size: int) -> None:
    """Lines and bytes of each allocation that an instruction touches, each once; a launch's lines once."""
    arrays, rng = Arrays(40_000, 300, 5000, 40_000), np.random.default_rng(size)
    align = min(size, 4)
    within = np.array(arrays.sizes) - size + 1
    for trial in range(10):
        owner = rng.integers(0, 4, LANES) if trial % 2 else np.full(LANES, trial // 2 % 4)
        spread = within[owner] if trial < 8 else np.minimum(within[owner], 256)
        offsets = rng.integers(0, spread) // align * align
        if trial == 8:
            owner, offsets = np.full(LANES, np.argmax(arrays.sizes)), 64 + np.arange(LANES) * size
        places, lanes = np.array(arrays.begins)[owner] + offsets, (LANES, 21)[trial % 3 == 2]
        for name, direction in (("load", 0), ("store", 1), *((("atomic", 1),) if size in (4, 8) else ())):
            api = arrays.gpu.api
            api.reset_counters()
            assert arrays.run(f"{name}_{size}", places, lanes, grid=2) == 0
            found = api.counters()[f"{name}_{size}"].by_allocation
            for index in range(4):
                touched = {int(o) + b for o in offsets[:lanes][owner[:lanes] == index] for b in range(size)}
                if not touched:
                    assert f"x{index}" not in found
                    continue
                lines = {b // 128 for b in touched}
                full = sum(all(128 * line + b in touched for b in range(128)) for line in lines)
                count = found[f"x{index}"][direction]
                assert (count.instructions, count.bytes, count.transactions) == (2, 2 * len(touched), 2 * len(lines))
                assert (count.full_transactions, count.distinct_lines) == (2 * full, len(lines))
                other = found[f"x{index}"][1 - direction]
                assert (other.instructions, other.bytes) == (0, 0)
    total = arrays.gpu.api.counters()[f"load_{size}"]
    assert total.loads.bytes == 0 or total.loads.instructions >= 2


def test_nothing_is_counted_where_that_is_not_asked_for() -> None:
    gpu = Gpu(source(), "gfx1100", count=False)
    at = gpu.upload(np.zeros(128, np.uint8)).value or 0
    assert gpu.launch("load_4", 1, LANES, np.uint64(at) + 4 * np.arange(LANES, dtype=np.uint64), U32(LANES)) == 0
    counters = gpu.api.counters()["load_4"]
    assert (counters.loads.bytes, counters.by_allocation, counters.instructions["vmem"]) == (0, {}, 2)


# Size of the array is 1000 bytes; lane 5 goes elsewhere, or all lanes lie side by side from there.
@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize(
    ("size", "place", "fault"),
    [
        (1, 999, None),
        (1, 1000, "bounds"),
        (1, -1, "bounds"),
        (2, 998, None),
        (2, 1000, "bounds"),
        (2, 997, "alignment"),
        (4, 996, None),
        (4, 1000, "bounds"),
        (4, -4, "bounds"),
        (4, 990, "alignment"),
        (4, 991, "alignment"),
        (8, 992, None),
        (8, 988, None),
        (8, 996, "bounds"),
        (12, 988, None),
        (12, 992, "bounds"),
        (16, 984, None),
        (16, 988, "bounds"),
    ],
)
def test_bounds_and_alignment(size: int, place: int, fault: str | None, together: bool) -> None:
    for name in ("load", "store", "flat"):
        arrays = Arrays(1000, 1000, 1000)
        begin, lanes = arrays.begins[1], np.arange(LANES)
        if together:  # the last lane is at the place
            places = begin + place - size * (LANES - 1 - lanes)
        else:
            places = begin + 16 * lanes
            places[5] = begin + place
        code = arrays.run(f"{name}_{size}", places)
        found = arrays.gpu.api.fault
        assert code == (0 if fault is None else 700 if fault == "bounds" else 719)
        assert (found.kind if found else None) == fault
        if found:
            # Side by side, all are misaligned or begin before the array if one is, or does.
            first = together and (fault == "alignment" or place < 0)
            assert found.lane == (0 if first else LANES - 1 if together else 5)
            assert found.address == int(places[found.lane])
            assert f"{'write' if name == 'store' else 'read'} of {size} bytes" in found.message


def test_gaps_between_allocations_are_out_of_bounds() -> None:
    arrays = Arrays(*[64] * 9)
    places = np.array([begin + 4 * i for begin in arrays.begins for i in (0, 15)])
    assert arrays.run("load_4", np.resize(places, LANES)) == 0
    for index in range(8):
        for side in range(3):
            arrays = Arrays(*[64] * 9)
            begin, following = arrays.begins[index : index + 2]
            place = (begin + 64, following - 4, (begin + following) // 8 * 4)[side]
            assert arrays.run("load_4", np.full(LANES, place)) == 700


@pytest.mark.parametrize(("lanes", "first"), [(32, 2), (1, 2), (32, 0)])
def test_arguments_are_read_only(lanes: int, first: int) -> None:
    gpu = Gpu(source(), "gfx1100")
    assert gpu.launch("kernarg", 1, 32, U32(first), U32(lanes)) == 700
    fault = gpu.api.fault
    assert fault is not None
    assert (fault.kind, fault.lane) == ("read-only", 0)
    assert "write of 4 bytes" in fault.message
    out = np.zeros(32, np.uint32)
    Gpu(source(), "gfx1100").run("kernarg_read", 1, 32, out)
    assert out[1] != 0


SCRATCH = """
#define CASE(name, text) KERNEL name(u32 place, u32 generic) { \\
  u32 own[8]; \\
  u32 base = (u32)(u64)(__attribute__((address_space(5))) u32 *)own; \\
  u64 wide = (u64)own; \\
  u32 at = THREAD == 9 ? place : base; \\
  wide = (wide & 0xffffffff00000000) | at; \\
  asm volatile(text : : "v"(at), "v"(wide), "s"(place) : "v20", "v21", "v22", "v23", "memory"); \\
}
CASE(load_1, "scratch_load_u8 v20, %0, off") CASE(load_4, "scratch_load_b32 v20, %0, off")
CASE(load_16, "scratch_load_b128 v[20:23], %0, off") CASE(store_4, "scratch_store_b32 %0, v20, off")
CASE(flat_4, "flat_load_b32 v20, %1") CASE(flat_store_4, "flat_store_b32 %1, v20")
CASE(scalar_4, "scratch_load_b32 v20, off, %2")
"""


@pytest.mark.parametrize("arch", ["gfx1100", "gfx1201"])
@pytest.mark.parametrize("name", ["load_1", "load_4", "load_16", "store_4", "flat_4", "flat_store_4", "scalar_4"])
def test_scratch_ends_where_the_kernel_says(name: str, arch: str) -> None:
    """A lane has 32 bytes, and the compiler's 16 where it likes; what fits is read, one byte further is a fault."""
    size = int(name.rpartition("_")[2])

    def fault(place: int) -> str | None:
        gpu = Gpu(SCRATCH, arch)
        gpu.launch(name, 1, 32, U32(place), U32(0))
        found = gpu.api.fault
        if found:
            lane = 0 if name == "scalar_4" else 9
            assert (found.lane, found.address) == (lane, place)
            assert f"{'write' if 'store' in name else 'read'} of {size} bytes" in found.message
        return found.kind if found else None

    last = [place for place in range(15, 64) if fault(place) is None][-1]
    assert last + size in (32, 36, 48)
    assert {fault(place) for place in range(last + 1, last + 20)} == {"scratch-bounds"}
    assert fault(2**32 - size) == "scratch-bounds"


def scalar_source(arch: str) -> str:
    kernels, store = [], "global_store_dword" if arch == "gfx942" else "global_store_b32"
    for index, (name, words, arguments) in enumerate(SCALAR[arch]):
        first = "s20" if words == 1 else f"s[20:{19 + words}]"
        lines = ["s_mov_b32 s40, 12", f"{name} {first}, %1, {arguments}", "s_waitcnt lgkmcnt(0)"]
        if arch == "gfx1201":
            lines[-1] = "s_wait_kmcnt 0"
        lines += [f"v_mov_b32 v20, s{20 + i}\\n{store} %0, v20, off offset:{4 * i}" for i in range(words)]
        clobbers = ", ".join(f'"s{i}"' for i in (*range(20, 36), 40)) + ', "v20", "memory"'
        text = "\\n".join(lines)
        kernels.append(
            f"KERNEL k{index}(u32 *out, const u32 *in) {{ "
            f'asm volatile("{text}" : : "v"(out), "s"(in + 16) : {clobbers}); }}'
        )
    return "\n".join(kernels)


# (instruction, words, offsets): 12 in s40.
SCALAR = {
    "gfx1100": [
        ("s_load_b32", 1, "0"),
        ("s_load_b64", 2, "0x10"),
        ("s_load_b128", 4, "s40 offset:0x8"),
        ("s_load_b256", 8, "-0x20"),
        ("s_load_b512", 16, "s40"),
        ("s_load_b32", 1, "6"),
    ],
    "gfx1201": [
        ("s_load_b32", 1, "s40 offset:-0x10"),
        ("s_load_b96", 3, "0x4"),
        ("s_load_b512", 16, "0"),
        ("s_load_u8", 1, "0x5"),
        ("s_load_i8", 1, "s40 offset:0x3"),
        ("s_load_u16", 1, "0x6"),
        ("s_load_i16", 1, "s40 offset:0x2"),
    ],
    "gfx942": [
        ("s_load_dword", 1, "0x4"),
        ("s_load_dwordx2", 2, "s40"),
        ("s_load_dwordx4", 4, "s40 offset:0x10"),
        ("s_load_dwordx8", 8, "-0x10"),
        ("s_load_dwordx16", 16, "0x0"),
    ],
}
EXPECTED_OFFSET = {"s40": 12, "s40 offset:0x8": 20, "s40 offset:-0x10": -4, "s40 offset:0x3": 15, "s40 offset:0x2": 14}
EXPECTED_OFFSET |= {"s40 offset:0x10": 28, "6": 4}  # dwords' addresses are rounded down


@pytest.mark.parametrize("arch", SCALAR)
def test_scalar_loads(arch: str) -> None:
    """16 words before and behind the base; bytes and halves are extended."""
    data = np.random.default_rng(8).integers(0, 256, 256, dtype=np.uint8)
    data |= np.uint8(0x80)
    gpu = Gpu(scalar_source(arch), arch)
    for index, (name, words, arguments) in enumerate(SCALAR[arch]):
        out = np.zeros(16, np.uint32)
        gpu.run(f"k{index}", 1, 1, out, data.copy())
        at = 64 + EXPECTED_OFFSET.get(arguments, int(arguments, 0) if "s40" not in arguments else 0)
        kind = {"u8": np.uint8, "i8": np.int8, "u16": np.uint16, "i16": np.int16}.get(name.rpartition("_")[2])
        if kind is None:
            want = data[at : at + 4 * words].copy().view(np.uint32).tolist()
        else:
            want = [int(data[at : at + np.dtype(kind).itemsize].copy().view(kind)[0]) & 0xFFFFFFFF]
        assert out.tolist() == want + [0] * (16 - words), name
