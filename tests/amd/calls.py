"""What HIP answers to calls that are wrong: once AMD's, once the emulated API's, to be compared.

python -m rocmforge.tests.amd.calls CODE.hsaco KERNEL OTHER.hsaco hip|emulated:ARCH
prints the codes that each case returned, as JSON. KERNEL is of CODE, which is for the device; OTHER is for another.
"""

from __future__ import annotations

import ctypes
import functools
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rocmforge.runtime.device.hip.api import HipApi, load_hip

TO_DEVICE, TO_HOST = 1, 2


class Caller:
    """A device, a stream, 64 KiB of its memory, a module with a kernel, and a module for another device."""

    def __init__(self, api: HipApi, code: bytes, kernel: bytes, other: bytes) -> None:
        self.api = api
        self.code, self.kernel, self.other = code, kernel, other
        self.device, self.pinned = ctypes.c_void_p(), ctypes.c_void_p()
        self.stream, self.module, self.function = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
        for returned in (
            api.hipSetDevice(0),
            api.hipMalloc(ctypes.byref(self.device), 1 << 16),
            api.hipHostMalloc(ctypes.byref(self.pinned), 1 << 16, 0),
            api.hipStreamCreateWithFlags(ctypes.byref(self.stream), 1),
            self.load(code, self.module),
            api.hipModuleGetFunction(ctypes.byref(self.function), self.module, kernel),
        ):
            assert returned == 0, returned

    def load(self, code: bytes, module: ctypes.c_void_p | None = None) -> int:
        """Load a code object."""
        image = ctypes.create_string_buffer(code, len(code))
        found = ctypes.c_void_p() if module is None else module
        return self.api.hipModuleLoadData(ctypes.byref(found), image)

    def launch(self, grid: tuple[int, int, int], block: tuple[int, int, int], shared: int) -> int:
        """Launch the kernel, with null pointers: only what is refused may be asked for."""
        parameters = (ctypes.c_void_p * 9)(*[ctypes.addressof(ctypes.c_uint64(0))] * 9)
        return self.api.hipModuleLaunchKernel(self.function, *grid, *block, shared, self.stream, parameters, None)

    def copy(self, goal: Any, source: Any, size: int, kind: int) -> int:
        """Copy on the stream."""
        return self.api.hipMemcpyAsync(goal, source, size, kind, self.stream)


def devices(c: Caller) -> list[int]:
    text = ctypes.create_string_buffer(64)
    return [
        c.api.hipSetDevice(5),
        c.api.hipSetDevice(-1),
        c.api.hipDeviceGetName(text, 64, 5),
        c.api.hipDeviceGetName(text, 0, 0),
        c.api.hipDeviceGetPCIBusId(text, 64, 5),
        c.api.hipDeviceGetPCIBusId(text, 0, 0),
    ]


def modules(c: Caller) -> list[int]:
    function = ctypes.c_void_p()
    return [
        c.load(c.other),
        c.api.hipModuleGetFunction(ctypes.byref(function), c.module, b"no_such_kernel"),
        c.api.hipModuleGetFunction(ctypes.byref(function), c.module, b""),
        c.api.hipModuleGetFunction(ctypes.byref(function), None, c.kernel),
        c.api.hipModuleUnload(None),
    ]


def no_code(c: Caller) -> list[int]:
    return [c.load(b"no code object at all" + bytes(4096))]


def half_an_elf(c: Caller) -> list[int]:
    return [c.load(c.code[: len(c.code) // 2])]


def an_empty_elf(c: Caller) -> list[int]:
    return [c.load(b"\x7fELF" + bytes(4096))]


def launches(c: Caller) -> list[int]:
    return [
        c.launch((1, 1, 1), (2048, 1, 1), 0),
        c.launch((1, 1, 1), (64, 64, 64), 0),
        c.launch((1, 1, 1), (64, 1, 1), 1 << 20),
        c.launch((0, 1, 1), (64, 1, 1), 0),
        c.launch((1, 1, 1), (0, 1, 1), 0),
        c.launch((1 << 31, 1, 1), (64, 1, 1), 0),
        c.api.hipModuleLaunchKernel(None, 1, 1, 1, 64, 1, 1, 0, c.stream, None, None),
    ]


def memory(c: Caller) -> list[int]:
    pointer = ctypes.c_void_p()
    returned = [c.api.hipMalloc(ctypes.byref(pointer), 4096), c.api.hipFree(pointer), c.api.hipFree(pointer)]
    returned += [c.api.hipFree(None), c.api.hipFree(0x1234), c.api.hipHostFree(None), c.api.hipHostFree(0x1234)]
    returned += [c.api.hipMalloc(ctypes.byref(pointer), 0), pointer.value or 0]
    returned += [c.api.hipMalloc(ctypes.byref(pointer), 1 << 50), c.api.hipMalloc(None, 4096)]
    returned += [c.api.hipHostMalloc(ctypes.byref(pointer), 0, 0), c.api.hipHostMalloc(None, 4096, 0)]
    returned += [c.api.hipFree(c.pinned), c.api.hipHostFree(c.pinned), c.api.hipHostFree(c.device)]
    return returned


def copies(c: Caller) -> list[int]:
    return [
        c.copy(None, c.pinned, 64, TO_DEVICE),
        c.copy(c.device, None, 64, TO_DEVICE),
        c.copy(c.device, c.pinned, 0, TO_DEVICE),
        c.copy(None, None, 0, TO_DEVICE),
        c.copy(c.device, c.pinned, 64, 9),
        c.copy(c.device, c.pinned, (1 << 16) + 4096, TO_DEVICE),
        c.copy(c.pinned, c.device, (1 << 16) + 4096, TO_HOST),
        c.api.hipMemsetAsync(None, 0, 64, c.stream),
        c.api.hipMemsetAsync(c.device, 0, 0, c.stream),
        c.api.hipMemsetAsync(c.device, 0, (1 << 16) + 4096, c.stream),
        c.api.hipStreamSynchronize(c.stream),
    ]


def streams(c: Caller) -> list[int]:
    stream = ctypes.c_void_p()
    return [
        c.api.hipStreamQuery(c.stream),
        c.api.hipStreamQuery(None),
        c.api.hipStreamSynchronize(None),
        c.api.hipStreamCreateWithFlags(ctypes.byref(stream), 99),
        c.api.hipStreamCreateWithFlags(None, 1),
        c.api.hipStreamDestroy(None),
    ]


def no_graphs(c: Caller) -> list[int]:
    graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
    return [
        c.api.hipStreamEndCapture(c.stream, ctypes.byref(graph)),
        c.api.hipStreamBeginCapture(None, 1),
        c.api.hipStreamBeginCapture(c.stream, 9),
        c.api.hipGraphInstantiate(ctypes.byref(executable), None, None, None, 0),
        c.api.hipGraphLaunch(None, c.stream),
        c.api.hipGraphExecDestroy(None),
        c.api.hipGraphDestroy(None),
        c.api.hipStreamQuery(c.stream),
    ]


def _captured(c: Caller, *between: Callable[[], int]) -> list[int]:
    """A capture in which something is done, and what can be done afterwards."""
    graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
    fill = functools.partial(c.api.hipMemsetAsync, c.device, 0, 64, c.stream)
    returned = [c.api.hipStreamBeginCapture(c.stream, 1), fill(), *(call() for call in between)]
    returned += [fill(), c.api.hipStreamEndCapture(c.stream, ctypes.byref(graph)), graph.value is not None]
    if graph.value:
        returned += [c.api.hipGraphInstantiate(ctypes.byref(executable), graph, None, None, 0)]
        returned += [c.api.hipGraphLaunch(executable, c.stream), c.api.hipStreamSynchronize(c.stream)]
        returned += [c.api.hipGraphExecDestroy(executable), c.api.hipGraphDestroy(graph)]
    returned += [fill(), c.api.hipStreamSynchronize(c.stream), c.api.hipStreamQuery(c.stream)]
    # Once more: does the stream take another?
    returned += [c.api.hipStreamBeginCapture(c.stream, 1), fill()]
    returned += [c.api.hipStreamEndCapture(c.stream, ctypes.byref(graph)), c.api.hipStreamSynchronize(c.stream)]
    return returned


def captures(c: Caller) -> list[int]:
    return _captured(c)


def begin_in_a_capture(c: Caller) -> list[int]:
    return _captured(c, lambda: c.api.hipStreamBeginCapture(c.stream, 1))


def malloc_in_a_capture(c: Caller) -> list[int]:
    pointer = ctypes.c_void_p()
    return _captured(c, lambda: c.api.hipMalloc(ctypes.byref(pointer), 4096))


def wait_in_a_capture(c: Caller) -> list[int]:
    return _captured(c, lambda: c.api.hipStreamSynchronize(c.stream))


def query_in_a_capture(c: Caller) -> list[int]:
    return _captured(c, lambda: c.api.hipStreamQuery(c.stream))


def bad_launch_in_a_capture(c: Caller) -> list[int]:
    return _captured(c, lambda: c.launch((1, 1, 1), (2048, 1, 1), 0))


def bad_copy_in_a_capture(c: Caller) -> list[int]:
    return _captured(c, lambda: c.copy(None, c.pinned, 64, TO_DEVICE))


def other_stream_in_a_capture(c: Caller) -> list[int]:
    stream = ctypes.c_void_p()
    return _captured(
        c,
        lambda: c.api.hipStreamCreateWithFlags(ctypes.byref(stream), 1),
        lambda: c.api.hipMemsetAsync(c.device, 0, 64, stream),
        lambda: c.api.hipStreamSynchronize(stream),
        lambda: c.api.hipStreamDestroy(stream),
    )


def names(c: Caller) -> list[str]:
    codes = (0, 1, 2, 3, 9, 98, 100, 101, 209, 214, 400, 500, 600, 700, 702, 709, 719, 720, 801, 900, 901, 906, 999, 77)
    return [f"{c.api.hipGetErrorName(code).decode()}: {c.api.hipGetErrorString(code).decode()}" for code in codes]


CASES: Mapping[str, Callable[[Caller], list[Any]]] = {
    case.__name__: case
    for case in (
        names,  # first: later the emulated API's texts say more
        devices,
        modules,
        launches,
        copies,
        streams,
        no_graphs,
        captures,
        begin_in_a_capture,
        malloc_in_a_capture,
        wait_in_a_capture,
        query_in_a_capture,
        bad_launch_in_a_capture,
        bad_copy_in_a_capture,
        other_stream_in_a_capture,
        memory,  # last: it frees what the others use
        no_code,
        half_an_elf,
        an_empty_elf,
    )
}


def make_api(device: str) -> HipApi:
    """AMD's library, or the emulated one."""
    kind, _, arch = device.partition(":")
    if kind == "hip":
        return load_hip()
    from rocmforge.tools.emulator import HipEmulator  # noqa: PLC0415 - AMD's runtime does without

    return HipEmulator(arch)


def main() -> None:
    """Run the cases."""
    code, kernel, other, device, *asked = sys.argv[1:]
    caller = Caller(make_api(device), Path(code).read_bytes(), kernel.encode(), Path(other).read_bytes())
    for case in asked or CASES:
        print(json.dumps([case, CASES[case](caller)]), flush=True)


if __name__ == "__main__":
    main()
