"""What an AMD GPU code object says of itself: its arch, and of each kernel the registers and memory that it takes.

Source: LLVM, "User Guide for AMDGPU Backend": ELF header flags, and the metadata note of code object version 3 on.
The header is trusted over any label: the arch of a GPU must be that of the code.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgpack

from .dataclass import dataclass
from .targets import ARCH_OF_MACHINE

MACHINE_AMDGPU: Final = 224
MAX_NOTE_BYTES: Final = 16 << 20
_HEADER: Final = struct.Struct("<4s5B7xHHIQQQIHHHHHH")
_SEGMENT: Final = struct.Struct("<IIQQQQQQ")
_NOTE: Final = struct.Struct("<III")
_SEGMENT_NOTE: Final = 4
_NOTE_METADATA: Final = 32


class CodeObjectError(ValueError):
    """The bytes are no whole AMD GPU code object; the message says what was expected and what was found."""


@dataclass(frozen=True, slots=True)
class KernelResources:
    """What one kernel takes.

    Attributes:
        vgprs: vector registers a lane, accumulation registers included.
        sgprs: scalar registers a wave.
        spills: registers spilled to memory, vector and scalar.
        lds_bytes: of a workgroup.
        scratch_bytes: private memory of a lane.
        kernarg_bytes: arguments.
        wave_size: 32 or 64.
        max_threads: largest workgroup that it was compiled for.
    """

    name: str
    vgprs: int
    sgprs: int
    spills: int
    lds_bytes: int
    scratch_bytes: int
    kernarg_bytes: int
    wave_size: int
    max_threads: int


@dataclass(frozen=True, slots=True)
class CodeObjectFacts:
    """The arch in the header and the kernels in the notes."""

    arch: str
    kernels: tuple[KernelResources, ...]


def read_code_object(data: bytes) -> CodeObjectFacts:
    """Read and check a raw ELF code object.

    Raises:
        CodeObjectError: it is something else, or cut short.
    """
    if len(data) < _HEADER.size:
        raise CodeObjectError(f"expected an ELF code object, found {len(data)} bytes")
    magic, bits, order, _, _, _, _, machine, _, _, segments, sections, flags, _, size, count, section_size, num, _ = (
        _HEADER.unpack_from(data)
    )
    if magic != b"\x7fELF" or bits != 2 or order != 1 or machine != MACHINE_AMDGPU:
        raise CodeObjectError(f"expected an ELF code object for AMD GPUs, found machine {machine}")
    if flags & 0xFF not in ARCH_OF_MACHINE:
        raise CodeObjectError(f"expected a known arch, found {flags & 0xFF:#x} in the ELF flags")
    if size != _SEGMENT.size or segments + count * size > len(data):
        raise CodeObjectError(f"expected {count} program headers @{segments}, found {len(data)} bytes in all")
    table = [_SEGMENT.unpack_from(data, segments + index * size) for index in range(count)]
    end = max((sections + num * section_size, *(offset + in_file for _, _, offset, _, _, in_file, _, _ in table)))
    if end > len(data):
        raise CodeObjectError(f"expected at least {end} bytes, found {len(data)}: the code object is cut short")
    notes = [data[offset : offset + n] for kind, _, offset, _, _, n, _, _ in table if kind == _SEGMENT_NOTE]
    kernels = tuple(kernel for note in notes for kernel in _kernels(note))
    return CodeObjectFacts(ARCH_OF_MACHINE[flags & 0xFF], kernels)


def _kernels(notes: bytes) -> Iterator[KernelResources]:
    position = 0
    while position + _NOTE.size <= len(notes):
        name_bytes, n_bytes, kind = _NOTE.unpack_from(notes, position)
        start = position + _NOTE.size + -(-name_bytes // 4) * 4
        if start + n_bytes > len(notes) or n_bytes > MAX_NOTE_BYTES:
            raise CodeObjectError(f"expected a note of {n_bytes} bytes, found {len(notes) - start}")
        if kind == _NOTE_METADATA and notes[position + _NOTE.size :].startswith(b"AMDGPU\0"):
            yield from _metadata(notes[start : start + n_bytes])
        position = start + -(-n_bytes // 4) * 4


def _metadata(data: bytes) -> Iterator[KernelResources]:
    try:
        rows = msgpack.unpackb(data)["amdhsa.kernels"]
        for row in rows:
            yield _resources(row)
    except (ValueError, TypeError, KeyError, AttributeError, msgpack.UnpackException) as error:
        raise CodeObjectError(f"expected AMDGPU metadata, found {error!r}") from None


def _resources(row: Mapping[str, Any]) -> KernelResources:
    return KernelResources(
        name=str(row[".name"]),
        vgprs=int(row[".vgpr_count"]),
        sgprs=int(row[".sgpr_count"]),
        spills=int(row[".vgpr_spill_count"]) + int(row[".sgpr_spill_count"]),
        lds_bytes=int(row[".group_segment_fixed_size"]),
        scratch_bytes=int(row[".private_segment_fixed_size"]),
        kernarg_bytes=int(row[".kernarg_segment_size"]),
        wave_size=int(row[".wavefront_size"]),
        max_threads=int(row[".max_flat_workgroup_size"]),
    )
