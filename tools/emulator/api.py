"""An emulated AMD GPU behind HIP's own C functions, named and called as a ctypes-bound libamdhip64 would be."""

from __future__ import annotations

import ctypes
from typing import Any

from . import hip_constants as hip
from .api_memory import MemoryApi
from .api_module import ModuleApi
from .api_stream import StreamApi
from .counters import KernelCounters, TrafficCount
from .device_state import DeviceState
from .dispatch import LoadedKernel, instruction_counts, profile
from .families import lds_bytes
from .faults import TrappedFault
from .pointers import address_of, write

_HIP_VERSION = 60_400_000
_BUS_ID = b"0000:03:00.0"


class HipEmulator(MemoryApi, ModuleApi, StreamApi):
    """One emulated device.

    Every method takes what the C function takes and returns its error code. Out parameters are `ctypes.byref` objects,
    pointers or addresses. Kernels run when they are launched; a fault is returned by the launch, and sticks until
    `hipDeviceReset`. `hipGetErrorString` of a fault's code tells what happened where.

    Args:
        arch: gfx name of the device: gfx1100 to gfx1103, gfx1150 to gfx1153, gfx1200, gfx1201, gfx942, gfx950.
        memory_bytes: device memory.
        threads: of the host; 0: all.
        check: trap LDS races and reads of uninitialised LDS. Bounds and alignment are always checked.
        count: count memory traffic and LDS bank conflicts. Instructions are always counted.
        max_ops: operations of one wave before it is called endless.
    Raises:
        ToolchainError: unknown arch, or tinygrad or ziglang missing.
    """

    def __init__(
        self,
        arch: str = "gfx1100",
        memory_bytes: int = 8 << 30,
        threads: int = 0,
        check: bool = True,
        count: bool = True,
        max_ops: int = 2_000_000_000,
    ):
        super().__init__(DeviceState(arch, memory_bytes, threads, check, count, max_ops))

    # What a caller of the real library cannot ask.

    @property
    def arch(self) -> str:
        """gfx name of the device."""
        return self._state.arch

    @property
    def fault(self) -> TrappedFault | None:
        """What stopped the device, if a kernel was trapped."""
        return self._state.fault

    @property
    def live_allocations(self) -> int:
        """Device and pinned allocations that were not freed."""
        return sum(block.kind != "code" for block in self._state.memory.blocks())

    @property
    def live_bytes(self) -> int:
        """Device bytes that were not freed."""
        return self._state.memory.used

    @property
    def calls(self) -> dict[str, int]:
        """Times each function was called."""
        return dict(self._state.calls)

    def inject(self, function: str, call: int, code: int) -> None:
        """Make call number `call` (from 1; 0: every call) of a function return an error code instead of acting."""
        self._state.failures.setdefault(function, {})[call] = code

    def label(self, pointer: Any, name: str) -> None:
        """Name an allocation, for counters and messages.

        Raises:
            KeyError: no allocation is there.
        """
        block = self._state.memory.find(address_of(pointer))
        if block is None:
            raise KeyError(f"no allocation at {address_of(pointer):#x}")
        block.label = name

    def counters(self) -> dict[str, KernelCounters]:
        """Counts by kernel name, over all launches since the start or `reset_counters`."""
        result: dict[str, KernelCounters] = {}
        for name, loads in self._state.kernels.items():
            total = result.setdefault(name, KernelCounters())
            for loaded in loads:
                _add(total, loaded)
        return result

    def reset_counters(self) -> None:
        """Start counting from zero."""
        for loads in self._state.kernels.values():
            for loaded in loads:
                loaded.counters = KernelCounters()
                for hits in loaded.hits:
                    ctypes.memset(hits, 0, ctypes.sizeof(hits))

    def profile(self, kernel: str) -> list[tuple[int, str, int]]:
        """(byte offset, instruction, times executed by a wave) of a kernel, in the order of its code.

        Raises:
            KeyError: no such kernel was loaded.
        """
        return profile(self._state.kernels[kernel][-1])

    # Device and errors.

    def hipInit(self, flags: Any = None) -> int:
        """Nothing to do."""
        return self._enter("hipInit")

    def hipGetDeviceCount(self, count: Any) -> int:
        """One."""
        if code := self._enter("hipGetDeviceCount"):
            return code
        write(count, 1, ctypes.c_int)
        return hip.SUCCESS

    def hipSetDevice(self, device: Any) -> int:
        """Device 0 is the only one."""
        code = self._enter("hipSetDevice")
        return code or self._known(device)

    def hipGetDevice(self, device: Any) -> int:
        """Device 0."""
        if code := self._enter("hipGetDevice"):
            return code
        write(device, 0, ctypes.c_int)
        return hip.SUCCESS

    def _known(self, device: Any) -> int:
        return hip.SUCCESS if int(getattr(device, "value", device)) == 0 else self._state.done(hip.INVALID_DEVICE)

    def hipDeviceReset(self) -> int:
        """Forget the fault; allocations and modules stay."""
        self._state.sticky, self._state.fault = hip.SUCCESS, None
        return hip.SUCCESS

    def hipDeviceGetName(self, name: Any, length: Any, device: Any) -> int:
        """A name that holds the gfx name."""
        code = self._enter("hipDeviceGetName") or self._known(device)
        return code or self._text(name, length, f"Emulated {self._state.arch}".encode())

    def hipDeviceGetPCIBusId(self, text: Any, length: Any, device: Any) -> int:
        """A made-up bus address."""
        code = self._enter("hipDeviceGetPCIBusId") or self._known(device)
        return code or self._text(text, length, _BUS_ID)

    def _text(self, out: Any, length: Any, text: bytes) -> int:
        size = int(getattr(length, "value", length))
        if size < 1:
            return self._state.done(hip.INVALID_VALUE)
        ctypes.memmove(address_of(out), text[: size - 1] + b"\0", min(size, len(text) + 1))
        return hip.SUCCESS

    def hipDeviceTotalMem(self, size: Any, device: Any) -> int:
        """Bytes of device memory."""
        if code := self._enter("hipDeviceTotalMem") or self._known(device):
            return code
        write(size, self._state.memory.capacity, ctypes.c_size_t)
        return hip.SUCCESS

    def hipDeviceGetAttribute(self, value: Any, attribute: Any, device: Any) -> int:
        """The attributes that a runtime needs; others are hipErrorInvalidValue."""
        if code := self._enter("hipDeviceGetAttribute") or self._known(device):
            return code
        found = self._attributes().get(int(getattr(attribute, "value", attribute)))
        if found is None:
            return self._state.done(hip.INVALID_VALUE)
        write(value, found, ctypes.c_int)
        return hip.SUCCESS

    def _attributes(self) -> dict[int, int]:
        family, digits = self._state.family, self._state.arch.removeprefix("gfx")
        return {
            hip.ATTRIBUTE_CLOCK_RATE: 2_500_000,
            hip.ATTRIBUTE_INTEGRATED: 0,
            hip.ATTRIBUTE_L2_CACHE_SIZE: 6 << 20,
            hip.ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: int(digits[:-2]),
            hip.ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: int(digits[-2]),
            **dict.fromkeys(hip.ATTRIBUTE_MAX_BLOCK_DIM, 1024),
            **dict.fromkeys(hip.ATTRIBUTE_MAX_GRID_DIM, 0x7FFFFFFF),
            hip.ATTRIBUTE_MAX_THREADS_PER_BLOCK: 1024,
            hip.ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR: 2048,
            hip.ATTRIBUTE_MEMORY_BUS_WIDTH: 384,
            hip.ATTRIBUTE_MEMORY_CLOCK_RATE: 1_250_000,
            hip.ATTRIBUTE_MULTIPROCESSOR_COUNT: 48,
            hip.ATTRIBUTE_PCI_BUS_ID: 3,
            hip.ATTRIBUTE_PCI_DEVICE_ID: 0,
            hip.ATTRIBUTE_PCI_DOMAIN_ID: 0,
            hip.ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: lds_bytes(self._state.arch),
            hip.ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR: lds_bytes(self._state.arch),
            hip.ATTRIBUTE_UNIFIED_ADDRESSING: 1,
            hip.ATTRIBUTE_WARP_SIZE: family.wave_sizes[0],
        }

    def hipRuntimeGetVersion(self, version: Any) -> int:
        """A version that has all of this."""
        write(version, _HIP_VERSION, ctypes.c_int)
        return hip.SUCCESS

    def hipDriverGetVersion(self, version: Any) -> int:
        """The same as the runtime's."""
        return self.hipRuntimeGetVersion(version)

    def hipGetErrorName(self, code: Any) -> bytes:
        """HIP's name of an error code."""
        number = int(getattr(code, "value", code))
        return hip.ERRORS.get(number, hip.ERRORS[hip.UNKNOWN])[0].encode()

    def hipGetErrorString(self, code: Any) -> bytes:
        """HIP's text, and behind it what the emulator knows of the last such error."""
        number = int(getattr(code, "value", code))
        text = hip.ERRORS.get(number, hip.ERRORS[hip.UNKNOWN])[1]
        detail = self._state.detail.get(number)
        return (f"{text}: {detail}" if detail else text).encode()

    def hipGetLastError(self) -> int:
        """The last error, which is then forgotten."""
        code, self._state.last_error = self._state.last_error, hip.SUCCESS
        return code

    def hipPeekAtLastError(self) -> int:
        """The last error."""
        return self._state.last_error


def _add(total: KernelCounters, loaded: LoadedKernel) -> None:
    one = loaded.counters
    total.launches += one.launches
    total.waves += one.waves
    total.barriers += one.barriers
    total.lds_instructions += one.lds_instructions
    total.lds_bytes += one.lds_bytes
    total.lds_conflict_cycles += one.lds_conflict_cycles
    total.seconds += one.seconds
    total.loads.add(one.loads)
    total.stores.add(one.stores)
    for label, pair in one.by_allocation.items():
        kept = total.by_allocation.setdefault(label, (TrafficCount(), TrafficCount()))
        kept[0].add(pair[0])
        kept[1].add(pair[1])
    for name, count in instruction_counts(loaded).items():
        total.instructions[name] += count
