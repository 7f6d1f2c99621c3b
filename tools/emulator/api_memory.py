"""HIP functions on memory."""

from __future__ import annotations

import ctypes
from typing import Any

from . import hip_constants as hip
from .api_base import ApiBase
from .pointers import address_of, write


class MemoryApi(ApiBase):
    """hipMalloc and its kin. Device pointers are host addresses, so copies are plain copies."""

    def hipMemGetInfo(self, free: Any, total: Any) -> int:
        """Bytes free and bytes there are."""
        if code := self._enter("hipMemGetInfo"):
            return code
        memory = self._state.memory
        write(free, memory.capacity - memory.used, ctypes.c_size_t)
        write(total, memory.capacity, ctypes.c_size_t)
        return hip.SUCCESS

    def hipMalloc(self, pointer: Any, size: Any) -> int:
        """Allocate device memory."""
        return self._allocate("hipMalloc", pointer, int(getattr(size, "value", size)), "device")

    def hipFree(self, pointer: Any) -> int:
        """Free device memory, and pinned memory just as well; None is allowed."""
        return self._free("hipFree", pointer)

    def hipHostMalloc(self, pointer: Any, size: Any, flags: Any = None) -> int:
        """Allocate pinned host memory, which kernels can reach too."""
        return self._allocate("hipHostMalloc", pointer, int(getattr(size, "value", size)), "host")

    def hipHostFree(self, pointer: Any) -> int:
        """Free pinned host memory, and device memory just as well; None is allowed."""
        return self._free("hipHostFree", pointer)

    def _allocate(self, name: str, pointer: Any, size: int, kind: str) -> int:
        if code := self._enter(name) or self._unborne():
            return code
        if not address_of(pointer):
            return self._state.done(hip.INVALID_VALUE)
        if not size:
            write(pointer, None, ctypes.c_void_p)
            return hip.SUCCESS
        try:
            block = self._state.memory.allocate(size, kind)
        except (MemoryError, OSError):
            return self._state.done(hip.OUT_OF_MEMORY)
        write(pointer, block.address, ctypes.c_void_p)
        return hip.SUCCESS

    def _free(self, name: str, pointer: Any) -> int:
        # Freeing works on a lost device too: clean-up must not hide the first error.
        self._enter(name)
        address = address_of(pointer)
        if not address:
            return hip.SUCCESS
        block = self._state.memory.find(address)
        if block is None or block.kind == "code" or not self._state.memory.free(address):
            return self._state.done(hip.INVALID_VALUE)
        return hip.SUCCESS

    def hipMemcpy(self, destination: Any, source: Any, size: Any, kind: Any) -> int:
        """Copy at once."""
        if code := self._enter("hipMemcpy"):
            return code
        return self._copy(address_of(destination), address_of(source), int(getattr(size, "value", size)), int(kind))

    def hipMemcpyAsync(self, destination: Any, source: Any, size: Any, kind: Any, stream: Any = None) -> int:
        """Copy in stream order; what is wrong with it is said now, also in a capture."""
        if code := self._enter("hipMemcpyAsync"):
            return code
        to, origin, count = address_of(destination), address_of(source), int(getattr(size, "value", size))
        code = self._check_copy(to, origin, count, int(kind))
        return code or self._queue(stream, lambda: self._copy_in_order(to, origin, count, int(kind)))

    def _copy_in_order(self, destination: int, source: int, size: int, kind: int) -> int:
        code = self._copy(destination, source, size, kind)
        if code == hip.SUCCESS and kind == hip.COPY_HOST_TO_DEVICE:
            self._state.memory.mark_fresh(destination)
        return code

    def hipMemcpyHtoD(self, destination: Any, source: Any, size: Any) -> int:
        """Copy from host to device."""
        return self.hipMemcpy(destination, source, size, hip.COPY_HOST_TO_DEVICE)

    def hipMemcpyDtoH(self, destination: Any, source: Any, size: Any) -> int:
        """Copy from device to host."""
        return self.hipMemcpy(destination, source, size, hip.COPY_DEVICE_TO_HOST)

    def hipMemset(self, destination: Any, value: Any, size: Any) -> int:
        """Fill bytes at once."""
        if code := self._enter("hipMemset"):
            return code
        to, byte, count = address_of(destination), int(value), int(getattr(size, "value", size))
        return self._fill(to, byte, count)

    def hipMemsetAsync(self, destination: Any, value: Any, size: Any, stream: Any = None) -> int:
        """Fill bytes in stream order."""
        if code := self._enter("hipMemsetAsync"):
            return code
        to, byte, count = address_of(destination), int(value), int(getattr(size, "value", size))
        return self._check_fill(to, count) or self._queue(stream, lambda: self._fill(to, byte, count))

    def _check_copy(self, destination: int, source: int, size: int, kind: int) -> int:
        memory = self._state.memory
        if not size:
            return hip.SUCCESS
        needs = {
            hip.COPY_HOST_TO_DEVICE: (destination,),
            hip.COPY_DEVICE_TO_HOST: (source,),
            hip.COPY_DEVICE_TO_DEVICE: (destination, source),
        }
        if not destination or not source:
            return self._state.done(hip.INVALID_VALUE)
        if kind not in range(5):
            return self._state.done(hip.INVALID_MEMCPY_DIRECTION)
        for address in needs.get(kind, ()):
            if memory.find(address, size) is None:
                return self._state.done(hip.INVALID_VALUE, f"{size} bytes at {address:#x} are not in one allocation")
        # Even where the kind does not say it is device memory: a copy that starts in an allocation must end in it.
        for address in (destination, source):
            if memory.find(address) is not None and memory.find(address, size) is None:
                return self._state.done(hip.INVALID_VALUE, f"{size} bytes at {address:#x} are not in one allocation")
        return hip.SUCCESS

    def _copy(self, destination: int, source: int, size: int, kind: int) -> int:
        code = self._check_copy(destination, source, size, kind)
        if size and not code:
            ctypes.memmove(destination, source, size)
        return code

    def _check_fill(self, destination: int, size: int) -> int:
        if size and self._state.memory.find(destination, size) is None:
            return self._state.done(hip.INVALID_VALUE)
        return hip.SUCCESS

    def _fill(self, destination: int, value: int, size: int) -> int:
        code = self._check_fill(destination, size)
        if size and not code:
            ctypes.memset(destination, value & 0xFF, size)
        return code
