"""HIP's functions over plain memory: counts what is held, fails when told to, records what is launched.

Work on a stream is put off until somebody waits for the stream, as late as a GPU could do it. So who overwrites memory
that a copy has yet to read, or reads what a kernel has yet to write, is found out.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import struct
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from rocmforge.artifacts.code_object import CodeObjectError, read_code_object
from rocmforge.artifacts.targets import GENERIC_ARCHES
from rocmforge.runtime.device.hip.api import _ARGUMENTS, _TEXTS, OPTIONAL, HipApi
from rocmforge.runtime.device.hip.step import SAMPLING, STEP

ERRORS = {
    1: (b"hipErrorInvalidValue", b"invalid argument"),
    2: (b"hipErrorOutOfMemory", b"out of memory"),
    100: (b"hipErrorNoDevice", b"no ROCm-capable device is detected"),
    200: (b"hipErrorInvalidImage", b"device kernel image is invalid"),
    209: (b"hipErrorNoBinaryForGpu", b"no kernel image is available for execution on the device"),
    500: (b"hipErrorNotFound", b"named symbol not found"),
    600: (b"hipErrorNotReady", b"device not ready"),
    719: (b"hipErrorLaunchFailure", b"unspecified launch failure"),
    900: (b"hipErrorStreamCaptureUnsupported", b"operation not permitted when stream is capturing"),
    901: (b"hipErrorStreamCaptureInvalidated", b"operation failed due to a previous error during capture"),
}
INVALID_VALUE, OUT_OF_MEMORY, NO_DEVICE, INVALID_IMAGE, NO_BINARY, NOT_FOUND = 1, 2, 100, 200, 209, 500
NOT_READY, LAUNCH_FAILURE, CAPTURE_UNSUPPORTED, CAPTURE_INVALIDATED = 600, 719, 900, 901
MACHINES = {"gfx90a": 0x3F, "gfx942": 0x4C, "gfx1030": 0x36, "gfx1100": 0x41, "gfx1101": 0x46, "gfx11-generic": 0x54}


def code_object(arch: str, machine: int = 224) -> bytes:
    """The least that passes for an ELF code object of an arch: its header."""
    return struct.pack(
        "<4s5B7xHHIQQQIHHHHHH",
        *(b"\x7fELF", 2, 1, 1, 64, 2),
        *(3, machine, 1, 0, 64, 64, MACHINES[arch], 64, 56, 0, 64, 0, 0),
    )


@dataclass(frozen=True)
class Device:
    """A GPU as HIP shows it."""

    arch: str = "gfx1100"
    name: str = "AMD Radeon RX 7900 XTX"
    bus_id: str = "0000:03:00.0"


@dataclass(frozen=True)
class Launched:
    """A kernel that ran, with what it saw."""

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    arguments: tuple[int, ...]
    num_tokens: int
    num_logits: int
    token_ids: tuple[int, ...]


def _handle_of(value: Any) -> int:
    """Of a `c_void_p`, or of what C passes on of one."""
    return int(value if isinstance(value, int) else value.value)


@dataclass
class Block:
    """An allocation, filled with a pattern."""

    buffer: Any
    size: int
    device: int


@dataclass
class Stream:
    """Work not yet done, what is being recorded, and whether the last recording came to nothing."""

    queue: list[Callable[[], int]] = field(default_factory=list)
    capturing: list[Callable[[], int]] | None = None
    spoilt: bool = False


def through_c(fake: FakeHip) -> HipApi:
    """The fake behind C functions of the library's own signatures: every argument is converted as for the library."""
    library = SimpleNamespace()
    optional = {name: types for name, types in OPTIONAL.items() if hasattr(fake, name)}
    for name, types in {**_ARGUMENTS, **optional}.items():
        if name not in _TEXTS:
            setattr(library, name, ctypes.CFUNCTYPE(ctypes.c_int, *types)(getattr(fake, name)))
    return cast(HipApi, library)


class FakeHip:
    """See the module. Kernels of hip_bundle.py: `step_in` copies the step, `step_echo` tells its number, `embedding`
    has `hidden` begin with the tokens, `output` makes logits of them, of which `sample` makes the token behind row r's.

    `stale` says how replays of graphs go wrong: "step", the step before is still there; "old", the first of all is
    there again; "pointers", a kernel in the middle reads elsewhere; "deaf", no step's number is told, replayed or not.
    """

    def __init__(self, *devices: Device, memory_bytes: int = 1 << 30) -> None:
        self.devices = devices or (Device(),)
        self.memory_bytes = memory_bytes
        self.calls: Counter[str] = Counter()
        self.launched: list[Launched] = []
        self.device_blocks: dict[int, Block] = {}
        self.pinned_blocks: dict[int, Block] = {}
        self.streams: dict[int, Stream] = {}
        self.modules: dict[int, int] = {}
        self.functions: dict[int, str] = {}
        self.graphs: dict[int, list[Callable[[], int]]] = {}
        self.executables: dict[int, list[Callable[[], int]]] = {}
        self.missing_kernels: set[str] = set()
        self.busy = 0  # queries that a stream with work still answers with NotReady
        self.hangs = False
        self.lost = 0  # what every function answers
        self.version = 70_200_000
        self.stale = ""
        self.sound_replays = 0  # of graphs, before they go wrong
        self.copies_to_device = 0
        self.graph_bytes = 0  # that each launchable graph takes
        self.coherent: set[int] = set()  # pinned memory that asked for it
        self._replaying = False
        self._first_image = b""
        self._failures: dict[tuple[str, int], int] = {}
        self._handles = itertools.count(0x1000, 16)
        self._thread = threading.local()

    # For tests.

    def fail(self, function: str, call: int, code: int) -> None:
        """Have call number `call` (from 1, from now on) of a function return a code instead of acting."""
        self._failures[function, self.calls[function] + call] = code

    def held(self) -> int:
        """Everything that somebody should give back."""
        blocks = len(self.device_blocks) + len(self.pinned_blocks)
        return blocks + len(self.streams) + len(self.modules) + len(self.graphs) + len(self.executables)

    def used(self) -> int:
        """Bytes of device memory."""
        graphs = self.graph_bytes * len(self.executables)
        return graphs + sum(block.size for block in self.device_blocks.values())

    def read(self, address: int, n_bytes: int) -> bytes:
        """Device memory, which must lie in one allocation."""
        assert self._inside(self.device_blocks, address, n_bytes)
        return ctypes.string_at(address, n_bytes)

    # How it works.

    def _enter(self, name: str) -> int:
        self.calls[name] += 1
        return self.lost or self._failures.pop((name, self.calls[name]), 0)

    @staticmethod
    def _write(out: Any, value: int, kind: Any) -> None:
        kind.from_address(out if isinstance(out, int) else ctypes.addressof(out._obj)).value = value

    @staticmethod
    def _text(out: Any, text: str) -> None:
        data = text.encode() + b"\0"
        ctypes.memmove(out, data, len(data))

    def _handle(self, table: dict[int, Any], out: Any, value: Any) -> int:
        handle = next(self._handles)
        table[handle] = value
        self._write(out, handle, ctypes.c_void_p)
        return 0

    @staticmethod
    def _inside(blocks: dict[int, Block], address: int, n_bytes: int) -> bool:
        return any(start <= address and address + n_bytes <= start + block.size for start, block in blocks.items())

    def _current(self) -> int:
        return getattr(self._thread, "device", 0)

    def _queue(self, stream: Any, work: Callable[[], int]) -> int:
        found = self.streams[_handle_of(stream)]
        if found.spoilt and found.capturing is None:
            return CAPTURE_INVALIDATED
        (found.queue if found.capturing is None else found.capturing).append(work)
        return 0

    def _drain(self, stream: Stream) -> int:
        code = 0
        while stream.queue:
            code = code or stream.queue.pop(0)()
        return code

    # Device and errors.

    def hipGetErrorName(self, code: int) -> bytes:
        return ERRORS[code][0]

    def hipGetErrorString(self, code: int) -> bytes:
        return ERRORS[code][1]

    def hipRuntimeGetVersion(self, version: Any) -> int:
        self._write(version, self.version, ctypes.c_int)
        return self._enter("hipRuntimeGetVersion")

    def hipGetDeviceCount(self, count: Any) -> int:
        self._write(count, len(self.devices), ctypes.c_int)
        return self._enter("hipGetDeviceCount")

    def hipSetDevice(self, device: int) -> int:
        self._thread.device = device
        return self._enter("hipSetDevice")

    def hipDeviceGetName(self, name: Any, length: int, device: int) -> int:
        self._text(name, self.devices[device].name)
        return self._enter("hipDeviceGetName")

    def hipDeviceGetPCIBusId(self, text: Any, length: int, device: int) -> int:
        self._text(text, self.devices[device].bus_id)
        return self._enter("hipDeviceGetPCIBusId")

    def hipGetDevicePropertiesR0600(self, properties: Any, device: int) -> int:
        """hipDeviceProp_t of ROCm 6: the name, and at 1160 gcnArchName with the features that HIP adds."""
        found = self.devices[device]
        arch = f"{found.arch}:sramecc+:xnack-".encode() if found.arch else b""
        address = properties if isinstance(properties, int) else ctypes.addressof(properties)
        ctypes.memmove(address, found.name.encode(), len(found.name))
        ctypes.memmove(address + 1160, arch, len(arch))
        return self._enter("hipGetDevicePropertiesR0600")

    # Memory.

    def hipMemGetInfo(self, free: Any, total: Any) -> int:
        self._write(free, self.memory_bytes - self.used(), ctypes.c_size_t)
        self._write(total, self.memory_bytes, ctypes.c_size_t)
        return self._enter("hipMemGetInfo")

    def _allocate(self, blocks: dict[int, Block], pointer: Any, size: int) -> int:
        assert not any(stream.capturing is not None for stream in self.streams.values())
        buffer = (ctypes.c_char * (size + 256))()
        address = -(-ctypes.addressof(buffer) // 256) * 256
        ctypes.memset(address, 0xA5, size)
        blocks[address] = Block(buffer, size, self._current())
        self._write(pointer, address, ctypes.c_void_p)
        return 0

    def hipMalloc(self, pointer: Any, size: int) -> int:
        if code := self._enter("hipMalloc"):
            return code
        if self.used() + size > self.memory_bytes:
            return OUT_OF_MEMORY
        return self._allocate(self.device_blocks, pointer, size)

    def hipHostMalloc(self, pointer: Any, size: int, flags: int) -> int:
        if code := self._enter("hipHostMalloc") or self._allocate(self.pinned_blocks, pointer, size):
            return code
        if flags & 0x40000000:
            self.coherent.add(next(reversed(self.pinned_blocks)))
        return 0

    def hipFree(self, pointer: int) -> int:
        self._enter("hipFree")
        for stream in self.streams.values():
            self._drain(stream)
        del self.device_blocks[pointer]
        return 0

    def hipHostFree(self, pointer: int) -> int:
        self._enter("hipHostFree")
        del self.pinned_blocks[pointer]
        return 0

    def hipMemcpyAsync(self, destination: int, source: int, size: int, kind: int, stream: Any) -> int:
        if code := self._enter("hipMemcpyAsync"):
            return code
        device, host = (destination, source) if kind == 1 else (source, destination)
        self.copies_to_device += kind == 1

        def copy() -> int:
            assert self._inside(self.device_blocks, device, size)
            assert kind == 2 or self._inside(self.pinned_blocks, host, size)
            ctypes.memmove(destination, source, size)
            return 0

        return self._queue(stream, copy)

    def hipMemsetAsync(self, destination: int, value: int, size: int, stream: Any) -> int:
        if code := self._enter("hipMemsetAsync"):
            return code
        assert self._inside(self.device_blocks, destination, size)
        return self._queue(stream, lambda: int(ctypes.memset(destination, value, size) is None))

    # Streams.

    def hipStreamCreateWithFlags(self, stream: Any, flags: int) -> int:
        return self._enter("hipStreamCreateWithFlags") or self._handle(self.streams, stream, Stream())

    def hipStreamDestroy(self, stream: Any) -> int:
        self._enter("hipStreamDestroy")
        assert not self.streams.pop(_handle_of(stream)).queue
        return 0

    def hipStreamSynchronize(self, stream: Any) -> int:
        assert not self.hangs
        code = self._enter("hipStreamSynchronize")
        found = self.streams[_handle_of(stream)]
        return self._drain(found) or code or CAPTURE_UNSUPPORTED * found.spoilt

    def hipStreamQuery(self, stream: Any) -> int:
        code = self._enter("hipStreamQuery")
        if self.hangs or self.busy > 0:
            self.busy -= 1
            return NOT_READY
        return code

    # Code.

    def hipModuleLoadData(self, module: Any, image: Any) -> int:
        if code := self._enter("hipModuleLoadData"):
            return code
        try:
            found = read_code_object(ctypes.string_at(image, 64) if isinstance(image, int) else bytes(image)).arch
        except CodeObjectError:
            return INVALID_IMAGE
        arch = self.devices[self._current()].arch
        if arch != found and arch not in GENERIC_ARCHES.get(found, ()):
            return NO_BINARY
        return self._handle(self.modules, module, self._current())

    def hipModuleUnload(self, module: Any) -> int:
        self._enter("hipModuleUnload")
        del self.modules[_handle_of(module)]
        return 0

    def hipModuleGetFunction(self, function: Any, module: Any, name: bytes) -> int:
        if code := self._enter("hipModuleGetFunction"):
            return code
        if name.decode() in self.missing_kernels:
            return NOT_FOUND
        return self._handle(self.functions, function, name.decode())

    def hipModuleLaunchKernel(
        self,
        function: Any,
        grid_x: int,
        grid_y: int,
        grid_z: int,
        block_x: int,
        block_y: int,
        block_z: int,
        shared_bytes: int,
        stream: Any,
        parameters: Any,
        extra: None,
    ) -> int:
        if code := self._enter("hipModuleLaunchKernel"):
            return code
        if isinstance(parameters, int):
            parameters = (ctypes.c_void_p * 9).from_address(parameters)
        arguments = tuple(ctypes.c_void_p.from_address(at).value or 0 for at in parameters)
        grid, block = (grid_x, grid_y, grid_z), (block_x, block_y, block_z)
        assert min(*grid, *block) > 0
        assert shared_bytes == 0
        kernel = self.functions[_handle_of(function)]
        return self._queue(stream, lambda: self._run(kernel, grid, block, arguments))

    def _run(
        self, kernel: str, grid: tuple[int, int, int], block: tuple[int, int, int], arguments: tuple[int, ...]
    ) -> int:
        if kernel == "step_in":
            self._step_in(*arguments[:2])
        step = np.frombuffer(self.read(arguments[0], STEP.itemsize), STEP)[0]
        num_tokens, num_logits = int(step["num_tokens"]), int(step["num_logits"])
        tokens = np.frombuffer(self.read(int(step["token_ids"]), 4 * num_tokens), np.int32)
        rows = np.frombuffer(self.read(int(step["logits_rows"]), 4 * num_logits), np.int32)
        if kernel == "step_echo" and self.stale != "deaf":
            assert arguments[1] in self.coherent
            ctypes.memmove(arguments[1], step["number"].tobytes(), 8)
        elif kernel == "embedding":
            for token, value in enumerate(tokens.astype(np.float32) / 2**20):
                self._put(arguments[2] + 256 * token, value.tobytes())
        elif kernel == "output":
            hidden = arguments[1] + 256 * self._goes("pointers")
            values = (np.frombuffer(self.read(hidden + 256 * int(row), 4), np.float32)[0] for row in rows)
            self._put(arguments[2], b"".join(np.full(48, value, np.float32).tobytes() for value in values))
        elif kernel == "sample":
            at = int(step["sampling"])
            for record in np.frombuffer(self.read(at, SAMPLING.itemsize * num_logits), SAMPLING):
                if record["mask"]:
                    assert self._inside(self.pinned_blocks, int(record["mask_image"]), 8)
                    self._put(int(record["mask"]), ctypes.string_at(int(record["mask_image"]), 8))
            logits = np.frombuffer(self.read(arguments[1], 4 * 48 * num_logits), np.float32)[::48]
            self._put(int(step["sampled"]), (logits * 2**20 + 1).astype(np.int32).tobytes())
        self.launched.append(Launched(kernel, grid, block, arguments, num_tokens, num_logits, tuple(tokens.tolist())))
        return 0

    def _step_in(self, goal: int, image: int) -> None:
        assert image in self.coherent
        n_bytes = int(np.frombuffer(ctypes.string_at(image, STEP.itemsize), STEP)[0]["n_bytes"])
        assert self._inside(self.pinned_blocks, image, n_bytes)
        data = ctypes.string_at(image, n_bytes)
        self._first_image = self._first_image or data
        if not self._goes("step"):
            self._put(goal, self._first_image if self._goes("old") else data)

    def _goes(self, wrong: str) -> bool:
        return self._replaying and self.stale == wrong and self.calls["hipGraphLaunch"] > self.sound_replays

    def _put(self, address: int, data: bytes) -> None:
        assert self._inside(self.device_blocks, address, len(data))
        ctypes.memmove(address, data, len(data))

    def _replay(self, work: Callable[[], int]) -> int:
        self._replaying = True
        try:
            return work()
        finally:
            self._replaying = False

    # Graphs.

    def hipStreamBeginCapture(self, stream: Any, mode: int) -> int:
        if code := self._enter("hipStreamBeginCapture"):
            return code
        assert self.streams[_handle_of(stream)].capturing is None
        self.streams[_handle_of(stream)].capturing = []
        return 0

    def hipStreamEndCapture(self, stream: Any, graph: Any) -> int:
        found = self.streams[_handle_of(stream)]
        assert found.capturing is not None
        recorded, found.capturing = found.capturing, None
        code = self._enter("hipStreamEndCapture")
        found.spoilt = code != 0
        return code or self._handle(self.graphs, graph, recorded)

    def hipGraphInstantiate(self, executable: Any, graph: Any, node: None, log: None, size: int) -> int:
        if code := self._enter("hipGraphInstantiate"):
            return code
        return self._handle(self.executables, executable, self.graphs[_handle_of(graph)])

    def hipGraphLaunch(self, executable: Any, stream: Any) -> int:
        if code := self._enter("hipGraphLaunch"):
            return code
        for work in self.executables[_handle_of(executable)]:
            self._queue(stream, functools.partial(self._replay, work))
        return 0

    def hipGraphExecDestroy(self, executable: Any) -> int:
        self._enter("hipGraphExecDestroy")
        del self.executables[_handle_of(executable)]
        return 0

    def hipGraphDestroy(self, graph: Any) -> int:
        self._enter("hipGraphDestroy")
        del self.graphs[_handle_of(graph)]
        return 0
