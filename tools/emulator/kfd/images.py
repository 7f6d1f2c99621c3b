"""Code objects as ROCr has loaded them, read from memory: whoever gave them may have freed them since."""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass

from ..memory import Allocations

_LIBRARY = "libhsa-runtime64.so.1"
_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_HASH, _DT_STRTAB, _DT_SYMTAB = 4, 5, 6
_STT_FUNC = 2
_MAX_IMAGE_BYTES = 256 << 20


class _LinkMap(ctypes.Structure):
    pass


_LinkMap._fields_ = [
    ("base", ctypes.c_uint64),
    ("name", ctypes.c_char_p),
    ("dynamic", ctypes.c_void_p),
    ("next", ctypes.POINTER(_LinkMap)),
]


class _Debug(ctypes.Structure):
    _fields_ = [("version", ctypes.c_int), ("map", ctypes.POINTER(_LinkMap))]


@dataclass(frozen=True)
class Image:
    """A loaded code object.

    Attributes:
        symbols: dynamic symbols: name to (offset, bytes).
        functions: byte ranges of functions that are not kernels.
    """

    base: int
    size: int
    symbols: dict[str, tuple[int, int]]
    functions: tuple[tuple[int, int], ...]

    def kernel_at(self, descriptor: int) -> tuple[str, int, int] | None:
        """Name and byte range of the kernel whose descriptor lies at an address."""
        for name, (offset, _) in self.symbols.items():
            kernel = name.removesuffix(".kd")
            if self.base + offset == descriptor and kernel != name and kernel in self.symbols:
                begin, size = self.symbols[kernel]
                return kernel, begin, begin + size
        return None


def image_of(descriptor: int, memory: Allocations) -> Image | None:
    """The code object that holds a kernel's descriptor."""
    for base in _bases():
        if base <= descriptor < base + _MAX_IMAGE_BYTES and memory.find(base, 64) is not None:
            image = _read(base)
            if image is not None and descriptor < base + image.size:
                return image
    return None


def _bases() -> list[int]:
    """Where code objects are loaded, last first: ROCr keeps this list for debuggers."""
    try:
        runtime = ctypes.CDLL(_LIBRARY, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
        entry = _Debug.in_dll(runtime, "_amdgpu_r_debug").map
    except (OSError, ValueError):
        return []
    found = []
    while entry:
        found.append(entry.contents.base)
        entry = entry.contents.next
    return found[::-1]


def _read(base: int) -> Image | None:
    """An image, from its own headers; None where there is no ELF."""
    header = ctypes.string_at(base, 64)
    if header[:4] != b"\x7fELF":
        return None
    at, size, count = struct.unpack_from("<Q", header, 32)[0], *struct.unpack_from("<HH", header, 54)
    segments = [struct.unpack("<IIQQQQQQ", ctypes.string_at(base + at + i * size, 56)) for i in range(count)]
    total = max((s[3] + s[6] for s in segments if s[0] == _PT_LOAD), default=0)
    dynamic = {tag: value for s in segments if s[0] == _PT_DYNAMIC for tag, value in _dynamic(base + s[3], s[6])}
    if not {_DT_HASH, _DT_STRTAB, _DT_SYMTAB} <= dynamic.keys():
        return None
    number = ctypes.c_uint32.from_address(base + dynamic[_DT_HASH] + 4).value
    symbols: dict[str, tuple[int, int]] = {}
    functions: dict[str, tuple[int, int]] = {}
    for index in range(number):
        entry = ctypes.string_at(base + dynamic[_DT_SYMTAB] + 24 * index, 24)
        name, info, _, section, value, extent = struct.unpack("<IBBHQQ", entry)
        if not section:
            continue
        text = ctypes.string_at(base + dynamic[_DT_STRTAB] + name).decode("utf-8", "replace")
        symbols[text] = (value, extent)
        if info & 15 == _STT_FUNC and extent:
            functions[text] = (value, value + extent)
    others = sorted(place for text, place in functions.items() if f"{text}.kd" not in symbols)
    return Image(base, total, symbols, tuple(others))


def _dynamic(address: int, size: int) -> list[tuple[int, int]]:
    return list(struct.iter_unpack("<QQ", ctypes.string_at(address, size // 16 * 16)))
