"""HIP's C functions by ctypes: the only way in which the runtime touches ROCm.

Every function that is used stands in one table and is looked up when the library is loaded. Whatever offers the same
functions under their own names and C signatures may stand in for the library: an emulator, or a fake in a test.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol, cast

from ....artifacts.errors import DeviceError, printable
from ....artifacts.hip import HIP_SONAMES, LIBRARY_VARIABLE, library_paths, version_of

log = logging.getLogger(__name__)

MINIMUM_ROCM: Final = "5.7"

# Numbers of hip_runtime_api.h, the same in ROCm 5, 6 and 7.
SUCCESS: Final = 0
OUT_OF_MEMORY: Final = 2
NOT_READY: Final = 600
COPY_HOST_TO_DEVICE: Final = 1
COPY_DEVICE_TO_HOST: Final = 2
CAPTURE_MODE_THREAD_LOCAL: Final = 1
STREAM_NON_BLOCKING: Final = 1
HOST_MALLOC_COHERENT: Final = 0x40000000
HOST_MALLOC_NON_COHERENT: Final = 0x80000000


class HipApi(Protocol):
    """The functions used, as in hip_runtime_api.h. Out parameters are `ctypes.byref` objects, handles are void*."""

    def hipGetErrorName(self, code: int, /) -> bytes:
        """Return the name of an error, as `hipErrorOutOfMemory`."""

    def hipGetErrorString(self, code: int, /) -> bytes:
        """Return the words for an error, as `out of memory`."""

    def hipGetDeviceCount(self, count: Any, /) -> int:
        """Count the devices that HIP shows."""

    def hipSetDevice(self, device: int, /) -> int:
        """Choose the device of the calling thread."""

    def hipDeviceGetName(self, name: Any, length: int, device: int, /) -> int:
        """Give the name of a device, for people."""

    def hipDeviceGetPCIBusId(self, text: Any, length: int, device: int, /) -> int:
        """Give the PCI address of a device, as `0000:03:00.0`."""

    def hipMemGetInfo(self, free: Any, total: Any, /) -> int:
        """Give free and total bytes of the calling thread's device."""

    def hipMalloc(self, pointer: Any, size: int, /) -> int:
        """Take device memory."""

    def hipFree(self, pointer: Any, /) -> int:
        """Free device memory; waits for the device."""

    def hipHostMalloc(self, pointer: Any, size: int, flags: int, /) -> int:
        """Take pinned host memory."""

    def hipHostFree(self, pointer: Any, /) -> int:
        """Free pinned memory."""

    def hipMemcpyAsync(self, destination: Any, source: Any, size: int, kind: int, stream: Any, /) -> int:
        """Copy in stream order."""

    def hipMemsetAsync(self, destination: Any, value: int, size: int, stream: Any, /) -> int:
        """Fill bytes in stream order."""

    def hipStreamCreateWithFlags(self, stream: Any, flags: int, /) -> int:
        """Make a stream, which is a queue of work."""

    def hipStreamDestroy(self, stream: Any, /) -> int:
        """End a stream."""

    def hipStreamSynchronize(self, stream: Any, /) -> int:
        """Wait for a stream; returns what its work failed with."""

    def hipStreamQuery(self, stream: Any, /) -> int:
        """Return hipErrorNotReady while a stream works."""

    def hipModuleLoadData(self, module: Any, image: Any, /) -> int:
        """Load a code object."""

    def hipModuleUnload(self, module: Any, /) -> int:
        """End a module."""

    def hipModuleGetFunction(self, function: Any, module: Any, name: bytes, /) -> int:
        """Find a kernel by its symbol."""

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
        extra: Any,
        /,
    ) -> int:
        """Queue a grid of workgroups; `parameters` points to an array of pointers to the arguments, copied at once."""

    def hipStreamBeginCapture(self, stream: Any, mode: int, /) -> int:
        """Record what a stream is given, instead of doing it."""

    def hipStreamEndCapture(self, stream: Any, graph: Any, /) -> int:
        """Stop recording, and give the graph."""

    def hipGraphInstantiate(self, executable: Any, graph: Any, node: Any, log: Any, size: int, /) -> int:
        """Make a graph launchable."""

    def hipGraphLaunch(self, executable: Any, stream: Any, /) -> int:
        """Replay a graph."""

    def hipGraphExecDestroy(self, executable: Any, /) -> int:
        """End a launchable graph."""

    def hipGraphDestroy(self, graph: Any, /) -> int:
        """End a graph."""


_POINTER = ctypes.c_void_p
_INT = ctypes.c_int
_UNSIGNED = ctypes.c_uint
_SIZE = ctypes.c_size_t

_ARGUMENTS: Final[Mapping[str, tuple[Any, ...]]] = {
    "hipGetErrorName": (_INT,),
    "hipGetErrorString": (_INT,),
    "hipGetDeviceCount": (_POINTER,),
    "hipSetDevice": (_INT,),
    "hipDeviceGetName": (_POINTER, _INT, _INT),
    "hipDeviceGetPCIBusId": (_POINTER, _INT, _INT),
    "hipMemGetInfo": (_POINTER, _POINTER),
    "hipMalloc": (_POINTER, _SIZE),
    "hipFree": (_POINTER,),
    "hipHostMalloc": (_POINTER, _SIZE, _UNSIGNED),
    "hipHostFree": (_POINTER,),
    "hipMemcpyAsync": (_POINTER, _POINTER, _SIZE, _INT, _POINTER),
    "hipMemsetAsync": (_POINTER, _INT, _SIZE, _POINTER),
    "hipStreamCreateWithFlags": (_POINTER, _UNSIGNED),
    "hipStreamDestroy": (_POINTER,),
    "hipStreamSynchronize": (_POINTER,),
    "hipStreamQuery": (_POINTER,),
    "hipModuleLoadData": (_POINTER, _POINTER),
    "hipModuleUnload": (_POINTER,),
    "hipModuleGetFunction": (_POINTER, _POINTER, ctypes.c_char_p),
    "hipModuleLaunchKernel": (_POINTER, *(_UNSIGNED,) * 7, _POINTER, _POINTER, _POINTER),
    "hipStreamBeginCapture": (_POINTER, _INT),
    "hipStreamEndCapture": (_POINTER, _POINTER),
    "hipGraphInstantiate": (_POINTER, _POINTER, _POINTER, _POINTER, _SIZE),
    "hipGraphLaunch": (_POINTER, _POINTER),
    "hipGraphExecDestroy": (_POINTER,),
    "hipGraphDestroy": (_POINTER,),
}
_TEXTS: Final = ("hipGetErrorName", "hipGetErrorString")

# hipDeviceProp_t differs between releases, and the plain name has the layout of ROCm 5 for ever (ROCm/clr issue 151).
PROPERTIES: Final = ("hipGetDevicePropertiesR0600", "hipGetDeviceProperties")
VERSION: Final = "hipRuntimeGetVersion"
OPTIONAL: Final[Mapping[str, tuple[Any, ...]]] = {**dict.fromkeys(PROPERTIES, (_POINTER, _INT)), VERSION: (_POINTER,)}
"""Functions that need not be there."""


class HipError(DeviceError):
    """A HIP function failed.

    Attributes:
        code: what it returned.
        name: HIP's name of it, as `hipErrorOutOfMemory`.
    """

    def __init__(self, doing: str, code: int, name: str, text: str) -> None:
        super().__init__(f"{doing}: {name}" + (f" ({text})" if text not in {"", name} else ""))
        self.code = code
        self.name = name


def check(api: HipApi, code: int, doing: str) -> None:
    """Raise what a return code stands for.

    Args:
        api: that returned it.
        code: 0 is success.
        doing: what was tried, for the message.

    Raises:
        HipError: the code is not 0.
    """
    if code != SUCCESS:
        name, text = (_text(found) for found in (api.hipGetErrorName(code), api.hipGetErrorString(code)))
        raise HipError(doing, code, name or f"HIP error {code}", text)


def _text(value: bytes | None) -> str:
    return printable((value or b"").decode("utf-8", "replace"), 600)


def load_hip(paths: Sequence[str] | None = None) -> HipApi:
    """Load this machine's HIP library, all functions looked up: the first that shows a GPU, else the first that loads.

    Args:
        paths: to try, in this order; None: `library_paths()`.

    Raises:
        DeviceError: there is none, or it does not load, or it lacks a function.
    """
    problems: list[str] = []
    found: dict[str, HipApi] = {}
    handles: set[int] = set()
    for path in library_paths() if paths is None else paths:
        try:
            library = ctypes.CDLL(path)
            if library._handle in handles:  # one file by two names
                continue
            handles.add(library._handle)
            api = _bind(library, path)
        except OSError as error:
            if os.environ.get(LIBRARY_VARIABLE) == path:
                raise DeviceError(f"{LIBRARY_VARIABLE}: expected a HIP library, found {printable(error)}") from None
            if not _is_absent(path, str(error)):
                problems.append(printable(error))
        except DeviceError as error:
            problems.append(str(error))
        else:
            if _shows_devices(api):
                for passed in found:
                    log.info("%s is passed over: it shows no GPU, and %s does", passed, path)
                return api
            found[path] = api
    if found:
        return next(iter(found.values()))  # whoever asks it for devices is told what is wrong
    why = f": {problems[0]}" if problems else f" (looked for {', '.join(HIP_SONAMES)})"
    raise DeviceError(f"no HIP library could be loaded{why}; AMD GPUs need ROCm {MINIMUM_ROCM} or newer")


def _shows_devices(api: HipApi) -> bool:
    count = ctypes.c_int()
    return api.hipGetDeviceCount(ctypes.byref(count)) == SUCCESS and count.value > 0


def runtime_version(api: HipApi) -> tuple[int, int] | None:
    """Return major and minor of HIP's runtime; None where it does not say."""
    function, number = getattr(api, VERSION, None), ctypes.c_int()
    if function is None or function(ctypes.byref(number)) != SUCCESS or number.value <= 0:
        return None
    return version_of(number.value)


def _is_absent(path: str, message: str) -> bool:
    """Return whether the loader misses the library itself, and not one that it needs."""
    return message.startswith(f"{path}: ") and "No such file" in message


def _bind(library: ctypes.CDLL, path: str) -> HipApi:
    missing = [name for name in _ARGUMENTS if not hasattr(library, name)]
    if missing:
        raise DeviceError(
            f"{path} lacks {', '.join(missing[:3])}{' and others' if len(missing) > 3 else ''}: "
            f"ROCm {MINIMUM_ROCM} or newer is needed"
        )
    _declare(library, _ARGUMENTS)
    _declare(library, {name: types for name, types in OPTIONAL.items() if hasattr(library, name)})
    return cast(HipApi, library)


def _declare(library: ctypes.CDLL, arguments: Mapping[str, Iterable[Any]]) -> None:
    for name, types in arguments.items():
        function = getattr(library, name)
        function.argtypes = tuple(types)
        function.restype = ctypes.c_char_p if name in _TEXTS else _INT
