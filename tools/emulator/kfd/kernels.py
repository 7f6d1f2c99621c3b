"""Which kernel a packet means, by its descriptor's address: in a code object that ROCr has loaded, or bare."""

from __future__ import annotations

import ctypes
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..code_object import CodeObject, Kernel, parse
from ..decode import Decoder, signed
from ..dispatch import ROUND_AND_DENORM_DEFAULT, Dispatcher, LoadedKernel
from ..errors import BadCodeObject
from ..library import load
from ..memory import Block

_DESCRIPTOR_BYTES = 64
_MAX_CODE_BYTES = 1 << 20
_LIBRARY = "libhsa-runtime64.so.1"
_URI = re.compile(r"(memory|file)://([^#?]*)(?:[#?]offset=(\w+)&size=(\w+))?$")


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
class _Known:
    """A translated kernel, and the bytes in memory that it was translated from."""

    loaded: LoadedKernel
    address: int
    content: bytes

    def is_current(self) -> bool:
        return ctypes.string_at(self.address, len(self.content)) == self.content


class Kernels:
    """The kernels of one GPU, translated when first seen. What is loaded later at the same address is noticed."""

    def __init__(self, dispatcher: Dispatcher):
        self._dispatcher = dispatcher
        self._known: dict[int, tuple[_Known, bytes]] = {}

    def at(self, descriptor: int) -> LoadedKernel:
        """The kernel of a descriptor in memory.

        Raises:
            UnknownInstruction: an instruction that the emulator does not have.
            BadCodeObject: there is no kernel.
        """
        words = ctypes.string_at(descriptor, _DESCRIPTOR_BYTES)
        found = self._known.get(descriptor)
        if found is None or found[1] != words or not found[0].is_current():
            found = (self._translate(descriptor), words)
            self._known[descriptor] = found
        return found[0].loaded

    def _translate(self, descriptor: int) -> _Known:
        code, kernel, base = _in_code_object(descriptor) or self._bare(descriptor)
        image = Block(base, len(code.image), "code", True, kernel.name, None)
        if kernel.wave_size not in self._dispatcher.family.wave_sizes:
            raise BadCodeObject(f"kernel {kernel.name}: waves of {kernel.wave_size}")
        loaded = self._dispatcher.load(code, image, kernel, load(kernel.wave_size))
        begin, end = base + kernel.begin, base + kernel.end
        return _Known(loaded, begin, ctypes.string_at(begin, end - begin))

    def _bare(self, descriptor: int) -> tuple[CodeObject, Kernel, int]:
        """A kernel without ELF, as ROCr's own are: its code ends with the `s_endpgm` that no branch jumps over."""
        lds, scratch, kernarg = (ctypes.c_uint32.from_address(descriptor + 4 * i).value for i in range(3))
        begin = descriptor + ctypes.c_int64.from_address(descriptor + 16).value
        rsrc3, rsrc1, rsrc2 = (ctypes.c_uint32.from_address(descriptor + 44 + 4 * i).value for i in range(3))
        properties = ctypes.c_uint16.from_address(descriptor + 56).value
        block = self._dispatcher.memory.find(begin)
        if block is None:
            raise BadCodeObject(f"descriptor at {descriptor:#x}: code at {begin:#x}, where no memory is mapped")
        content = ctypes.string_at(begin, min(_MAX_CODE_BYTES, block.end - begin))
        end = _end_of(Decoder(self._dispatcher.family, content))
        waves = self._dispatcher.family.wave_sizes
        kernel = Kernel(
            name=f"at {descriptor:#x}",
            begin=0,
            end=end,
            lds_bytes=lds,
            scratch_bytes=scratch,
            kernarg_bytes=kernarg,
            # They set the floating-point mode that they like, and have nothing but integers.
            rsrc1=rsrc1 | ROUND_AND_DENORM_DEFAULT << 12,
            rsrc2=rsrc2,
            rsrc3=rsrc3,
            properties=properties,
            wave_size=32 if properties >> 10 & 1 and 32 in waves else 64,
            arguments=(),
            max_workgroup=1024,
            vgprs=0,
            sgprs=0,
            spilled=0,
        )
        return CodeObject(self._dispatcher.family.name, content[:end], (), {}, (), {}), kernel, begin


def _end_of(decoder: Decoder) -> int:
    at = furthest = 0
    while True:
        instruction = decoder.decode(at)
        at += instruction.size
        if instruction.name.startswith(("s_branch", "s_cbranch")):
            furthest = max(furthest, at + 4 * signed(instruction.fields["simm"], 16))
        if instruction.name == "s_endpgm" and at > furthest:
            return at


def _in_code_object(descriptor: int) -> tuple[CodeObject, Kernel, int] | None:
    """The kernel, its code object as it was loaded, and where."""
    for base, uri in _loaded():
        if base > descriptor:
            continue
        data = _read(uri)
        try:
            code = parse(data) if data else None
        except BadCodeObject:
            continue
        if code is None or descriptor >= base + len(code.image):
            continue
        for kernel in code.kernels.values():
            symbol = code.symbols.get(f"{kernel.name}.kd")
            if symbol is not None and base + symbol[0] == descriptor:
                return code, kernel, base
    return None


def _loaded() -> list[tuple[int, str]]:
    """Base address and URI of each code object that ROCr has loaded; it keeps this list for debuggers."""
    try:
        runtime = ctypes.CDLL(_LIBRARY, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
        entry = _Debug.in_dll(runtime, "_amdgpu_r_debug").map
    except (OSError, ValueError):
        return []
    found = []
    while entry:
        found.append((entry.contents.base, (entry.contents.name or b"").decode("utf-8", "replace")))
        entry = entry.contents.next
    return found


def _read(uri: str) -> bytes:
    match = _URI.match(uri)
    if match is None:
        return b""
    kind, place, offset, size = match.groups()
    first, count = int(offset or "0", 0), int(size or "0", 0)
    if kind == "file":
        content = Path(place).read_bytes()
        return content[first : first + count] if count else content[first:]
    return ctypes.string_at(first, count)
