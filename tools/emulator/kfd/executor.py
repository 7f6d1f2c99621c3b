"""Runs the kernels of the emulated driver's queues; imported by the shim into the process that it is loaded in.

ROCMFORGE_KFD_MAX_OPS: operations of one wave before its kernel counts as hung.
ROCMFORGE_KFD_LOG: a file that takes a line for each kernel: GPU, kernel, work-items, seconds.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import sys
import time
from dataclasses import dataclass
from threading import Lock
from typing import Any

from ....artifacts.errors import DeviceError, ToolchainError
from ..dispatch import PACKET, Dispatcher
from ..families import family, family_name
from ..faults import BOUNDS, DEADLOCK, HANG, KINDS, READ_ONLY, TrappedFault
from .kernels import Kernels
from .shim import BAD_CODE, EXCEPTION, HUNG, PAGE_FAULT, RAN, READ_ONLY_FAULT, DriverMemory, Execute, Shim

_MAX_OPS = 2_000_000_000
# What hardware notices too. The rest it would not (races, uninitialised LDS, alignment): an exception of the queue.
_RESULTS = {
    KINDS[BOUNDS]: PAGE_FAULT,
    KINDS[READ_ONLY]: READ_ONLY_FAULT,
    KINDS[HANG]: HUNG,
    KINDS[DEADLOCK]: HUNG,
}


@dataclass
class _Device:
    """An emulated GPU; it runs one kernel at a time."""

    memory: DriverMemory
    dispatcher: Dispatcher
    kernels: Kernels
    lock: Lock


class Executor:
    """Kernels of all GPUs of this process."""

    def __init__(self, shim: Shim, archs: list[str]):
        self._shim, self._archs = shim, archs
        self._devices: dict[int, _Device] = {}
        self._lock = Lock()
        self._log = os.environ.get("ROCMFORGE_KFD_LOG")
        self.callback = Execute(self._execute)

    def _device(self, index: int) -> _Device:
        with self._lock:
            if index not in self._devices:
                memory = DriverMemory(self._shim, index)
                max_ops = int(os.environ.get("ROCMFORGE_KFD_MAX_OPS", _MAX_OPS))
                kind, threads = family(family_name(self._archs[index])), os.cpu_count() or 1
                dispatcher = Dispatcher(kind, memory, threads, check=True, count=False, max_ops=max_ops)
                self._devices[index] = _Device(memory, dispatcher, Kernels(dispatcher), Lock())
            return self._devices[index]

    def _execute(self, gpu: int, packet: int, address: Any) -> int:
        """Run a packet's kernel; one of the shim's results."""
        try:
            device = self._device(gpu)
            with device.lock:
                device.memory.refresh()
                fault = self._run(device, gpu, packet)
        except (DeviceError, ToolchainError) as error:
            _say(f"gpu {gpu}: {error}")
            return BAD_CODE
        except BaseException as error:  # nothing may pass into the queue's thread
            _say(f"gpu {gpu}: {error!r}")
            return EXCEPTION
        if fault is None:
            return RAN
        _say(f"gpu {gpu}: {fault.message}")
        address[0] = fault.address
        return _RESULTS.get(fault.kind, EXCEPTION)

    def _run(self, device: _Device, gpu: int, packet: int) -> TrappedFault | None:
        descriptor = PACKET.unpack(ctypes.string_at(packet, PACKET.size))[11]
        begun = time.perf_counter()
        kernel = device.kernels.at(descriptor)
        fault = device.dispatcher.dispatch(kernel, packet)
        if self._log:
            items = PACKET.unpack(ctypes.string_at(packet, PACKET.size))[6:9]
            with open(self._log, "a", encoding="utf-8") as file:
                file.write(f"{gpu} {kernel.kernel.name} {items} {time.perf_counter() - begun:.6f}\n")
        return fault


def _say(text: str) -> None:
    # AMD's runtime is about to abort this process: nothing buffered.
    os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"rocmforge kfd: {text}\n".encode())


_attached: list[Executor] = []


def attach() -> None:
    """Take the kernels of this process's queues, until the interpreter ends."""
    if _attached:
        return
    shim = Shim()
    archs = [row.split(",")[0] for row in os.environ["ROCMFORGE_KFD_GPUS"].split(";")]
    executor = Executor(shim, archs)
    _attached.append(executor)
    shim.attach(executor.callback)
    atexit.register(shim.attach, None)
