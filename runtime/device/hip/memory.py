"""Memory of a GPU: allocations that are all given back, and weights on their way there."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from collections.abc import Callable, Collection
from typing import Final

import numpy as np

from ....artifacts.errors import DeviceError
from ....artifacts.layout import Layout
from .api import (
    COPY_HOST_TO_DEVICE,
    HOST_MALLOC_NON_COHERENT,
    OUT_OF_MEMORY,
    STREAM_NON_BLOCKING,
    HipApi,
    HipError,
    check,
)
from .placement import DEVICE_ALIGNMENT, aligned

STAGING_BYTES: Final = 16 << 20
TILE_TOKENS: Final = 16
"""Rows behind the last token's that kernels read too (attention_tiled.h, gemv.h) end with a tile of so many at most."""

Progress = Callable[[int, int], None]
"""Told bytes done and bytes in all."""


class DeviceMemory:
    """All allocations of one program, by what they are for. They are made on the device that the thread has set."""

    def __init__(self, api: HipApi) -> None:
        self._api = api
        self._device: dict[int, str] = {}
        self._pinned: dict[int, str] = {}

    def info(self) -> tuple[int, int]:
        """Return free and total bytes of the device.

        Raises:
            HipError: it cannot say.
        """
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        code = self._api.hipMemGetInfo(ctypes.byref(free), ctypes.byref(total))
        check(self._api, code, "free memory")
        return free.value, total.value

    def device(self, n_bytes: int, what: str) -> int:
        """Return the address of fresh device memory.

        Raises:
            HipError: it is unavailable; says how much was asked for and how much is free.
        """
        pointer = ctypes.c_void_p()
        self._checked(self._api.hipMalloc(ctypes.byref(pointer), n_bytes), n_bytes, what)
        return self._keep(self._device, pointer, what)

    def pinned(self, n_bytes: int, what: str, flags: int = 0) -> int:
        """Return the address of fresh host memory that copies can take directly.

        Args:
            n_bytes: of it.
            what: it is for.
            flags: of hipHostMalloc.

        Raises:
            HipError: as `device`.
        """
        pointer = ctypes.c_void_p()
        self._checked(self._api.hipHostMalloc(ctypes.byref(pointer), n_bytes, flags), n_bytes, f"{what}, pinned")
        return self._keep(self._pinned, pointer, what)

    def _checked(self, code: int, n_bytes: int, what: str) -> None:
        doing = f"{n_bytes} bytes for the {what} are unavailable"
        if code == OUT_OF_MEMORY:
            with contextlib.suppress(HipError):
                free, total = self.info()
                doing += f", {free} of {total} are free"
        check(self._api, code, doing)

    def _keep(self, kind: dict[int, str], pointer: ctypes.c_void_p, what: str) -> int:
        if pointer.value is None:
            raise DeviceError(f"HIP gave no address for the {what}")
        kind[pointer.value] = what
        return pointer.value

    def allocations(self) -> dict[str, int]:
        """Return the addresses of the device memory, by what it is for."""
        return {what: address for address, what in self._device.items()}

    def free(self, address: int) -> None:
        """Give one allocation back. Says nothing of errors: there is nothing to be done then."""
        if self._device.pop(address, None) is not None:
            self._api.hipFree(address)
        elif self._pinned.pop(address, None) is not None:
            self._api.hipHostFree(address)

    def close(self) -> None:
        """Give everything back."""
        for address in (*self._device, *self._pinned):
            self.free(address)


def place_tensors(layout: Layout, host: Collection[str] = ()) -> tuple[dict[str, int], int]:
    """Return the offset of each tensor of a layout on the device, and bytes in all; of those in `host`, none."""
    offsets, end = {}, 0
    for tensor in layout.tensors:
        if tensor.name not in host:
            offsets[tensor.name] = end
            end += aligned(tensor.n_bytes)
    return offsets, end


def place_buffers(layout: Layout) -> tuple[dict[str, int], int]:
    """Return the offset of each buffer in the arena, for the largest step in whole tiles, and bytes in all."""
    offsets, end = {}, 0
    tokens = -(-layout.max_batch_tokens // TILE_TOKENS) * TILE_TOKENS
    for buffer in layout.buffers:
        offsets[buffer.name] = end
        end += aligned(buffer.n_bytes(tokens))
    return offsets, end


class Uploader:
    """Two pinned buffers in turn, a stream for each: one is filled while the other is on its way."""

    def __init__(self, api: HipApi, memory: DeviceMemory, n_bytes: int = STAGING_BYTES) -> None:
        """Take the buffers, of `n_bytes` each.

        Raises:
            HipError: they are unavailable.
        """
        self._api = api
        self._memory = memory
        self._n_bytes = n_bytes
        self._turn = 0
        self._streams: list[ctypes.c_void_p] = []
        self._buffers: list[int] = []
        try:
            for _ in range(2):
                self._buffers.append(memory.pinned(n_bytes, "staging of weights"))
                stream = ctypes.c_void_p()
                code = api.hipStreamCreateWithFlags(ctypes.byref(stream), STREAM_NON_BLOCKING)
                check(api, code, "a stream for the weights")
                self._streams.append(stream)
        except DeviceError:
            self.close()
            raise

    def copy(self, destination: int, source: int, n_bytes: int, advance: Callable[[int], None]) -> None:
        """Copy host memory at `source` to the device; the last pieces may still be on their way.

        Raises:
            HipError: a copy failed.
        """
        for start in range(0, n_bytes, self._n_bytes):
            count = min(self._n_bytes, n_bytes - start)
            buffer, stream = self._buffers[self._turn], self._streams[self._turn]
            check(self._api, self._api.hipStreamSynchronize(stream), "upload of weights")
            ctypes.memmove(buffer, source + start, count)
            code = self._api.hipMemcpyAsync(destination + start, buffer, count, COPY_HOST_TO_DEVICE, stream)
            check(self._api, code, "upload of weights")
            self._turn = 1 - self._turn
            advance(count)

    def finish(self) -> None:
        """Wait for all pieces.

        Raises:
            HipError: a copy failed.
        """
        for stream in self._streams:
            check(self._api, self._api.hipStreamSynchronize(stream), "upload of weights")

    def close(self) -> None:
        """Give buffers and streams back."""
        for stream in self._streams:
            self._api.hipStreamSynchronize(stream)  # no buffer goes while it is read
            self._api.hipStreamDestroy(stream)
        for buffer in self._buffers:
            self._memory.free(buffer)
        self._streams, self._buffers = [], []


def upload_weights(
    api: HipApi,
    memory: DeviceMemory,
    layout: Layout,
    weights: mmap.mmap,
    progress: Progress | None = None,
    host: Collection[str] = (),
) -> dict[str, int]:
    """Copy the tensors of a layout from mapped weights.bin to the device, or to memory of this machine that the device
    reads where their names are in `host`; return their addresses.

    Raises:
        HipError: memory is unavailable, or a copy failed.
    """
    offsets, total = place_tensors(layout, host)
    base = memory.device(max(total, DEVICE_ALIGNMENT), "weights")
    done, wanted = 0, sum(tensor.n_bytes for tensor in layout.tensors)

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, wanted)

    source = int(np.frombuffer(weights, np.uint8).ctypes.data)
    addresses = {name: base + offset for name, offset in offsets.items()}
    uploader = Uploader(api, memory, min(STAGING_BYTES, max(wanted, 1)))
    try:
        for tensor in layout.tensors:
            if tensor.name in addresses:
                uploader.copy(addresses[tensor.name], source + tensor.offset, tensor.n_bytes, advance)
            else:  # no kernel writes it, so caches of the device may hold it
                address = memory.pinned(tensor.n_bytes, f"tensor {tensor.name}", HOST_MALLOC_NON_COHERENT)
                ctypes.memmove(address, source + tensor.offset, tensor.n_bytes)
                addresses[tensor.name] = address
                advance(tensor.n_bytes)
        uploader.finish()
    finally:
        uploader.close()
    return addresses
