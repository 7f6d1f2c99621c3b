"""AMD GPU code objects: the ELF, its kernel descriptors and its metadata.

Layouts: LLVM's "User Guide for AMDGPU Backend", sections ELF Code Object, Kernel Descriptor and Code Object Metadata.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import msgpack

from ...artifacts.targets import ARCH_OF_MACHINE
from .errors import BadCodeObject

_EM_AMDGPU = 224
_PT_LOAD, _SHT_SYMTAB, _SHT_RELA, _SHT_NOTE, _SHT_DYNSYM = 1, 2, 4, 7, 11
_NT_METADATA = 32
_R_ABS64, _R_RELATIVE64 = 3, 13
_STT_FUNC = 2
_MAX_IMAGE_BYTES = 256 << 20
_MAX_KERNARG_BYTES = 64 << 10


@dataclass(frozen=True)
class Argument:
    """A kernel argument: bytes and place in the kernarg segment; `kind` is the metadata's `.value_kind`."""

    offset: int
    size: int
    kind: str


@dataclass(frozen=True)
class Kernel:
    """A kernel's descriptor and metadata.

    Attributes:
        begin, end: byte range of its code in the image.
        lds_bytes, scratch_bytes: static; scratch is for one work-item.
        kernarg_bytes: size of the kernarg segment.
        vgprs, sgprs, spilled: register counts of the metadata.
        rsrc1, rsrc2, rsrc3, properties: the descriptor's words.
    """

    name: str
    begin: int
    end: int
    lds_bytes: int
    scratch_bytes: int
    kernarg_bytes: int
    rsrc1: int
    rsrc2: int
    rsrc3: int
    properties: int
    wave_size: int
    arguments: tuple[Argument, ...]
    max_workgroup: int
    vgprs: int
    sgprs: int
    spilled: int


@dataclass(frozen=True)
class CodeObject:
    """A loaded code object.

    Attributes:
        arch: from the ELF's flags.
        image: bytes as they lie in memory, before relocation.
        relocations: (offset in the image, offset whose address it takes).
        functions: byte ranges of functions that are not kernels.
        symbols: name to (offset, size).
    """

    arch: str
    image: bytes
    relocations: tuple[tuple[int, int], ...]
    kernels: dict[str, Kernel]
    functions: tuple[tuple[int, int], ...]
    symbols: dict[str, tuple[int, int]]


def parse(data: bytes) -> CodeObject:
    """Read a raw ELF code object.

    Raises:
        BadCodeObject: not one, or damaged.
    """
    try:
        return _parse(data)
    except (struct.error, LookupError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise BadCodeObject(f"damaged code object: {error!r}") from None


def _parse(data: bytes) -> CodeObject:
    if data[:4] != b"\x7fELF" or data[4:6] != b"\x02\x01":
        raise BadCodeObject("not a 64-bit little-endian ELF")
    machine = struct.unpack_from("<H", data, 18)[0]
    program_at, section_at, flags = struct.unpack_from("<QQI", data, 32)
    program_size, program_count, section_size, section_count, _name_index = struct.unpack_from("<HHHHH", data, 54)
    if machine != _EM_AMDGPU or (flags & 0xFF) not in ARCH_OF_MACHINE:
        raise BadCodeObject(f"not an AMD GPU code object that is known: machine {machine}, flags {flags:#x}")
    image = _load(data, program_at, program_size, program_count)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, section_at + i * section_size) for i in range(section_count)]
    symbols, functions = _symbols(data, sections)
    metadata = _metadata(data, sections)
    kernels = {}
    for item in metadata.get("amdhsa.kernels", []):
        kernel = _kernel(item, image, symbols)
        kernels[kernel.name] = kernel
    entries = {kernel.begin for kernel in kernels.values()}
    return CodeObject(
        arch=ARCH_OF_MACHINE[flags & 0xFF],
        image=image,
        relocations=_relocations(data, sections, symbols, len(image)),
        kernels=kernels,
        functions=tuple(
            (begin, begin + size)
            for begin, size in functions
            if begin not in entries and size and begin >= 0 and begin + size <= len(image)
        ),
        symbols=symbols,
    )


def _load(data: bytes, at: int, size: int, count: int) -> bytes:
    segments = []
    for i in range(count):
        kind, _, offset, address, _, in_file, in_memory, _ = struct.unpack_from("<IIQQQQQQ", data, at + i * size)
        if kind == _PT_LOAD:
            segments.append((offset, address, in_file, in_memory))
    total = max((address + in_memory for _, address, _, in_memory in segments), default=0)
    if not segments or total > _MAX_IMAGE_BYTES:
        raise BadCodeObject(f"{len(segments)} segments to load, {total} bytes")
    image = bytearray(total)
    for offset, address, in_file, in_memory in segments:
        if offset + in_file > len(data) or in_file > in_memory:
            raise BadCodeObject(f"cut off: a segment ends at {offset + in_file}, the file at {len(data)}")
        image[address : address + in_file] = data[offset : offset + in_file]
    return bytes(image)


def _text(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode()


def _symbols(data: bytes, sections: list[tuple[int, ...]]) -> tuple[dict[str, tuple[int, int]], list[tuple[int, int]]]:
    found: dict[str, tuple[int, int]] = {}
    functions: dict[int, int] = {}
    for section in sections:
        if section[1] not in (_SHT_SYMTAB, _SHT_DYNSYM):
            continue
        strings = sections[section[6]][4]
        for at in range(section[4], section[4] + section[5], 24):
            name, info, _, index, value, size = struct.unpack_from("<IBBHQQ", data, at)
            if not index:
                continue
            found[_text(data, strings + name)] = (value, size)
            if info & 15 == _STT_FUNC:
                functions[value] = size
    return found, sorted(functions.items())


def _relocations(
    data: bytes, sections: list[tuple[int, ...]], symbols: dict[str, tuple[int, int]], image_size: int
) -> tuple[tuple[int, int], ...]:
    """(place, target), both offsets in the image: the place takes the image's address plus the target."""
    result = []
    for section in sections:
        if section[1] != _SHT_RELA:
            continue
        table = sections[section[6]]
        for at in range(section[4], section[4] + section[5], 24):
            place, info, addend = struct.unpack_from("<QQq", data, at)
            kind, index = info & 0xFFFFFFFF, info >> 32
            if not 0 <= place <= image_size - 8:
                raise BadCodeObject(f"relocation of {place:#x}, the image ends at {image_size:#x}")
            if kind == _R_RELATIVE64:
                result.append((place, addend))
            elif kind == _R_ABS64:
                name = struct.unpack_from("<I", data, table[4] + 24 * index)[0]
                result.append((place, symbols[_text(data, sections[table[6]][4] + name)][0] + addend))
            else:
                raise BadCodeObject(f"relocation type {kind} at {place:#x}")
    return tuple(result)


def _metadata(data: bytes, sections: list[tuple[int, ...]]) -> dict[str, Any]:
    for section in sections:
        if section[1] != _SHT_NOTE:
            continue
        at, end = section[4], section[4] + section[5]
        while at < end:
            name_size, size, kind = struct.unpack_from("<III", data, at)
            start = at + 12 + (name_size + 3 & ~3)
            if kind == _NT_METADATA and data[at + 12 : at + 18] == b"AMDGPU":
                unpacked: dict[str, Any] = msgpack.unpackb(data[start : start + size])
                return unpacked
            at = start + (size + 3 & ~3)
    raise BadCodeObject("no AMDGPU metadata note")


def _kernel(item: dict[str, Any], image: bytes, symbols: dict[str, tuple[int, int]]) -> Kernel:
    name = item[".name"]
    descriptor = symbols[item[".symbol"]][0]
    lds, scratch, kernarg = struct.unpack_from("<III", image, descriptor)
    entry = struct.unpack_from("<q", image, descriptor + 16)[0]
    rsrc3, rsrc1, rsrc2, properties = struct.unpack_from("<IIIH", image, descriptor + 44)
    begin = descriptor + entry
    end = begin + symbols[name][1]
    if not 0 <= begin < end <= len(image) or begin & 3:
        raise BadCodeObject(f"kernel {name}: code from {begin:#x} to {end:#x} of {len(image):#x}")
    arguments = [Argument(a[".offset"], a[".size"], a[".value_kind"]) for a in item.get(".args", [])]
    if (
        any(a.offset < 0 or a.size < 0 or a.offset + a.size > kernarg for a in arguments)
        or kernarg > _MAX_KERNARG_BYTES
    ):
        raise BadCodeObject(f"kernel {name}: arguments beyond the {kernarg} bytes that the descriptor gives them")
    return Kernel(
        name=name,
        begin=begin,
        end=end,
        lds_bytes=lds,
        scratch_bytes=scratch,
        kernarg_bytes=kernarg,
        rsrc1=rsrc1,
        rsrc2=rsrc2,
        rsrc3=rsrc3,
        properties=properties,
        wave_size=item[".wavefront_size"],
        arguments=tuple(arguments),
        max_workgroup=item[".max_flat_workgroup_size"],
        vgprs=item.get(".vgpr_count", 0),
        sgprs=item.get(".sgpr_count", 0),
        spilled=item.get(".vgpr_spill_count", 0) + item.get(".sgpr_spill_count", 0),
    )
