"""A bundle on an AMD GPU, driven through HIP's C functions."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import time
from collections.abc import Collection
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from ....artifacts.errors import DeviceError, RocmforgeError
from ....artifacts.hip import version_text
from ....artifacts.layout import Layout
from ....artifacts.mapped_weights import MappedWeights
from ..addresses import Addresses
from ..batch import Batch, DeviceFacts, Float32, Int32, rows_from_outside
from ..hidden import HiddenStates, place_tapped
from ..memory import KvSize
from ..patience import Patience
from .api import COPY_DEVICE_TO_HOST, NOT_READY, STREAM_NON_BLOCKING, HipApi, HipError, check, runtime_version
from .capacity import fitting_blocks, fitting_slots, mebibytes, reserved_bytes
from .launches import Graphs, StepShape, launch_all, resolve_launches, shape_of
from .memory import DeviceMemory, Progress, place_buffers, upload_weights
from .placement import DEVICE_ALIGNMENT, host_bytes
from .roctx import load_ranges
from .select import GpuDevice
from .self_test import self_test_batches
from .step import StepMemory

log = logging.getLogger(__name__)

STEP_SECONDS: Final = 120.0
"""A step that takes longer hangs: the slowest sane one takes a few seconds."""
_SPIN_SECONDS: Final = 20e-6


class HipProgram:
    """A bundle on a GPU. `step`, `logits`, `hidden` and `close` belong to one thread; `memory` to any."""

    def __init__(
        self,
        api: HipApi,
        device: GpuDevice,
        layout: Layout,
        weights: MappedWeights,
        code: bytes,
        kv: KvSize,
        progress: Progress | None = None,
        step_seconds: float = STEP_SECONDS,
        graphs: str = "auto",
        host: Collection[str] = (),
        beside: HipProgram | None = None,
    ) -> None:
        """Load code, upload weights, reserve arena and KV cache.

        Args:
            api: HIP.
            device: to load on.
            layout: that the code was made for.
            weights: those of the layout, mapped.
            code: a raw ELF code object for the device.
            kv: how large the KV cache shall be.
            progress: told of the upload.
            step_seconds: after which a step is taken to hang.
            graphs: one of `artifacts.hip.GRAPH_MODES`.
            host: names of tensors that stay in this machine's memory.
            beside: of the same bundle on the same device; closed later. Tensors that it has are not loaded again.

        Raises:
            DeviceError: something is unavailable; nothing is left on the device then.
        """
        self.layout = layout
        self._sampler = layout.find_sampler()
        self.num_blocks = 0
        self.num_state_slots = 0
        self.device = device
        self._api = api
        self._ranges = load_ranges()
        self._runtime = version_text(runtime_version(api))
        self._hidden = HiddenStates(layout, weights)
        self._step_seconds = step_seconds
        self._hung = False
        self._mode = graphs
        self._mismatches = 0
        self._host = frozenset(host)
        self._shared = {} if beside is None else beside.tensors_of(layout)
        self._memory = DeviceMemory(api)
        self._stream = ctypes.c_void_p()
        self._module = ctypes.c_void_p()
        self._graphs: Graphs | None = None
        self._image = ctypes.create_string_buffer(code, len(code))
        try:
            self._use_device()
            self._load(weights, kv, progress)
        except BaseException as error:
            self.close()
            if isinstance(error, HipError):
                raise DeviceError(f"{device}: {error}") from None
            raise

    def _use_device(self) -> None:
        """Make the program's device the current one, which HIP keeps for each thread."""
        check(self._api, self._api.hipSetDevice(self.device.index), "choice of the device")

    def _load(self, weights: MappedWeights, kv: KvSize, progress: Progress | None) -> None:
        api, layout = self._api, self.layout
        # The code first: whether it fits the GPU is known before gigabytes are moved.
        code = api.hipModuleLoadData(ctypes.byref(self._module), self._image)
        check(api, code, "load of the code object")
        code = api.hipStreamCreateWithFlags(ctypes.byref(self._stream), STREAM_NON_BLOCKING)
        check(api, code, "a stream")
        self._buffer_offsets, arena_bytes = place_buffers(layout)
        self._arena = self._zeroed(arena_bytes, "arena")
        self._sampled = self._memory.device(4 * layout.max_sequences, "sampled tokens")
        self._sampled_image = self._memory.pinned(4 * layout.max_sequences, "sampled tokens")
        rows_bytes = 4 * layout.max_batch_tokens * layout.input_width
        self._step = StepMemory(self._memory, self._sampled, rows_bytes=rows_bytes)
        own = replace(layout, tensors=tuple(one for one in layout.tensors if one.name not in self._shared))
        uploaded = upload_weights(api, self._memory, own, weights, progress, self._host)
        self._tensors = {**self._shared, **uploaded}
        weights.check()  # what was uploaded is what was checked
        self._states = self._take_states(kv) if layout.states else 0
        self.num_blocks = self._fitting_blocks(kv) if kv.blocks is None else kv.blocks
        self._kv = self._zeroed(self.num_blocks * layout.kv.bytes_per_block, "KV cache")
        self._make_graphs()
        check(api, api.hipStreamSynchronize(self._stream), "load")
        self._last_memory = free, total = self._memory.info()
        if free < (least := reserved_bytes(total)):
            left = f"{mebibytes(free)} MiB of its memory stay free, HIP may need {mebibytes(least)}"
            log.warning("%s: %s; --kv-tokens or --max-context ask for less", self.device, left)

    def _take_states(self, kv: KvSize) -> int:
        self.num_state_slots = fitting_slots(self.layout, kv, *self._memory.info())
        return self._zeroed(self.num_state_slots * self.layout.bytes_per_slot, "state of sequences")

    def _fitting_blocks(self, kv: KvSize) -> int:
        """Return the KV cache's blocks beside all else: the usual graphs are there while the memory is looked at."""
        self._kv = self._arena  # any address: these graphs are not launched
        self._make_graphs().capture_usual()
        self._last_memory = self._memory.info()
        assert self._graphs is not None
        self._graphs.clear()
        return fitting_blocks(self.layout, kv, *self._last_memory)

    def _make_graphs(self) -> Graphs:
        places = self._tensors, self._arena, self._buffer_offsets, self._kv, self._states
        self._addresses = Addresses(*places, self.layout, self.num_blocks, self.num_state_slots)
        launches = resolve_launches(self._api, self._module, self.layout, self._step, self._addresses.of)
        sampler = self._sampler.launch
        self._forward, self._sampling = launches[:sampler], launches[sampler:]
        graphs = Graphs(self._api, self._forward, self.layout, self._stream)
        if self._mode == "off":
            graphs.problem = "--gpu-graphs off"
        elif self._graphs is not None:
            graphs.problem = self._graphs.problem
        self._graphs, self._graphs_generation = graphs, self._step.generation
        return graphs

    def _zeroed(self, n_bytes: int, what: str) -> int:
        """Return zeroed memory: masked attention reads blocks before they are written, and must find numbers."""
        n_bytes = max(n_bytes, DEVICE_ALIGNMENT)
        address = self._memory.device(n_bytes, what)
        check(self._api, self._api.hipMemsetAsync(address, 0, n_bytes, self._stream), f"clearing of the {what}")
        return address

    def tensors_of(self, layout: Layout) -> dict[str, int]:
        """Return the addresses of those tensors of another layout of the same bundle whose bytes are here already."""
        here = {(one.offset, one.packing, one.shape): self._tensors[one.name] for one in self.layout.tensors}
        places = {one.name: (one.offset, one.packing, one.shape) for one in layout.tensors}
        return {name: here[place] for name, place in places.items() if place in here}

    @property
    def api(self) -> HipApi:
        """HIP, as it was loaded."""
        return self._api

    def allocations(self) -> dict[str, int]:
        """Return the addresses of device memory by what it is for, as `weights` and `KV cache`."""
        return self._memory.allocations()

    def step(self, batch: Batch) -> Int32:
        """See `Program.step`."""
        shape, layout = shape_of(batch), self.layout
        if shape.tokens > layout.max_batch_tokens or shape.logits > layout.max_sequences:
            limits = f"{layout.max_batch_tokens} tokens and {layout.max_sequences} rows of logits"
            raise DeviceError(f"{self.device}: a step takes {limits}, found {shape.tokens} and {shape.logits}")
        rows_from_outside(batch, layout)
        if self._hung:
            raise DeviceError(f"{self.device}: hangs since an earlier step")
        try:
            self._use_device()
            with self._ranges(_range_name(shape)):
                self._compute(batch, shape)
        except HipError as error:
            raise DeviceError(f"{self.device}: {error}") from None
        image = (ctypes.c_int32 * shape.logits).from_address(self._sampled_image)
        return np.array(image, np.int32)

    def _compute(self, batch: Batch, shape: StepShape) -> None:
        """Run a step, and look whether that step was run: a graph that ran another is the last one."""
        assert self._graphs is not None
        replayed = self._run(batch, shape, replay=True)
        if replayed and (seen := self._seen()) is not None:
            self._mismatches += 1
            self._graphs.turn_off(f"a graph ran step {seen} instead of {self._step.number}")
            if seen != self._step.number - 1:
                # Pages that it wrote may belong to others by now.
                raise RocmforgeError(f"{self.device}: {self._graphs.problem}: the KV cache is spoiled")
            self._run(batch, shape, replay=False)  # what the step before had written was written again
        self._check_seen()

    def _seen(self) -> int | None:
        """Return the number of the step that the kernels saw, where it is not the one that was written."""
        seen = self._step.echoed()
        return None if seen == self._step.number else seen

    def _check_seen(self) -> None:
        if (seen := self._seen()) is not None:
            raise DeviceError(f"{self.device}: the kernels ran step {seen} instead of {self._step.number}")

    def _run(self, batch: Batch, shape: StepShape, replay: bool) -> bool:
        """Run a step to its end; return whether it was a graph's replay."""
        try:
            return self._queue_and_wait(batch, shape, replay)
        except BaseException:
            # What was queued may still read the pinned memory that the next step overwrites.
            if not self._hung:
                with contextlib.suppress(DeviceError):
                    self._wait()
            raise

    def _queue_and_wait(self, batch: Batch, shape: StepShape, replay: bool) -> bool:
        self._step.write(batch)
        replayed = self._launch_forward(shape, replay)
        # The device is at work by now; masks have to be there when tokens are drawn, by the last launch.
        self._step.write_masks(batch)
        launch_all(self._api, self._sampling, shape, self._stream)
        if shape.logits:
            code = self._api.hipMemcpyAsync(
                self._sampled_image, self._sampled, 4 * shape.logits, COPY_DEVICE_TO_HOST, self._stream
            )
            check(self._api, code, "download of the sampled tokens")
        self._wait()
        return replayed

    def _launch_forward(self, shape: StepShape, replay: bool) -> bool:
        assert self._graphs is not None
        if self._graphs_generation != self._step.generation:
            self._graphs.clear()
            self._graphs_generation = self._step.generation
        bucket = self._graphs.bucket(shape) if replay else None
        if bucket is not None:
            with self._ranges(f"graph of {bucket.tokens} tokens, context {bucket.context}"):
                if self._graphs.launch(bucket):
                    return True
        launch_all(self._api, self._forward, shape, self._stream)
        return False

    def try_graphs(self) -> None:
        """Replay some steps, and hold their logits against those of the same ones launched kernel by kernel, to the
        bit. Where they differ, no graph is used any more.

        Raises:
            DeviceError: a step fails; or graphs are to be used in any case, and cannot be.
        """
        try:
            self._try_graphs()
        except HipError as error:
            raise DeviceError(f"{self.device}: {error}") from None

    def _try_graphs(self) -> None:
        assert self._graphs is not None
        if self._mode == "off":
            return
        batches = self_test_batches(self.layout, self.num_blocks)
        expected = [self._answer(batch, replay=False) for batch in batches]
        for batch, answer in zip((*batches, *batches[:1]), (*expected, *expected[:1]), strict=True):
            if self._graphs.problem is None:
                self._try_replay(batch, answer)
        if self._graphs.problem is None:
            return
        if self._mode == "on":
            raise DeviceError(f"{self.device}: --gpu-graphs on: {self._graphs.problem}")
        if self._answer(batches[0], replay=False) != expected[0]:
            raise DeviceError(f"{self.device}: {self._graphs.problem}, and then kernels differ too")

    def _try_replay(self, batch: Batch, expected: bytes) -> None:
        assert self._graphs is not None
        try:
            if self._answer(batch, replay=True) != expected:
                self._graphs.turn_off("a replayed step differs from the same one launched kernel by kernel")
        except HipError as error:
            self._graphs.turn_off(str(error))

    def _answer(self, batch: Batch, replay: bool) -> bytes:
        """Return the logits of a step; nothing where a graph ran another."""
        shape = shape_of(batch)
        self._use_device()
        if self._run(batch, shape, replay) and self._seen() is not None:
            return b""
        self._check_seen()
        return self.logits(shape.logits).tobytes()

    def _wait(self) -> None:
        """Wait for the stream, but not for ever: HIP has no call for that."""
        patience = Patience(self._step_seconds)
        while self._api.hipStreamQuery(self._stream) == NOT_READY:
            if patience.look():
                self._hung = True
                raise DeviceError(f"{self.device}: a step did not end within {self._step_seconds:g} s: the GPU hangs")
            time.sleep(_SPIN_SECONDS)
        check(self._api, self._api.hipStreamSynchronize(self._stream), "a kernel of the step")

    def check(self) -> None:
        """See `Program.check`: the GPU has all that steps read."""

    def logits(self, num_rows: int) -> npt.NDArray[np.float32]:
        """See `Program.logits`."""
        rows = np.empty((num_rows, self.layout.vocab_size), np.float32)
        self._download(rows.ctypes.data, self._addresses.buffer(self._sampler.logits), rows.nbytes, "logits")
        return rows

    def hidden(self, first: int, count: int) -> Float32:
        """See `Program.hidden`."""
        buffer, offset, n_bytes = self._hidden.place(first, count)
        rows = np.empty(n_bytes, np.uint8)
        self._download(rows.ctypes.data, self._addresses.buffer(buffer) + offset, n_bytes, "hidden states")
        return self._hidden.normed(rows.data)

    def tapped(self, first: int, count: int) -> Float32:
        """See `Program.tapped`."""
        buffer, offset, n_bytes = place_tapped(self.layout, first, count)
        rows = np.empty((count, n_bytes // 4 // count), np.float32)
        self._download(rows.ctypes.data, self._addresses.buffer(buffer) + offset, n_bytes, "hidden states")
        return rows

    def _download(self, goal: int, source: int, n_bytes: int, what: str) -> None:
        try:
            self._use_device()
            code = self._api.hipMemcpyAsync(goal, source, n_bytes, COPY_DEVICE_TO_HOST, self._stream)
            check(self._api, code, f"download of {what}")
            check(self._api, self._api.hipStreamSynchronize(self._stream), f"download of {what}")
        except HipError as error:
            raise DeviceError(f"{self.device}: {error}") from None

    def facts(self) -> DeviceFacts:
        """See `Program.facts`."""
        problem = None if self._graphs is None else self._graphs.problem
        n_bytes = host_bytes(self.layout, self._host)
        return DeviceFacts(self._runtime, "on" if problem is None else f"off: {problem}", self._mismatches, n_bytes)

    def memory(self) -> tuple[int, int]:
        """See `Program.memory`; the last known where the device does not answer."""
        try:
            self._use_device()
            self._last_memory = self._memory.info()
        except HipError as error:
            log.debug("%s", error)
        return self._last_memory

    def close(self) -> None:
        """See `Program.close`. A GPU that hangs is left alone: freeing would wait for it."""
        if self._hung:
            return
        self._api.hipSetDevice(self.device.index)
        if self._stream.value:
            self._api.hipStreamSynchronize(self._stream)
        if self._graphs is not None:
            self._graphs.clear()
        self._memory.close()
        if self._module.value:
            self._api.hipModuleUnload(self._module)
        if self._stream.value:
            self._api.hipStreamDestroy(self._stream)
        self._graphs, self._module, self._stream = None, ctypes.c_void_p(), ctypes.c_void_p()


def _range_name(shape: StepShape) -> str:
    kind = "decode" if shape.tokens == shape.logits else "prefill"
    return f"{kind} of {shape.tokens} tokens"
