"""LDS access by several waves against a model of its bytes: what is initialised, who races with whom, banks, bounds."""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pytest

from rocmforge.tests.emulator.gpu_build import Gpu

U32 = ctypes.c_uint32
STEPS, WAVES, BYTES = 6, 3, 32
# name: (assembly of v24, an address, and v[20:23], bytes)
READS = {"u8": 1, "u16": 2, "b32": 4, "b64": 8, "b128": 16}
OPERATIONS = [("none", 0, "none")]
OPERATIONS += [
    (f"ds_load_{name} v[20:23], %0" if size == 16 else f"ds_load_{name} v20, %0", size, "read")
    for name, size in READS.items()
]
OPERATIONS += [(f"ds_store_{name} %0, v20", size, "write") for name, size in (("b8", 1), ("b16", 2), ("b32", 4))]
OPERATIONS += [("ds_store_b64 %0, v[20:21]", 8, "write"), ("ds_store_b128 %0, v[20:23]", 16, "write")]
OPERATIONS += [("ds_add_u32 %0, v20", 4, "atomic"), ("ds_add_u64 %0, v[20:21]", 8, "atomic")]
OPERATIONS = [(text.replace("load_b64 v20", "load_b64 v[20:21]"), size, kind) for text, size, kind in OPERATIONS]
SCRIPT = """
KERNEL script(const u32 *kinds, const u32 *places, u32 barriers) {
  __shared__ u32 s[BYTES / 4];
  u32 wave = THREAD / 32;
  __attribute__((address_space(3))) u32 *base = (__attribute__((address_space(3))) u32 *)s;
  for (u32 step = 0; step < STEPS; step++) {
    u32 at = (u32)(u64)base + places[3 * step + wave];
    if (THREAD % 32 == 7) {
      switch (kinds[3 * step + wave]) {
CASES
      }
    }
    if (barriers >> step & 1) __builtin_amdgcn_s_barrier();
  }
  asm volatile("" : : "v"(base));
}
"""


@cache
def script() -> str:
    clobbers = '"v20", "v21", "v22", "v23", "memory"'
    cases = "\n".join(
        f'        case {i}: asm volatile("{text}" : : "v"(at) : {clobbers}); break;'
        for i, (text, _, _) in enumerate(OPERATIONS)
        if i
    )
    return SCRIPT.replace("CASES", cases).replace("STEPS", str(STEPS)).replace("BYTES", str(BYTES))


@dataclass
class Byte:
    """What is known of one byte since the barrier before, and whether it was ever written."""

    valid: bool = False
    readers: set[int] = field(default_factory=set)
    writers: set[int] = field(default_factory=set)
    atomic: bool = True  # all writers' accesses were


def others(waves: set[int]) -> str:
    return f"wave {min(waves)}" if len(waves) == 1 else "several waves"


def outcome(lds: list[Byte], wave: int, at: int, size: int, kind: str) -> tuple[str, int, str] | None:
    """The first fault of an access, word by word: its kind, the address, and against whom; what has none is noted."""
    for word in range(at // 4, (at + size - 1) // 4 + 1):
        touched = [lds[i] for i in range(max(at, 4 * word), min(at + size, 4 * word + 4))]
        where = at + 4 * (word - at // 4)
        if kind != "write" and not all(byte.valid for byte in touched):
            return "uninitialised", where, ""
        for byte in touched:
            byte.valid = True
            if byte.writers - {wave} and not (kind == "atomic" and byte.atomic):
                return "race", where, others(byte.writers)
            if kind != "read" and byte.readers - {wave}:
                return "race", where, others(byte.readers)
            if kind == "read":
                byte.readers.add(wave)
            else:
                byte.atomic = kind == "atomic" if not byte.writers else byte.atomic and kind == "atomic"
                byte.writers.add(wave)
    return None


def expected(kinds: np.ndarray, places: np.ndarray, barriers: int) -> tuple[int, str, int, str, int, str] | None:
    """The first fault of a script: waves run in their order from barrier to barrier."""
    lds = [Byte() for _ in range(BYTES)]
    segments: list[list[int]] = [[]]
    for step in range(STEPS):
        segments[-1].append(step)
        if barriers >> step & 1:
            segments.append([])
    for segment in segments:
        for wave in range(WAVES):
            for step in segment:
                _, size, kind = OPERATIONS[kinds[step, wave]]
                if size and (found := outcome(lds, wave, int(places[step, wave]), size, kind)):
                    access = "read" if kind == "read" else "write"
                    what = "read" if found[0] == "uninitialised" else access
                    return wave, found[0], found[1], what, size, found[2]
        for byte in lds:
            byte.readers, byte.writers, byte.atomic = set(), set(), True
    return None


def random_script(seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    """In most all bytes are written at first; the rest is any access anywhere, half of them none."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(1, len(OPERATIONS), (STEPS, WAVES))
    kinds[rng.random(kinds.shape) < 0.5] = 0
    if seed % 3 == 0:  # few kinds on few places: atomics among atomics, reads among reads
        kinds = rng.choice([0, *rng.integers(1, len(OPERATIONS), 2), len(OPERATIONS) - 1 - seed % 2], (STEPS, WAVES))
    sizes = np.array([max(size, 1) for _, size, _ in OPERATIONS])[kinds]
    align = np.minimum(sizes, 4)
    places = rng.integers(0, np.where(seed % 2, 16, 28 - sizes + 4)) // align * align
    barriers = int(rng.integers(0, 1 << STEPS))
    if seed % 5:
        wide = [text for text, _, _ in OPERATIONS].index("ds_store_b128 %0, v[20:23]")
        kinds[0], kinds[1] = [wide, 0, 0], [wide, 0, 0]
        places[0, 0], places[1, 0], barriers = 0, 16, barriers & ~3 | 2
    return kinds.astype(np.uint32), places.astype(np.uint32), barriers


def fault_of(gpu: Gpu) -> tuple[int, str, int, str, int, str] | None:
    fault = gpu.api.fault
    if fault is None:
        return None
    match = re.search(r"(read|write) of (\d+) bytes(?:.*against ([^;]+);)?", fault.message)
    assert match
    return fault.wave, fault.kind, fault.address, match[1], int(match[2]), match[3] or ""


@pytest.mark.parametrize("seed", range(12))
def test_scripts_of_three_waves(seed: int) -> None:
    found, want = [], []
    for number in range(40 * seed, 40 * seed + 40):
        kinds, places, barriers = random_script(number)
        gpu = Gpu(script(), "gfx1100", threads=1)
        gpu.launch("script", 1, 32 * WAVES, kinds, places, U32(barriers))
        found.append(fault_of(gpu))
        want.append(expected(kinds, places, barriers))
        assert found[-1] == want[-1], (kinds.tolist(), places.tolist(), bin(barriers))
        assert gpu.api.fault is None or gpu.api.fault.lane == 7
    assert None in want
    assert {"race", "uninitialised"} <= {w[1] for w in want if w}


LANES = """
#define LDS __attribute__((address_space(3)))
#define CASE(name, text) KERNEL name(const u32 *places, const u32 *values, u32 lanes) { \\
  __shared__ u32 s[2048]; \\
  u32 at = (u32)(u64)(LDS u32 *)s + places[THREAD], x = values[THREAD]; \\
  if (THREAD < lanes) \\
    asm volatile("v_mov_b32 v20, %1\\nv_mov_b32 v21, %1\\nv_mov_b32 v22, %1\\nv_mov_b32 v23, %1\\n" text \\
    : : "v"(at), "v"(x), "v"(x ^ 1) : "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27", "memory"); \\
}
CASE(read_1, "ds_read_u8 v24, %0") CASE(read_2, "ds_read_u16 v24, %0") CASE(read_4, "ds_read_b32 v24, %0")
CASE(read_8, "ds_read_b64 v[24:25], %0") CASE(read_12, "ds_read_b96 v[24:26], %0")
CASE(read_16, "ds_read_b128 v[24:27], %0")
CASE(write_1, "ds_write_b8 %0, v20") CASE(write_2, "ds_write_b16 %0, v20") CASE(write_4, "ds_write_b32 %0, v20")
CASE(high_1, "ds_write_b8_d16_hi %0, v20") CASE(high_2, "ds_write_b16_d16_hi %0, v20")
CASE(write_8, "ds_write_b64 %0, v[20:21]") CASE(write_16, "ds_write_b128 %0, v[20:23]")
CASE(read_two, "ds_read2_b32 v[24:25], %0 offset0:1 offset1:3")
CASE(write_two, "ds_write2_b32 %0, v20, v21 offset0:1 offset1:3")
CASE(write_two_other, "v_mov_b32 v20, 5\\nds_write2_b32 %0, v20, %1 offset0:1 offset1:3")
CASE(add_two, "ds_add_u32 %0, v20")
"""
LDS_BYTES = 8192
LANE = np.arange(64, dtype=np.uint32)


def lanes_gpu(wave: int = 32, check: bool = True) -> Gpu:
    return Gpu(LANES, {32: "gfx1100", 64: "gfx942"}[wave], check=check)


def run_lanes(gpu: Gpu, name: str, places: np.ndarray, values: np.ndarray = LANE, lanes: int = 64) -> int:
    return gpu.launch(name, 1, 64, places.astype(np.uint32), values.astype(np.uint32), U32(lanes))


def conflicts(places: np.ndarray, size: int, lanes: int, wave: int) -> int:
    """Lanes served together ask for 128 bytes; of one bank's different words each beyond the first costs a cycle."""
    width = {1: 4, 2: 4, 12: 16}.get(size, size)
    extra = 0
    for first in range(0, 64, 128 // width):
        words = {
            int(places[lane]) // 4 + i
            for lane in range(first, min(first + 128 // width, lanes))
            for i in range(width // 4)
        }
        banks = [sum(word % 32 == bank for word in words) for bank in range(32)]
        extra += max(0, max(banks) - 1)
    return extra


@pytest.mark.parametrize("wave", [32, 64])
@pytest.mark.parametrize("size", [1, 2, 4, 8, 12, 16])
def test_bank_conflicts_of_any_addresses(size: int, wave: int) -> None:
    """Several lanes that read one word are served at once."""
    gpu, rng = lanes_gpu(wave, check=False), np.random.default_rng(size)
    align = min(size, 4)
    strides = [LANE * step * size for step in (0, 1, 2, 3, 4)] + [LANE // 2 * 128, LANE % 3 * 128 + LANE // 3 * 4]
    random = [rng.integers(0, LDS_BYTES // 16 // align, 64) * align for _ in range(4)]
    for places in [(p % 8176) // align * align for p in strides] + random:
        for lanes in (64, 37):
            gpu.api.reset_counters()
            assert run_lanes(gpu, f"read_{size}", places, lanes=lanes) == 0
            counters = gpu.api.counters()[f"read_{size}"]
            assert counters.lds_conflict_cycles == conflicts(places, size, lanes, wave), (places.tolist(), lanes)
            assert counters.lds_bytes == lanes * size
            assert counters.lds_instructions == (1 if wave == 64 else 2)


@pytest.mark.parametrize(
    ("name", "place", "fault"),
    [
        ("read_1", 8191, None),
        ("read_1", 8192, "lds-bounds"),
        ("read_2", 8190, None),
        ("read_2", 8192, "lds-bounds"),
        ("read_2", 8189, "alignment"),
        ("read_4", 8188, None),
        ("read_4", 8190, "lds-bounds"),
        ("read_4", 8186, "alignment"),
        ("read_4", 8187, "alignment"),
        ("read_8", 8184, None),
        ("read_8", 8188, "lds-bounds"),
        ("read_8", 8180, None),
        ("read_12", 8180, None),
        ("read_12", 8184, "lds-bounds"),
        ("read_16", 8176, None),
        ("read_16", 8180, "lds-bounds"),
        ("read_16", 2**32 - 16, "lds-bounds"),
        ("write_16", 8176, None),
        ("write_16", 8180, "lds-bounds"),
        ("write_2", 8187, "alignment"),
        ("read_two", 8176, None),
        ("read_two", 8180, "lds-bounds"),
        ("read_two", 8188, "lds-bounds"),
        ("write_two", 8176, None),
        ("write_two", 8180, "lds-bounds"),
        ("write_two", 8188, "lds-bounds"),
    ],
)
def test_bounds_and_alignment(name: str, place: int, fault: str | None) -> None:
    """Wave 1's lane 5 alone is there."""
    places = LANE * 16
    places[37] = place
    gpu = lanes_gpu(check=False)
    code = run_lanes(gpu, name, places)
    found = gpu.api.fault
    assert code == (719 if fault else 0)
    assert (found.kind if found else None) == fault
    if found:
        assert (found.wave, found.lane) == (1, 5)
        assert ("write of" if "write" in name else "read of") in found.message


@pytest.mark.parametrize(
    "name", ["write_1", "high_1", "write_2", "high_2", "write_4", "write_8", "write_16", "write_two"]
)
def test_two_lanes_that_write_one_place_must_agree(name: str) -> None:
    """Values differ in the part that is written, or in another one; without checks the last lane wins."""
    bits = {"write_1": 0x01, "high_1": 0x10000, "write_2": 0x8000, "high_2": 0x80000000}.get(name, 0x80000000)
    unused = {"write_1": 0xFFFFFF00, "high_1": 0xFF00FFFF, "write_2": 0xFFFF0000, "high_2": 0xFFFF}.get(name, 0)
    places = LANE // 2 * 2 % 64 * 16 + LANE // 32 * 1024
    values = np.full(64, 7, np.uint32)
    values[40] ^= unused
    assert run_lanes(lanes_gpu(), name, places, values) == 0
    values[40] ^= bits
    gpu = lanes_gpu()
    assert run_lanes(gpu, name, places, values) == 719
    fault = gpu.api.fault
    assert fault is not None
    assert (fault.kind, fault.wave, fault.lane) == ("race", 1, 8)
    assert fault.address == int(places[40]) + (4 if name == "write_two" else 0)
    assert "write of" in fault.message
    assert "against wave 1;" in fault.message
    assert run_lanes(lanes_gpu(check=False), name, places, values) == 0


def test_the_second_of_two_addresses_is_checked_by_itself() -> None:
    """Its values differ where the first ones agree."""
    places = LANE // 2 * 16
    gpu = lanes_gpu()
    assert run_lanes(gpu, "write_two_other", places) == 719
    assert gpu.api.fault is not None
    assert (gpu.api.fault.kind, gpu.api.fault.lane, gpu.api.fault.address) == ("race", 0, 12)
    assert run_lanes(lanes_gpu(), "write_two_other", LANE * 16) == 0
    gpu = lanes_gpu()
    assert run_lanes(gpu, "read_two", LANE * 16) == 719
    assert gpu.api.fault is not None
    assert (gpu.api.fault.kind, gpu.api.fault.lane, gpu.api.fault.address) == ("uninitialised", 0, 4)
