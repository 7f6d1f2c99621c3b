"""The host CPU as a device: drives a bundle's shared object through ctypes.

Its own structures mirror kernels/host/program.h, at `HOST_ABI_VERSION`.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import time
from collections.abc import Collection
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...artifacts import abi
from ...artifacts.abi import ctypes_fields
from ...artifacts.bundle import Bundle
from ...artifacts.errors import DeviceError, os_problem
from ...artifacts.host import HOST_LEVELS, cpu_features, host_arch
from ...artifacts.layout import MAX_ARGUMENTS, TENSOR_ALIGNMENT, Layout
from ...artifacts.manifest_entries import TargetEntry
from ...artifacts.mapped_weights import MappedWeights
from .addresses import Addresses
from .batch import Batch, DeviceFacts, Float32, Int32, RowSampling, UInt32, rows_from_outside
from .hidden import HiddenStates, place_tapped
from .host_library import LevelError, Library, check_abi
from .memory import LEAST_SLOTS
from .proof import Proof
from .token_masks import PendingMask

log = logging.getLogger(__name__)


class _Sampling(ctypes.Structure):
    _fields_ = ctypes_fields(abi.SAMPLING, "host")


class _Step(ctypes.Structure):
    _fields_ = ctypes_fields(abi.STEP, "host")


class _Launch(ctypes.Structure):
    _fields_ = (("kernel", ctypes.c_void_p), ("arguments", ctypes.c_void_p * MAX_ARGUMENTS))


def choose_variant(
    targets: tuple[TargetEntry, ...], level: str | None = None, without: Collection[str] = ()
) -> TargetEntry:
    """Return the best code object for this CPU, of a level not among `without`, or the one asked for by `level`.

    Raises:
        DeviceError: the bundle has none that this machine can run.
    """
    hosts = {one.level: one for one in targets if one.backend == "host" and one.level not in without}
    features = cpu_features()
    for name, needed in HOST_LEVELS[host_arch()].items():
        if name in hosts and level in (None, name) and features.issuperset(needed):
            return hosts[name]
    have = ", ".join(hosts) or "none"
    needed = HOST_LEVELS[host_arch()].get(level or "", ())
    if level in hosts and needed:
        lacking = ", ".join(one for one in needed if one not in features)
        raise DeviceError(f"host: no code object for this CPU at level {level}: it lacks {lacking}")
    raise DeviceError(
        f"host: no code object for this CPU{f' at level {level}' if level else ''}; the bundle has: {have}"
    )


def _anonymous(n_bytes: int, what: str) -> mmap.mmap:
    """Return zeroed memory; pages are taken from the system only when they are first written."""
    try:
        return mmap.mmap(-1, max(n_bytes, mmap.PAGESIZE))
    except (OSError, OverflowError):
        raise DeviceError(f"host: {n_bytes} bytes for the {what} are unavailable") from None


def _address(buffer: mmap.mmap) -> int:
    return int(np.frombuffer(buffer, np.uint8).ctypes.data)


def _address_of(array: Int32 | Float32 | None) -> int | None:
    return None if array is None else array.ctypes.data


class HostProgram:
    """A bundle on the CPU. Not thread-safe: one thread owns it."""

    def __init__(
        self,
        layout: Layout,
        weights: MappedWeights,
        code: int,
        name: str,
        num_blocks: int,
        threads: int,
        num_state_slots: int = 0,
    ) -> None:
        """Load code, reserve arena, KV cache and slots of state.

        Args:
            layout: of the bundle.
            weights: those of the layout, mapped.
            code: descriptor of the shared object; owned from here on.
            name: what the code is called in messages.
            num_blocks: blocks of the KV cache.
            threads: that share the work, this one included.
            num_state_slots: of state; 0: as many as one sequence takes. None are where the model has no state.
        Raises:
            DeviceError: the code does not fit, or memory or threads are unavailable.
        """
        self.layout = layout
        self.num_blocks = num_blocks
        self.num_state_slots = (num_state_slots or LEAST_SLOTS) if layout.states else 0
        self.threads = threads
        self._weights = weights
        self._hidden = HiddenStates(layout, weights)
        self._sampler = layout.find_sampler()
        self._proof: Proof | None = None
        self._library = Library(code, name)
        try:
            self._arena = _anonymous(layout.arena_bytes(), "arena")
            self._kv = _anonymous(num_blocks * layout.kv.bytes_per_block, "KV cache")
            self._states = _anonymous(self.num_state_slots * layout.bytes_per_slot, "state of sequences")
            self._addresses = self._place()
            self._launches = self._resolve_launches()
            self._handle = self._start_threads(threads)
        except DeviceError:
            self._library.close()
            raise

    def _place(self) -> Addresses:
        weights = _address(self._weights)
        return Addresses(
            {entry.name: weights + entry.offset for entry in self.layout.tensors},
            _address(self._arena),
            _place_buffers(self.layout),
            _address(self._kv),
            _address(self._states),
            self.layout,
            self.num_blocks,
            self.num_state_slots,
        )

    def _resolve_launches(self) -> ctypes.Array[_Launch]:
        launches = (_Launch * len(self.layout.launches))()
        symbols: dict[str, int] = {}
        for launch, entry in zip(launches, self.layout.launches, strict=True):
            if entry.kernel not in symbols:
                symbols[entry.kernel] = self._library.kernel(entry.kernel)
            launch.kernel = symbols[entry.kernel]
            for index, argument in enumerate(entry.arguments):
                launch.arguments[index] = self._addresses.of(argument)
        return launches

    def _start_threads(self, count: int) -> int | None:
        handle: int | None = self._library.create(ctypes.addressof(self._launches), len(self._launches), count)
        if not handle:
            raise DeviceError(f"host: {count} threads are unavailable")
        return handle

    def set_threads(self, count: int) -> None:
        """Let another number of threads share the work from here on.

        Raises:
            DeviceError: they are unavailable; nothing has changed.
        """
        handle = self._start_threads(count)
        self._library.destroy(self._handle)
        self._handle, self.threads = handle, count

    def prove_with_first_step(self, proof: Proof | None) -> None:
        """Have the first step replay a golden record too: until one has, there is no result."""
        self._proof = proof

    def _step_and_prove(self, batch: Batch, proof: Proof) -> Int32:
        self._proof = None
        try:
            return proof.step_with(self, batch)
        except BaseException:
            self._proof = proof
            raise

    def step(self, batch: Batch, seconds: list[float] | None = None, end: int | None = None) -> Int32:
        """See `Program.step`.

        Args:
            batch: to compute.
            seconds: where given, launches run one by one, and each one's are appended.
            end: run only the launches before this one, for what they take: what is returned means nothing.
        """
        if self._proof is not None:
            return self._step_and_prove(batch, self._proof)
        num_logits = len(batch.logits_rows)
        sampled = np.zeros(num_logits, np.int32)
        sampling = (_Sampling * num_logits)()
        originals = [_fill_sampling(slot, row) for slot, row in zip(sampling, batch.sampling, strict=False)]
        starts = None if batch.state_from is None else batch.sequence_starts()
        given = rows_from_outside(batch, self.layout) or (None, None)
        step = _Step(
            len(batch.token_ids),
            num_logits,
            batch.block_table.shape[1],
            0,
            batch.token_ids.ctypes.data,
            batch.positions.ctypes.data,
            batch.rows.ctypes.data,
            batch.block_table.ctypes.data,
            batch.logits_rows.ctypes.data,
            ctypes.addressof(sampling),
            sampled.ctypes.data,
            _address_of(batch.adapter_scales),
            0 if starts is None else len(starts) - 1,
            _address_of(starts),
            _address_of(batch.state_from),
            _address_of(batch.state_to),
            *map(_address_of, given),
            rope_positions=_address_of(batch.rope_positions),
            output_rows=_address_of(batch.output_rows),
            num_outputs=0 if batch.output_rows is None else len(batch.output_rows),
        )
        first, end = 0, len(self._launches) if end is None else end
        while seconds is not None and first < end:
            began = time.perf_counter()
            self._library.step(self._handle, ctypes.addressof(step), first, first + 1)
            seconds.append(time.perf_counter() - began)
            first += 1
        if any(isinstance(row.mask, PendingMask) for row in batch.sampling):
            first = self._sampler.launch
            self._library.step(self._handle, ctypes.addressof(step), 0, first)
        masks = [_fill_mask(slot, row) for slot, row in zip(sampling, batch.sampling, strict=False)]
        self._library.step(self._handle, ctypes.addressof(step), first, end)
        del originals, masks  # what the kernel reads and its scratch have to live until here
        self.check()  # after the step: what came of a file that was cut or written to meanwhile is void
        return sampled

    def check(self) -> None:
        """See `Program.check`."""
        self._weights.check()

    def logits(self, num_rows: int) -> npt.NDArray[np.float32]:
        """See `Program.logits`."""
        offset = self._addresses.buffers[self._sampler.logits]
        count = num_rows * self.layout.vocab_size
        flat = np.frombuffer(self._arena, np.float32, count, offset)
        return flat.reshape(num_rows, self.layout.vocab_size).copy()

    def facts(self) -> DeviceFacts:
        """See `Program.facts`: there is no GPU."""
        return DeviceFacts()

    def hidden(self, first: int, count: int) -> Float32:
        """See `Program.hidden`."""
        buffer, offset, n_bytes = self._hidden.place(first, count)
        begin = self._addresses.buffers[buffer] + offset
        return self._hidden.normed(self._arena[begin : begin + n_bytes])

    def tapped(self, first: int, count: int) -> Float32:
        """See `Program.tapped`."""
        buffer, offset, n_bytes = place_tapped(self.layout, first, count)
        begin = self._addresses.buffers[buffer] + offset
        return np.frombuffer(self._arena, np.float32, n_bytes // 4, begin).reshape(count, -1).copy()

    def memory(self) -> tuple[int, int]:
        """See `Program.memory`; from /proc/meminfo."""
        try:
            text = Path("/proc/meminfo").read_text("ascii")
        except OSError as error:  # there may be no descriptor left
            raise DeviceError(f"host: {os_problem(error)}") from None
        fields = dict(line.split(":", 1) for line in text.splitlines())
        available, total = (int(fields[key].split()[0]) * 1024 for key in ("MemAvailable", "MemTotal"))
        return available, total

    def close(self) -> None:
        """See `Program.close`."""
        if self._handle:
            self._library.destroy(self._handle)
            self._handle = None
            self._library.close()


def _place_buffers(layout: Layout) -> dict[str, int]:
    """Return the offsets in the arena, in bytes: one buffer after another, each at a multiple of 64."""
    offsets, end = {}, 0
    for entry in layout.buffers:
        offsets[entry.name] = end
        end += -(-entry.n_bytes(layout.max_batch_tokens) // TENSOR_ALIGNMENT) * TENSOR_ALIGNMENT
    return offsets


def load_host_program(
    bundle: Bundle, num_blocks: int, threads: int, level: str | None = None, num_state_slots: int = 0
) -> HostProgram:
    """Load the best of the bundle's host code objects for this CPU, or the one of `level`, on its weights.

    Where the best cannot run here though the CPU has what it needs, the next best is loaded, and the log says why.

    Raises:
        LevelError: the code of `level` is such.
        DeviceError: no fitting code object, or memory or threads are unavailable.
    """
    without: list[str] = []
    while True:
        target = choose_variant(bundle.manifest.targets, level, without)
        check_abi(target.abi, target.file)
        code = bundle.open_code(target.file)
        layout, weights = bundle.layout_of(target), bundle.map_weights(target.backend)
        try:
            return HostProgram(layout, weights, code, target.file, num_blocks, threads, num_state_slots)
        except LevelError as error:
            if level is not None:
                raise
            log.warning("host: not the level %s: %s", target.level, str(error))
            without.append(target.level)


def _fill_sampling(slot: _Sampling, row: RowSampling) -> Float32 | None:
    """Fill a record; return the scratch that the slot points to, if any: the caller keeps it alive."""
    for name in abi.ROW_SCALARS:
        setattr(slot, name, getattr(row, name))
    if row.seen_tokens is not None and row.seen_counts is not None:
        slot.num_seen = len(row.seen_tokens)
        slot.seen_tokens = row.seen_tokens.ctypes.data
        slot.seen_counts = row.seen_counts.ctypes.data
    if row.bias_tokens is not None and row.biases is not None:
        slot.num_biases = len(row.bias_tokens)
        slot.bias_tokens = row.bias_tokens.ctypes.data
        slot.biases = row.biases.ctypes.data
    if not row.keep_logits or not slot.num_seen + slot.num_biases:
        return None
    originals = np.empty(slot.num_seen + slot.num_biases, np.float32)
    slot.originals = originals.ctypes.data
    return originals


def _fill_mask(slot: _Sampling, row: RowSampling) -> UInt32 | None:
    """Wait for the mask, if there is one, and return it: the caller keeps it alive."""
    mask = row.wait_for_mask()
    if mask is not None:
        slot.mask = mask.ctypes.data
    return mask
