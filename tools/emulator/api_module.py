"""HIP functions on modules and kernels."""

from __future__ import annotations

import ctypes
from typing import Any

from . import hip_constants as hip
from .api_base import ApiBase
from .code_object import CodeObject, parse
from .device_state import Module
from .dispatch import LoadedKernel
from .errors import BadCodeObject, UnknownInstruction
from .families import lds_bytes, runs_on
from .faults import BOUNDS, KINDS, READ_ONLY
from .library import load
from .pointers import address_of, length_of, write

_MAX_WORKGROUP = 1024
_MAX_WORK_ITEMS = (1 << 32) - 1  # of a dimension: what the packet holds
_ADDRESS_KINDS = (KINDS[BOUNDS], KINDS[READ_ONLY])


class ModuleApi(ApiBase):
    """hipModuleLoadData, hipModuleLaunchKernel and what lies between."""

    def hipModuleLoadData(self, module: Any, image: Any) -> int:
        """Load a raw ELF code object of this device's arch, or of its family's generic one."""
        if code := self._enter("hipModuleLoadData"):
            return code
        try:
            parsed = parse(_read_image(image))
        except BadCodeObject as error:
            return self._state.done(hip.INVALID_IMAGE, str(error))
        if not runs_on(parsed.arch, self._state.arch):
            return self._state.done(hip.NO_BINARY_FOR_GPU, f"code for {parsed.arch}, device is {self._state.arch}")
        try:
            loaded = self._place(parsed)
        except (MemoryError, OSError):
            return self._state.done(hip.OUT_OF_MEMORY)
        handle = self._state.handle()
        self._state.modules[handle] = loaded
        write(module, handle, ctypes.c_void_p)
        return hip.SUCCESS

    def _place(self, code: CodeObject) -> Module:
        block = self._state.memory.allocate(len(code.image), kind="code", label="code")
        ctypes.memmove(block.address, code.image, len(code.image))
        for place, target in code.relocations:
            ctypes.c_uint64.from_address(block.address + place).value = block.address + target
        return Module(code, block)

    def hipModuleUnload(self, module: Any) -> int:
        """Unload; its functions become invalid."""
        self._enter("hipModuleUnload")
        found = self._state.modules.pop(address_of(module), None)
        if found is None:
            return self._state.done(hip.INVALID_HANDLE)
        for handle in found.functions.values():
            self._state.functions.pop(handle, None)
        self._state.memory.free(found.image.address)
        return hip.SUCCESS

    def hipModuleGetFunction(self, function: Any, module: Any, name: Any) -> int:
        """Find and translate a kernel. An instruction that is not known makes this fail, by name."""
        if code := self._enter("hipModuleGetFunction"):
            return code
        found = self._state.modules.get(address_of(module))
        text = name.decode() if isinstance(name, bytes) else ctypes.string_at(address_of(name)).decode()
        if found is None:
            return self._state.done(hip.INVALID_HANDLE)
        if text not in found.code.kernels:
            return self._state.done(hip.NOT_FOUND if text else hip.INVALID_VALUE, f"no kernel {text!r}")
        if text not in found.functions:
            kernel = found.code.kernels[text]
            if kernel.wave_size not in self._state.family.wave_sizes:
                return self._state.done(hip.INVALID_IMAGE, f"waves of {kernel.wave_size} on {self._state.arch}")
            try:
                loaded = self._state.dispatcher.load(found.code, found.image, kernel, load(kernel.wave_size))
            except (UnknownInstruction, BadCodeObject) as error:
                return self._state.done(hip.INVALID_IMAGE, f"kernel {text}: {error}")
            found.functions[text] = self._state.handle()
            self._state.functions[found.functions[text]] = loaded
            self._state.kernels.setdefault(text, []).append(loaded)
        write(function, found.functions[text], ctypes.c_void_p)
        return hip.SUCCESS

    def hipModuleGetGlobal(self, pointer: Any, size: Any, module: Any, name: Any) -> int:
        """Address and bytes of a device variable."""
        if code := self._enter("hipModuleGetGlobal"):
            return code
        found = self._state.modules.get(address_of(module))
        text = name.decode() if isinstance(name, bytes) else str(name)
        if found is None or text not in found.code.symbols:
            return self._state.done(hip.NOT_FOUND if found else hip.INVALID_HANDLE)
        offset, count = found.code.symbols[text]
        write(pointer, found.image.address + offset, ctypes.c_void_p)
        write(size, count, ctypes.c_size_t)
        return hip.SUCCESS

    def hipModuleLaunchKernel(
        self,
        function: Any,
        grid_x: Any,
        grid_y: Any,
        grid_z: Any,
        block_x: Any,
        block_y: Any,
        block_z: Any,
        shared_bytes: Any,
        stream: Any,
        parameters: Any,
        extra: Any,
    ) -> int:
        """Launch; arguments are copied now, also into a graph."""
        if code := self._enter("hipModuleLaunchKernel"):
            return code
        loaded = self._state.functions.get(address_of(function))
        if loaded is None:
            return self._state.done(hip.INVALID_HANDLE)
        numbers = [
            int(getattr(v, "value", v)) for v in (grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes)
        ]
        grid, block, shared = (numbers[0], numbers[1], numbers[2]), (numbers[3], numbers[4], numbers[5]), numbers[6]
        items = block[0] * block[1] * block[2]
        most = max(grid[axis] * block[axis] for axis in range(3))
        too_large = items > min(_MAX_WORKGROUP, loaded.kernel.max_workgroup)
        if too_large or min(grid) < 1 or min(block) < 1 or most > _MAX_WORK_ITEMS:
            # HIP 7.2 has another word for a large block where the stream captures.
            code = hip.INVALID_CONFIGURATION if too_large and self._captures(stream) else hip.INVALID_VALUE
            return self._state.done(code, f"grid {grid}, block {block}")
        if loaded.kernel.lds_bytes + shared > lds_bytes(self._state.arch):
            return self._state.done(hip.INVALID_VALUE, f"{loaded.kernel.lds_bytes + shared} bytes of LDS")
        arguments = _arguments(loaded, parameters, extra)
        if arguments is None:
            return self._state.done(hip.INVALID_VALUE)
        return self._queue(stream, lambda: self._run(loaded, grid, block, shared, arguments))

    def _run(
        self,
        loaded: LoadedKernel,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        shared: int,
        arguments: bytes,
    ) -> int:
        try:
            fault = self._state.launcher.launch(loaded, grid, block, shared, arguments)
        except BadCodeObject as error:
            return self._state.done(hip.INVALID_VALUE, str(error))
        except MemoryError:
            return self._state.done(hip.OUT_OF_MEMORY)
        if fault is None:
            return hip.SUCCESS
        self._state.fault = fault
        self._state.sticky = hip.ILLEGAL_ADDRESS if fault.kind in _ADDRESS_KINDS else hip.LAUNCH_FAILURE
        return self._state.done(self._state.sticky, fault.message)


def _read_image(image: Any) -> bytes:
    """The ELF at a pointer: up to where its header says that the last section ends."""
    address, known = address_of(image), length_of(image, 0)
    if known:
        return ctypes.string_at(address, known)
    if not address or ctypes.string_at(address, 4) != b"\x7fELF":
        raise BadCodeObject("not an ELF")
    sections = ctypes.c_uint64.from_address(address + 40).value
    size, count = (ctypes.c_uint16.from_address(address + at).value for at in (58, 60))
    return ctypes.string_at(address, sections + size * count)


def _arguments(loaded: LoadedKernel, parameters: Any, extra: Any) -> bytes | None:
    """The explicit part of the kernarg segment, from an array of pointers or a buffer; None where neither is given."""
    explicit = [a for a in loaded.kernel.arguments if not a.kind.startswith("hidden_")]
    segment = memoryview(bytearray(max((a.offset + a.size for a in explicit), default=0)))
    if address_of(extra):
        return _buffer(extra)
    pointers = address_of(parameters)
    if not pointers:
        return None if explicit else b""
    for index, argument in enumerate(explicit):
        at = ctypes.c_void_p.from_address(pointers + 8 * index).value
        if not at:
            return None
        segment[argument.offset : argument.offset + argument.size] = ctypes.string_at(at, argument.size)
    return bytes(segment)


def _buffer(extra: Any) -> bytes | None:
    at, pointer, size = address_of(extra), 0, 0
    while True:
        key = ctypes.c_void_p.from_address(at).value
        if key == hip.LAUNCH_PARAM_END or not key:
            break
        value = ctypes.c_void_p.from_address(at + 8).value or 0
        if key == hip.LAUNCH_PARAM_BUFFER_POINTER:
            pointer = value
        elif key == hip.LAUNCH_PARAM_BUFFER_SIZE:
            size = ctypes.c_size_t.from_address(value).value
        at += 16
    return ctypes.string_at(pointer, size) if pointer else None
