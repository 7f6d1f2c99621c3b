"""One metadata note for a code object of many kernels.

Each object file brings a note that describes its own kernels, and the linker only lays the notes end to end. A loader
reads the first metadata note that it meets (ROCm's, by amd_comgr) and would not find the kernels of the others.
"""

from __future__ import annotations

import struct
from typing import Final

import msgpack

_SEGMENT_NOTE: Final = 4
_SECTION_NOTE: Final = 7
_NOTE_METADATA: Final = 32
_OWNER: Final = b"AMDGPU\0\0"
_NOTE: Final = struct.Struct("<III")
_KERNELS: Final = "amdhsa.kernels"


def merge_metadata_notes(code: bytes) -> bytes:
    """Put the kernels of all metadata notes into the first; the freed bytes behind it become zeros.

    Args:
        code: a linked ELF code object; this compiler's own linker made it.
    """
    data = bytearray(code)
    headers, sections = struct.unpack_from("<QQ", data, 32)
    size, count, section_size, section_count = struct.unpack_from("<HHHH", data, 54)
    for at in range(headers, headers + count * size, size):
        kind, _, offset, _, _, n_bytes = struct.unpack_from("<IIQQQQ", data, at)
        if kind != _SEGMENT_NOTE:
            continue
        note = _merged(bytes(data[offset : offset + n_bytes]))
        if note is None:
            continue
        data[offset : offset + n_bytes] = note.ljust(n_bytes, b"\0")
        struct.pack_into("<QQ", data, at + 32, len(note), len(note))
        for section in range(sections, sections + section_count * section_size, section_size):
            found = struct.unpack_from("<IIQQQQ", data, section)
            if found[1] == _SECTION_NOTE and found[4] == offset:
                struct.pack_into("<Q", data, section + 32, len(note))
    return bytes(data)


def _merged(notes: bytes) -> bytes | None:
    """Return one note in place of many; None where there is nothing to merge."""
    found = []
    position = 0
    while position + _NOTE.size <= len(notes):
        name_bytes, n_bytes, kind = _NOTE.unpack_from(notes, position)
        start = position + _NOTE.size + -(-name_bytes // 4) * 4
        if kind == _NOTE_METADATA and notes[position + _NOTE.size : start] == _OWNER:
            found.append(msgpack.unpackb(notes[start : start + n_bytes], strict_map_key=False))
        position = start + -(-n_bytes // 4) * 4
    if len(found) < 2:
        return None
    whole = {**found[0], _KERNELS: [kernel for metadata in found for kernel in metadata[_KERNELS]]}
    packed: bytes = msgpack.packb(whole)
    note: bytes = _NOTE.pack(len(_OWNER) - 1, len(packed), _NOTE_METADATA) + _OWNER + packed
    return note.ljust(-(-len(note) // 4) * 4, b"\0")
