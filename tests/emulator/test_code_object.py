"""Code objects that contradict themselves are refused by name: one field of a good one is changed."""

from __future__ import annotations

import ctypes
import struct

import numpy as np
import pytest

from rocmforge.tests.emulator.gpu_build import Gpu, build
from rocmforge.tools.emulator.code_object import parse
from rocmforge.tools.emulator.errors import BadCodeObject

# The pointers lie in the image and take its address.
SOURCE = """
__device__ u32 numbers[2] = {40, 2};
__device__ u32 *volatile pointers[2] = {&numbers[1], &numbers[0]};
KERNEL add(u32 *out, u32 more) { out[THREAD] = *pointers[0] + *pointers[1] + more; }
"""
SEGMENT, LOADED, RELOCATIONS, ABSOLUTE = struct.Struct("<IIQQQQQQ"), 1, 4, 3


@pytest.fixture(scope="module")
def good() -> bytes:
    return build(SOURCE, "gfx1100")


def loaded_segment(code: bytes) -> int:
    """Where the header of the last segment stands that is loaded, and of which the file has bytes."""
    (at,), (size, count) = struct.unpack_from("<Q", code, 32), struct.unpack_from("<HH", code, 54)
    headers = {at + i * size: SEGMENT.unpack_from(code, at + i * size) for i in range(count)}
    return max(int(place) for place, header in headers.items() if header[0] == LOADED and header[5])


def relocation(code: bytes) -> int:
    """Where the first entry of the table of relocations stands."""
    (at,), (size, count) = struct.unpack_from("<Q", code, 40), struct.unpack_from("<HH", code, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", code, at + i * size) for i in range(count)]
    return int(next(section[4] for section in sections if section[1] == RELOCATIONS))


def changed(code: bytes, at: int, layout: str, value: int) -> bytes:
    copy = bytearray(code)
    struct.pack_into(layout, copy, at, value)
    return bytes(copy)


def test_relocated_pointers_lead_where_they_should(good: bytes) -> None:
    assert parse(good).relocations
    out = np.zeros(32, np.uint32)
    Gpu(SOURCE, "gfx1100").run("add", 1, 32, out, ctypes.c_uint32(8))
    assert set(out.tolist()) == {50}


def test_a_relocation_by_a_symbol_is_that_by_its_place(good: bytes) -> None:
    """A linker that leaves a symbol open names it, where ours writes where it lies."""
    at, known = relocation(good), parse(good)
    (start,), (size, count) = struct.unpack_from("<Q", good, 40), struct.unpack_from("<HH", good, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", good, start + i * size) for i in range(count)]
    symbols = sections[next(section[6] for section in sections if section[1] == RELOCATIONS)]
    names = sections[symbols[6]][4]
    index = next(
        i
        for i in range(symbols[5] // 24)
        if good[names + struct.unpack_from("<I", good, symbols[4] + 24 * i)[0] :].startswith(b"numbers\0")
    )
    place, target = known.relocations[0]
    addend = target - known.symbols["numbers"][0]
    named = changed(changed(good, at + 8, "<Q", index << 32 | ABSOLUTE), at + 16, "<Q", addend)
    assert parse(named).relocations == known.relocations
    assert (place, addend) == (struct.unpack_from("<Q", good, at)[0], 4)


def test_a_relocation_outside_the_image_is_refused(good: bytes) -> None:
    at, end = relocation(good), len(parse(good).image)
    assert parse(changed(good, at, "<Q", end - 8)).relocations[0][0] == end - 8
    for place in (end - 7, end, 1 << 63):
        with pytest.raises(BadCodeObject, match=f"relocation of {place:#x}, the image ends at {end:#x}"):
            parse(changed(good, at, "<Q", place))


def test_a_segment_that_ends_behind_the_file_or_itself_is_refused(good: bytes) -> None:
    at = loaded_segment(good)
    _, _, offset, _, _, in_file, in_memory, _ = SEGMENT.unpack_from(good, at)
    rest = len(good) - in_file
    assert parse(changed(good, at + 8, "<Q", rest))
    with pytest.raises(BadCodeObject, match=f"cut off: a segment ends at {len(good) + 1}, the file at {len(good)}"):
        parse(changed(good, at + 8, "<Q", rest + 1))
    with pytest.raises(BadCodeObject, match=f"cut off: a segment ends at {offset + in_memory + 1}, "):
        parse(changed(good, at + 32, "<Q", in_memory + 1))


def test_arguments_beyond_those_of_the_descriptor_are_refused(good: bytes) -> None:
    """The kernel takes 8 bytes and 4: each of them is looked at, and the last one up to its end."""
    code = parse(good)
    kernel = code.kernels["add"]
    ends = [argument.offset + argument.size for argument in kernel.arguments]
    assert (ends, kernel.kernarg_bytes) == ([8, 12], 12)
    at = good.index(code.image[(start := code.symbols["add.kd"][0]) : start + 64]) + 8
    for size in (0, 7, 8, 11):
        with pytest.raises(BadCodeObject, match=f"kernel add: arguments beyond the {size} bytes"):
            parse(changed(good, at, "<I", size))
    assert parse(changed(good, at, "<I", 13)).kernels["add"].kernarg_bytes == 13


def test_a_relocation_of_another_kind_is_refused(good: bytes) -> None:
    at, place = relocation(good), parse(good).relocations[0][0]
    with pytest.raises(BadCodeObject, match=f"^relocation type 7 at {place:#x}$"):
        parse(changed(good, at + 8, "<Q", 7))
    assert parse(changed(good, at, "<Q", 0)).relocations[0][0] == 0  # the first byte has a place too
