"""Which kernel a packet means, by its descriptor's address: in a code object that ROCr has loaded, or bare."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, replace

from ..code_object import CodeObject, Kernel
from ..decode import Decoder, signed
from ..dispatch import ROUND_AND_DENORM_DEFAULT, Dispatcher, LoadedKernel
from ..errors import BadCodeObject
from ..library import load
from ..memory import Block
from .images import image_of

_DESCRIPTOR_BYTES = 64
_MAX_BARE_BYTES = 1 << 20
_MAX_WORKGROUP = 1024
# HIP's own kernels. They and ROCr's copy to any address with whole words; ours are held to alignment.
_HIP_OWN = "__amd_rocclr_"


@dataclass(frozen=True)
class _Known:
    """A translated kernel, and what it was translated from."""

    loaded: LoadedKernel
    descriptor: bytes
    code: bytes

    def is_current(self, descriptor: bytes) -> bool:
        begin = self.loaded.image.address + self.loaded.kernel.begin
        return self.descriptor == descriptor and ctypes.string_at(begin, len(self.code)) == self.code


class Kernels:
    """The kernels of one GPU, translated when first seen. What is loaded later at the same address is noticed."""

    def __init__(self, dispatcher: Dispatcher):
        self._dispatcher = dispatcher
        self._known: dict[int, _Known] = {}

    def at(self, address: int) -> LoadedKernel:
        """The kernel of the descriptor at an address.

        Raises:
            UnknownInstruction: an instruction that the emulator does not have.
            BadCodeObject: there is no kernel.
        """
        if self._dispatcher.memory.find(address, _DESCRIPTOR_BYTES) is None:
            raise BadCodeObject(f"no memory is mapped at {address:#x}, where a kernel's descriptor should be")
        descriptor = ctypes.string_at(address, _DESCRIPTOR_BYTES)
        found = self._known.get(address)
        if found is None or not found.is_current(descriptor):
            loaded = self._in_code_object(address) or self._bare(address)
            begin, end = loaded.kernel.begin, loaded.kernel.end
            code = ctypes.string_at(loaded.image.address + begin, end - begin)
            found = self._known[address] = _Known(loaded, descriptor, code)
        return found.loaded

    def _in_code_object(self, address: int) -> LoadedKernel | None:
        image = image_of(address, self._dispatcher.memory)
        found = image.kernel_at(address) if image is not None else None
        if image is None or found is None:
            return None
        name, begin, end = found
        loaded = self._load(_describe(address, name, begin, end), image.base, image.size, image.functions)
        loaded.unaligned = name.startswith(_HIP_OWN)
        return loaded

    def _bare(self, address: int) -> LoadedKernel:
        """A kernel without ELF, as ROCr's own are: its code ends with the `s_endpgm` that no branch jumps over."""
        begin = address + ctypes.c_int64.from_address(address + 16).value
        block = self._dispatcher.memory.find(begin)
        if block is None:
            raise BadCodeObject(
                f"descriptor at {address:#x}: no memory is mapped at {begin:#x}, where its code should be"
            )
        content = ctypes.string_at(begin, min(_MAX_BARE_BYTES, block.end - begin))
        end = _end_of(Decoder(self._dispatcher.family, content))
        kernel = _describe(address, f"at {address:#x}", 0, end)
        # They set the floating-point mode that they like, and have nothing but integers.
        kernel = replace(kernel, rsrc1=kernel.rsrc1 | ROUND_AND_DENORM_DEFAULT << 12)
        loaded = self._load(kernel, begin, end, ())
        loaded.unaligned = True
        return loaded

    def _load(self, kernel: Kernel, base: int, size: int, functions: tuple[tuple[int, int], ...]) -> LoadedKernel:
        if kernel.wave_size not in self._dispatcher.family.wave_sizes:
            raise BadCodeObject(f"kernel {kernel.name}: waves of {kernel.wave_size}")
        code = CodeObject(self._dispatcher.family.name, b"", (), {}, functions, {})
        image = Block(base, size, "code", True, kernel.name, None)
        return self._dispatcher.load(code, image, kernel, load(kernel.wave_size))


def _describe(address: int, name: str, begin: int, end: int) -> Kernel:
    """A kernel by its descriptor in memory."""
    lds, scratch, kernarg = (ctypes.c_uint32.from_address(address + 4 * i).value for i in range(3))
    rsrc3, rsrc1, rsrc2 = (ctypes.c_uint32.from_address(address + 44 + 4 * i).value for i in range(3))
    properties = ctypes.c_uint16.from_address(address + 56).value
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
        wave_size=32 if properties >> 10 & 1 else 64,
        arguments=(),
        max_workgroup=_MAX_WORKGROUP,
        vgprs=0,
        sgprs=0,
        spilled=0,
    )


def _end_of(decoder: Decoder) -> int:
    at = furthest = 0
    while True:
        instruction = decoder.decode(at)
        at += instruction.size
        if instruction.name.startswith(("s_branch", "s_cbranch")):
            furthest = max(furthest, at + 4 * signed(instruction.fields["simm"], 16))
        if instruction.name == "s_endpgm" and at > furthest:
            return at
