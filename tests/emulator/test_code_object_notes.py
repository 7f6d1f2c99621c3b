"""Where the metadata of a code object is found, and metadata that is none."""

from __future__ import annotations

import struct
from typing import Any

import msgpack
import pytest

from rocmforge.tests.emulator.gpu_build import build
from rocmforge.tools.emulator.code_object import parse
from rocmforge.tools.emulator.errors import BadCodeObject

NOTES, METADATA = 7, 32


def note(name: bytes, kind: int, content: bytes) -> bytes:
    """Name and content each end at a multiple of four bytes."""
    padded = [part + bytes(-len(part) % 4) for part in (name, content)]
    return struct.pack("<3I", len(name), len(content), kind) + b"".join(padded)


def section(code: bytes) -> int:
    """Where the header of the section of notes stands."""
    (at,), (size, count) = struct.unpack_from("<Q", code, 40), struct.unpack_from("<HH", code, 58)
    headers: list[int] = [at + i * size for i in range(count)]
    return next(header for header in headers if struct.unpack_from("<I", code, header + 4)[0] == NOTES)


def with_notes(code: bytes, notes: bytes, behind: bytes = b"") -> bytes:
    """The code object with other notes, which lie at its end."""
    copy = bytearray(code + bytes(-len(code) % 4))
    struct.pack_into("<QQ", copy, section(code) + 24, len(copy), len(notes))
    return bytes(copy + notes + behind)


@pytest.fixture(scope="module")
def good() -> bytes:
    return build("KERNEL one(u32 *out) { out[THREAD] = 1; }", "gfx1100")


@pytest.fixture(scope="module")
def metadata(good: bytes) -> bytes:
    """As the compiler wrote it."""
    offset, _ = struct.unpack_from("<QQ", good, section(good) + 24)
    name, size, kind = struct.unpack_from("<3I", good, offset)
    assert (name, kind, good[offset + 12 : offset + 20]) == (7, METADATA, b"AMDGPU\0\0")
    return good[offset + 20 : offset + 20 + size]


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 8])
@pytest.mark.parametrize("name", [b"GNU\0", b"AMDGPU\0", b"Linux\0"])
def test_metadata_may_stand_behind_other_notes(good: bytes, metadata: bytes, name: bytes, size: int) -> None:
    other, own = note(name, 3, b"x" * size), note(b"AMDGPU\0", METADATA, metadata)
    for notes in (own, own + other, other + own, other + other + own):
        assert list(parse(with_notes(good, notes)).kernels) == ["one"]


def test_notes_that_are_not_the_metadata(good: bytes, metadata: bytes) -> None:
    own, other = note(b"AMDGPU\0", METADATA, metadata), note(b"GNU\0", METADATA, metadata)
    for notes in (b"", other, note(b"AMDGPU\0", METADATA + 1, metadata), note(b"AMDGPX\0", METADATA, metadata)):
        for behind in (b"", own):
            with pytest.raises(BadCodeObject, match=r"^no AMDGPU metadata note$"):
                parse(with_notes(good, notes, behind))
    with pytest.raises(BadCodeObject, match=r"^damaged code object: error\("):
        parse(with_notes(good, b"\0" * 4))


@pytest.mark.parametrize(
    ("found", "error"),
    [
        ([], "AttributeError"),
        ({"amdhsa.kernels": 5}, "TypeError"),
        ({"amdhsa.kernels": ["add"]}, "TypeError"),
        ({"amdhsa.kernels": [{}]}, "KeyError"),
        ({"amdhsa.kernels": [{".name": "one", ".symbol": "two.kd"}]}, "KeyError"),
        ({1: 2}, "ValueError"),
    ],
)
def test_metadata_of_other_shapes_is_refused(good: bytes, found: Any, error: str) -> None:
    with pytest.raises(BadCodeObject, match=f"^damaged code object: {error}"):
        parse(with_notes(good, note(b"AMDGPU\0", METADATA, msgpack.packb(found))))


def test_metadata_without_end_is_refused(good: bytes) -> None:
    for content in (b"\x91" * 100_000, b"\xdd\xff\xff\xff\xff", b""):
        with pytest.raises(BadCodeObject, match=r"^damaged code object: "):
            parse(with_notes(good, note(b"AMDGPU\0", METADATA, content)))


def test_a_code_object_may_have_no_kernels(good: bytes) -> None:
    shapes: tuple[dict[str, list[object]], ...] = ({}, {"amdhsa.kernels": []})
    for found in shapes:
        code = parse(with_notes(good, note(b"AMDGPU\0", METADATA, msgpack.packb(found))))
        assert code.kernels == {}
        assert code.symbols["one"] == (code.functions[0][0], code.functions[0][1] - code.functions[0][0])


@pytest.mark.parametrize("place", [32, 40])
@pytest.mark.parametrize("at", [1 << 31, 1 << 63, (1 << 64) - 8])
def test_tables_far_outside_the_file_are_refused(good: bytes, place: int, at: int) -> None:
    copy = bytearray(good)
    struct.pack_into("<Q", copy, place, at)
    with pytest.raises(BadCodeObject, match=r"^damaged code object: "):
        parse(bytes(copy))


def test_a_file_that_is_cut_off_anywhere_is_refused(good: bytes) -> None:
    """The table of sections stands at the end."""
    for size in (0, 3, 5, 19, 40, 63, 64, 200, len(good) // 2, len(good) - 1):
        with pytest.raises(BadCodeObject):
            parse(good[:size])
