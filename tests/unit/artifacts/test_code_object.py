"""Code objects put together by hand: what is read of them, and what is refused."""

from __future__ import annotations

import struct
from typing import Any

import msgpack
import pytest

from rocmforge.artifacts.code_object import CodeObjectError, KernelResources, read_code_object

HEADER, SEGMENT = struct.Struct("<4s5B7xHHIQQQIHHHHHH"), struct.Struct("<IIQQQQQQ")
ROW = {
    ".name": "embed",
    ".vgpr_count": 11,
    ".sgpr_count": 22,
    ".vgpr_spill_count": 3,
    ".sgpr_spill_count": 4,
    ".group_segment_fixed_size": 55,
    ".private_segment_fixed_size": 66,
    ".kernarg_segment_size": 77,
    ".wavefront_size": 32,
    ".max_flat_workgroup_size": 1024,
    ".unheard_of": [1],
}
EMBED = KernelResources("embed", 11, 22, 7, 55, 66, 77, 32, 1024)
METADATA = msgpack.packb({"amdhsa.kernels": [ROW, ROW | {".name": "norm", ".vgpr_spill_count": 0}]})
NORM = KernelResources("norm", 11, 22, 4, 55, 66, 77, 32, 1024)


def note(name: bytes, content: bytes, kind: int = 32) -> bytes:
    padded = (part + bytes(-len(part) % 4) for part in (name, content))
    return struct.pack("<III", len(name), len(content), kind) + b"".join(padded)


def code_object(notes: bytes, flags: int = 0x41, **header: Any) -> bytes:
    """An ELF file of a header, two segments, of which the second holds notes, and a table of one section at its end."""
    fields = {
        **{"magic": b"\x7fELF", "bits": 2, "order": 1, "version": 1, "abi": 64, "abi_version": 3, "type": 3},
        **{"machine": 224, "elf": 1, "entry": 0, "segments": 64, "sections": 176 + len(notes), "flags": flags},
        **{"header_bytes": 64, "size": 56, "count": 2, "section_size": 64, "num": 1, "names": 0},
        **header,
    }
    loaded = SEGMENT.pack(1, 5, 0, 0, 0, 176, 176, 4096)
    held = SEGMENT.pack(4, 4, 176, 176, 176, len(notes), len(notes), 4)
    return HEADER.pack(*fields.values()) + loaded + held + notes + bytes(64)


GOOD = note(b"GNU\0", b"build", 3) + note(b"AMDGPU\0", METADATA)


def test_what_a_code_object_says_of_itself() -> None:
    facts = read_code_object(code_object(GOOD))
    assert (facts.arch, facts.kernels) == ("gfx1100", (EMBED, NORM))
    # Of the flags the low byte alone is the machine.
    assert read_code_object(code_object(GOOD, 0x54C)).arch == "gfx942"


@pytest.mark.parametrize(
    "notes",
    [
        b"",
        note(b"AMDGPU\0", METADATA, 31),
        note(b"AMDGPV\0", METADATA),
        note(b"\0AMDGPU\0", METADATA),
        note(b"other\0", b"no msgpack"),
        GOOD[:35],
    ],
    ids=["none", "other-kind", "other-name", "name-inside", "other-content", "cut-before-the-next"],
)
def test_notes_that_are_none_of_ours_are_passed_over(notes: bytes) -> None:
    assert read_code_object(code_object(notes)).kernels == ()


def test_notes_one_after_another() -> None:
    """Whatever stands before: names and contents of any length are filled up to four bytes."""
    for name in (b"", b"a", b"ab", b"abc", b"abcd"):
        for content in (b"", b"1", b"12", b"123", b"1234"):
            notes = note(name, content) + note(b"AMDGPU\0", METADATA) + note(name, content)
            assert read_code_object(code_object(notes)).kernels == (EMBED, NORM)
    twice = note(b"AMDGPU\0", METADATA) * 2
    assert read_code_object(code_object(twice)).kernels == (EMBED, NORM) * 2


@pytest.mark.parametrize(
    "header",
    [
        {"magic": b"\x7fELG"},
        {"bits": 1},
        {"order": 2},
        {"machine": 62},
    ],
    ids=["magic", "bits", "order", "machine"],
)
def test_files_of_another_kind_are_refused(header: dict[str, Any]) -> None:
    found = header.get("machine", 224)
    with pytest.raises(CodeObjectError, match=f"^expected an ELF code object for AMD GPUs, found machine {found}$"):
        read_code_object(code_object(GOOD, **header))


def test_an_unknown_arch_is_refused() -> None:
    with pytest.raises(CodeObjectError, match=r"^expected a known arch, found 0x7 in the ELF flags$"):
        read_code_object(code_object(GOOD, 0xF07))


def test_what_is_too_short_for_a_header_is_refused() -> None:
    alone = code_object(b"", segments=0, sections=0, count=0, num=0)[:64]
    assert read_code_object(alone).kernels == ()
    with pytest.raises(CodeObjectError, match=r"^expected an ELF code object, found 63 bytes$"):
        read_code_object(alone[:63])


def test_program_headers_that_are_not_there_are_refused() -> None:
    for header in ({"size": 57}, {"size": 55}, {"count": 900}, {"segments": 1 << 40}):
        count, at = header.get("count", 2), header.get("segments", 64)
        data = code_object(GOOD, **header)
        problem = f"^expected {count} program headers @{at}, found {len(data)} bytes in all$"
        with pytest.raises(CodeObjectError, match=problem):
            read_code_object(data)
    # They may be the last of the file.
    table = code_object(b"", sections=0, num=0)[:176]
    assert read_code_object(table).kernels == ()
    with pytest.raises(CodeObjectError, match=r"^expected 2 program headers @64, found 175 bytes in all$"):
        read_code_object(table[:175])


def test_a_file_that_is_cut_short_is_refused() -> None:
    data = code_object(GOOD)
    problem = f"^expected at least {len(data)} bytes, found {len(data) - 1}: the code object is cut short$"
    with pytest.raises(CodeObjectError, match=problem):
        read_code_object(data[:-1])
    # Sections are not needed, but what a segment holds is.
    end = 176 + len(GOOD)
    stripped = code_object(GOOD, sections=0, num=0)[:end]
    assert len(read_code_object(stripped).kernels) == 2
    problem = f"^expected at least {end} bytes, found {end - 1}: the code object is cut short$"
    with pytest.raises(CodeObjectError, match=problem):
        read_code_object(stripped[:-1])


def test_a_note_that_is_longer_than_its_segment_is_refused() -> None:
    exact = struct.pack("<III", 0, 5, 7) + b"12345"
    assert read_code_object(code_object(exact)).kernels == ()
    with pytest.raises(CodeObjectError, match=r"^expected a note of 6 bytes, found 5$"):
        read_code_object(code_object(struct.pack("<III", 0, 6, 7) + b"12345"))
    large = 16 << 20
    assert read_code_object(code_object(note(b"", bytes(large), 7))).kernels == ()
    with pytest.raises(CodeObjectError, match=f"^expected a note of {large + 1} bytes, found {large + 4}$"):
        read_code_object(code_object(note(b"", bytes(large + 1), 7)))


@pytest.mark.parametrize(
    "content",
    [
        b"\xc1",
        b"\x92\x01",
        msgpack.packb([1]),
        msgpack.packb(7),
        msgpack.packb({"other": []}),
        msgpack.packb({"amdhsa.kernels": 3}),
        msgpack.packb({"amdhsa.kernels": [3]}),
        msgpack.packb({"amdhsa.kernels": [{".name": "embed"}]}),
        msgpack.packb({"amdhsa.kernels": [ROW | {".vgpr_count": "many"}]}),
        msgpack.packb({"amdhsa.kernels": [ROW | {".vgpr_count": None}]}),
        msgpack.packb({3: 4}),
        b"\x81\xa1\xff\x01",
    ],
)
def test_metadata_that_is_none_is_refused(content: bytes) -> None:
    with pytest.raises(CodeObjectError, match=r"^expected AMDGPU metadata, found "):
        read_code_object(code_object(note(b"AMDGPU\0", content)))
