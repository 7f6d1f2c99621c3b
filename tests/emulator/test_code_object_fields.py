"""What is read of a code object, and one field after the other that makes it none."""

from __future__ import annotations

import ctypes
import struct

import pytest

from rocmforge.tests.emulator.gpu_build import build
from rocmforge.tools.emulator import HipEmulator
from rocmforge.tools.emulator.code_object import Argument, Kernel, parse
from rocmforge.tools.emulator.errors import BadCodeObject

SOURCE = """
__device__ u32 counter[3] = {7, 8, 9};
__device__ __attribute__((noinline)) u32 twice(u32 n) { return n * 2; }
extern "C" __attribute__((global)) __attribute__((amdgpu_flat_work_group_size(1, 96)))
void add(u8 small, u32 *out, u32 more) {
  __shared__ volatile u32 kept[25];
  asm volatile("" ::: "v40");
  kept[THREAD] = small;
  out[THREAD] = kept[THREAD] + twice(more) + counter[more];
}
"""
CODE = """
__attribute__((noinline)) __device__ u32 again(u32 n, u32 *p) { return n < 2 ? *p : again(n - 1, p) + again(n - 2, p); }
KERNEL call(u32 *out, u32 n) { out[THREAD] = again(n, out); }
"""


@pytest.fixture(scope="module")
def good() -> bytes:
    return build(SOURCE, "gfx1100")


def changed(code: bytes, at: int, layout: str, value: int) -> bytes:
    copy = bytearray(code)
    struct.pack_into(layout, copy, at, value)
    return bytes(copy)


def metadata(code: bytes, key: str, old: int, new: int) -> bytes:
    """The code object with another small number in its metadata."""
    field = bytes([0xA0 + len(key), *key.encode(), old])
    assert code.count(field) >= 1, key
    return code.replace(field, field[:-1] + bytes([new]), 1)


def descriptor(code: bytes, name: str = "add") -> int:
    """Where a kernel's descriptor stands in the file."""
    parsed = parse(code)
    start = parsed.symbols[f"{name}.kd"][0]
    found = code.index(parsed.image[start : start + 64])
    assert code.count(parsed.image[start : start + 64]) == 1
    return found


def kernel(code: bytes) -> Kernel:
    return parse(code).kernels["add"]


def test_a_kernel_is_what_its_source_says(good: bytes) -> None:
    found = kernel(good)
    assert (found.name, found.wave_size, found.max_workgroup) == ("add", 32, 96)
    assert (found.lds_bytes, found.scratch_bytes, found.kernarg_bytes) == (100, 0, 20)
    assert found.arguments == (
        Argument(0, 1, "by_value"),
        Argument(8, 8, "global_buffer"),
        Argument(16, 4, "by_value"),
    )
    assert (found.vgprs, found.spilled) == (41, 0)
    assert 1 <= found.sgprs <= 104
    assert (found.end - found.begin) % 4 == 0
    code = parse(good)
    assert (code.arch, list(code.kernels)) == ("gfx1100", ["add"])
    offset, size = code.symbols["counter"]
    assert struct.unpack("<3I", code.image[offset : offset + size]) == (7, 8, 9)
    assert code.symbols["add"] == (found.begin, found.end - found.begin)
    assert code.symbols["add.kd"][1] == 64
    # What ends a program on RDNA 3.
    assert b"\x00\x00\xb0\xbf" in code.image[found.begin : found.end]


def test_registers_that_did_not_suffice_are_summed(good: bytes) -> None:
    one = metadata(good, ".vgpr_spill_count", 0, 5)
    assert (kernel(one).spilled, kernel(metadata(one, ".sgpr_spill_count", 0, 3)).spilled) == (5, 8)
    assert (kernel(one).vgprs, kernel(metadata(good, ".vgpr_count", 41, 77)).vgprs) == (41, 77)


def test_counts_that_the_metadata_lacks_are_zero(good: bytes) -> None:
    without = good
    for key in (b".vgpr_count", b".sgpr_count", b".vgpr_spill_count", b".sgpr_spill_count"):
        without = without.replace(bytes([0xA0 + len(key)]) + key, bytes([0xA0 + len(key)]) + key.replace(b".", b"_"))
    found = kernel(without)
    assert (found.vgprs, found.sgprs, found.spilled) == (0, 0, 0)


def test_functions_are_known_beside_kernels() -> None:
    code = parse(build(CODE, "gfx1100"))
    ((begin, end),) = code.functions
    name = next(name for name in code.symbols if "again" in name)
    assert (begin, end - begin) == code.symbols[name]
    assert code.kernels["call"].begin not in (begin, end)


@pytest.mark.parametrize(
    ("at", "layout", "value", "words"),
    [
        (0, "<B", 0x7E, "not a 64-bit little-endian ELF"),
        (3, "<B", 0x47, "not a 64-bit little-endian ELF"),
        (4, "<B", 1, "not a 64-bit little-endian ELF"),
        (5, "<B", 2, "not a 64-bit little-endian ELF"),
        (18, "<H", 62, "not an AMD GPU code object that is known: machine 62, flags 0x"),
        (48, "<B", 0xFE, "not an AMD GPU code object that is known: machine 224, flags 0x"),
        (56, "<H", 0, "0 segments to load, 0 bytes"),
        (60, "<H", 0, "no AMDGPU metadata note"),
        (40, "<Q", 1 << 40, "damaged code object: "),
        (32, "<Q", 1 << 40, "damaged code object: "),
    ],
)
def test_heads_of_files_that_are_none(good: bytes, at: int, layout: str, value: int, words: str) -> None:
    with pytest.raises(BadCodeObject, match=f"^{words}"):
        parse(changed(good, at, layout, value))


def test_flags_beside_the_machine_do_not_matter(good: bytes) -> None:
    (flags,) = struct.unpack_from("<I", good, 48)
    assert flags & 0xFF == 0x41
    assert parse(changed(good, 48, "<I", flags ^ 0x500)).arch == "gfx1100"


def test_an_image_may_be_large_and_not_larger(good: bytes) -> None:
    (at,), (size, count) = struct.unpack_from("<Q", good, 32), struct.unpack_from("<HH", good, 54)
    headers = [at + i * size for i in range(count)]
    loaded = [header for header in headers if struct.unpack_from("<I", good, header)[0] == 1]
    last = max(loaded, key=lambda header: struct.unpack_from("<Q", good, header + 16)[0])
    (address,) = struct.unpack_from("<Q", good, last + 16)
    most = (256 << 20) - address
    assert len(parse(changed(good, last + 40, "<Q", most)).image) == 256 << 20
    with pytest.raises(BadCodeObject, match=f"^{len(loaded)} segments to load, {(256 << 20) + 1} bytes"):
        parse(changed(good, last + 40, "<Q", most + 1))


def test_code_that_lies_elsewhere_is_refused(good: bytes) -> None:
    at, found, image = descriptor(good), kernel(good), parse(good).image
    (entry,) = struct.unpack_from("<q", good, at + 16)
    length = found.end - found.begin
    assert kernel(changed(good, at + 16, "<q", entry - 4)).begin == found.begin - 4
    last = len(image) - length - (found.begin - entry)
    assert kernel(changed(good, at + 16, "<q", last & ~3)).end <= len(image)
    first = entry - found.begin
    assert kernel(changed(good, at + 16, "<q", first)).begin == 0
    for wrong in (entry + 1, entry + 2, first - 4, (last & ~3) + 4, 1 << 40):
        with pytest.raises(BadCodeObject, match=r"^kernel add: code from "):
            parse(changed(good, at + 16, "<q", wrong))


@pytest.mark.parametrize(
    ("key", "old", "new"), [(".offset", 16, 17), (".offset", 16, 0xFF), (".size", 4, 5), (".size", 4, 0xFF)]
)
def test_arguments_that_lie_elsewhere_are_refused(good: bytes, key: str, old: int, new: int) -> None:
    """0xff is -1."""
    with pytest.raises(BadCodeObject, match=r"^kernel add: arguments beyond the 20 bytes"):
        parse(metadata(good, key, old, new))


def test_a_segment_of_arguments_may_be_large_and_not_larger(good: bytes) -> None:
    at = descriptor(good) + 8
    assert kernel(changed(good, at, "<I", 65536)).kernarg_bytes == 65536
    with pytest.raises(BadCodeObject, match=r"^kernel add: arguments beyond the 65537 bytes"):
        parse(changed(good, at, "<I", 65537))


def test_a_kernel_without_a_list_of_arguments_has_none(good: bytes) -> None:
    assert kernel(good.replace(b"\xa5.args", b"\xa5_args")).arguments == ()
    with pytest.raises(BadCodeObject, match=r"^damaged code object: KeyError"):
        parse(good.replace(b"\xa5.name\xa3add", b"\xa5_name\xa3add"))


def test_other_rounding_than_to_nearest_even_is_refused(good: bytes) -> None:
    """Bits 12 to 19 of the first word of resources: rounding twice, then denormals twice."""
    at = descriptor(good) + 48
    (word,) = struct.unpack_from("<I", good, at)
    assert word >> 12 & 0xFF == 0xF0
    for bit in range(11, 21):
        api, module, function = HipEmulator("gfx1100", threads=1), ctypes.c_void_p(), ctypes.c_void_p()
        image = changed(good, at, "<I", word ^ 1 << bit)
        assert api.hipModuleLoadData(ctypes.byref(module), image) == 0
        code = api.hipModuleGetFunction(ctypes.byref(function), module, b"add")
        assert (bit, code) == (bit, 200 if 12 <= bit < 20 else 0)
        if code:
            text = "device kernel image is invalid: kernel add: kernel add: only nearest-even rounding with denormals"
            assert api.hipGetErrorString(200).decode() == f"{text} is emulated"
