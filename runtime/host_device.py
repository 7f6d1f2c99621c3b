"""The host CPU as a device: drives a bundle's shared object through ctypes.

The structures mirror kernels/host/common.h and program.h, at `ABI_VERSION`.
"""

from __future__ import annotations

import _ctypes
import ctypes
import itertools
import mmap
import os
import platform
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..artifacts.bundle import Bundle
from ..artifacts.errors import DeviceError
from ..artifacts.layout import TENSOR_ALIGNMENT, Layout
from ..artifacts.manifest import TargetEntry
from .batch import Batch, Int32, RowSampling

ABI_VERSION = 1
MAX_ARGUMENTS = 8
_ELF_MACHINES = {"x86_64": 62, "aarch64": 183}
_V3_FEATURES = frozenset(("avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"))
_V4_FEATURES = _V3_FEATURES | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512_vnni"}
_LEVEL_FEATURES: Mapping[str, frozenset[str]] = {
    "x86_64_v4": _V4_FEATURES,
    "x86_64_v3": _V3_FEATURES,
    "portable": frozenset(),
}


class _Sampling(ctypes.Structure):
    _fields_ = (
        ("temperature", ctypes.c_float),
        ("top_p", ctypes.c_float),
        ("min_p", ctypes.c_float),
        ("top_k", ctypes.c_int32),
        ("repetition_penalty", ctypes.c_float),
        ("presence_penalty", ctypes.c_float),
        ("frequency_penalty", ctypes.c_float),
        ("num_seen", ctypes.c_int32),
        ("seen_tokens", ctypes.c_void_p),
        ("seen_counts", ctypes.c_void_p),
        ("seed", ctypes.c_uint64),
        ("counter", ctypes.c_uint64),
    )


class _Step(ctypes.Structure):
    _fields_ = (
        ("num_tokens", ctypes.c_int32),
        ("num_logits", ctypes.c_int32),
        ("blocks_per_row", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
        ("token_ids", ctypes.c_void_p),
        ("positions", ctypes.c_void_p),
        ("rows", ctypes.c_void_p),
        ("block_table", ctypes.c_void_p),
        ("logits_rows", ctypes.c_void_p),
        ("sampling", ctypes.c_void_p),
        ("sampled", ctypes.c_void_p),
    )


class _Launch(ctypes.Structure):
    _fields_ = (("kernel", ctypes.c_void_p), ("arguments", ctypes.c_void_p * MAX_ARGUMENTS))


def cpu_features() -> frozenset[str]:
    """Feature flags of this CPU, as /proc/cpuinfo names them; empty where there is no such file."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return frozenset()
    line = next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")
    return frozenset(line.partition(":")[2].split())


def choose_variant(targets: tuple[TargetEntry, ...], level: str | None = None) -> TargetEntry:
    """The best code object for this CPU, or the one asked for by `level`.

    Raises:
        DeviceError: the bundle has none that this machine can run.
    """
    hosts = [target for target in targets if target.backend == "host"]
    features = cpu_features()
    for target in hosts:
        wanted = target.level == level if level else True
        if wanted and _LEVEL_FEATURES.get(target.level, frozenset({"unknown"})) <= features:
            return target
    have = ", ".join(target.level for target in hosts) or "none"
    raise DeviceError(
        f"host: no code object for this CPU{f' at level {level}' if level else ''}; the bundle has: {have}"
    )


_load_numbers = itertools.count(1)


def _unique_path(descriptor: int) -> str:
    """A path of an open file that no load before has used: glibc takes an equal path for the library that it
    already has, though the descriptor's number may long stand for another file."""
    detour = "".join("../fd/" if bit == "1" else "./" for bit in f"{next(_load_numbers):b}")
    return f"/proc/self/fd/{detour}{descriptor}"


class _Library:
    """A loaded shared object; the descriptor that was checked is the one that is loaded."""

    def __init__(self, descriptor: int, name: str) -> None:
        self.descriptor = descriptor
        header = os.pread(descriptor, 20, 0)
        machine = int.from_bytes(header[18:20], "little")
        if header[:4] != b"\x7fELF" or machine != _ELF_MACHINES.get(platform.machine()):
            os.close(descriptor)
            raise DeviceError(
                f"{name}: expected an ELF shared object for {platform.machine()}, found machine {machine}"
            )
        try:
            self.handle = ctypes.CDLL(_unique_path(descriptor))
        except OSError as error:
            os.close(descriptor)
            raise DeviceError(f"{name}: cannot be loaded: {error}") from None
        self.handle.rfc_program_create.restype = ctypes.c_void_p
        self.handle.rfc_program_create.argtypes = (ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32)
        self.handle.rfc_program_step.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
        self.handle.rfc_program_destroy.argtypes = (ctypes.c_void_p,)
        version = self.handle.rfc_abi_version()
        if version != ABI_VERSION:
            self.close()
            raise DeviceError(f"{name}: expected ABI version {ABI_VERSION}, found {version}")

    def kernel(self, symbol: str) -> int:
        try:
            return ctypes.addressof(ctypes.c_char.in_dll(self.handle, symbol))
        except ValueError:
            raise DeviceError(f"code object lacks kernel {symbol}") from None

    def close(self) -> None:
        _ctypes.dlclose(self.handle._handle)
        os.close(self.descriptor)


def _anonymous(n_bytes: int, what: str) -> mmap.mmap:
    """Zeroed memory; pages are taken from the system only when they are first written."""
    try:
        return mmap.mmap(-1, max(n_bytes, mmap.PAGESIZE))
    except (OSError, OverflowError):
        raise DeviceError(f"host: {n_bytes} bytes for the {what} are not to be had") from None


def _address(buffer: mmap.mmap) -> int:
    return int(np.frombuffer(buffer, np.uint8).ctypes.data)


class HostProgram:
    """A bundle on the CPU. Not thread-safe: one thread owns it."""

    def __init__(self, layout: Layout, weights: mmap.mmap, code: int, name: str, num_blocks: int, threads: int) -> None:
        """Load code, reserve arena and KV cache.

        Args:
            layout: of the bundle.
            weights: weights.bin, mapped.
            code: descriptor of the shared object; owned from here on.
            name: what the code is called in messages.
            num_blocks: blocks of the KV cache.
            threads: that share the work, this one included.
        Raises:
            DeviceError: the code does not fit, or memory or threads are not to be had.
        """
        self.layout = layout
        self.num_blocks = num_blocks
        self.threads = threads
        self._weights = weights
        self._library = _Library(code, name)
        self._arena = _anonymous(layout.arena_bytes(), "arena")
        self._kv = _anonymous(num_blocks * layout.kv.bytes_per_block, "KV cache")
        self._buffer_offsets = _place_buffers(layout)
        self._launches = self._resolve_launches()
        self._handle = self._library.handle.rfc_program_create(
            ctypes.addressof(self._launches), len(self._launches), threads
        )
        if not self._handle:
            raise DeviceError(f"host: {threads} threads are not to be had")

    def _resolve_launches(self) -> ctypes.Array[_Launch]:
        weights, arena, kv = _address(self._weights), _address(self._arena), _address(self._kv)
        tensors = {entry.name: weights + entry.offset for entry in self.layout.tensors}
        half_layer = self.num_blocks * self.layout.kv.bytes_per_block // (2 * self.layout.kv.num_layers)

        def resolve(argument: str) -> int | None:
            kind, _, rest = argument.partition(":")
            if kind == "tensor":
                return tensors[rest]
            if kind == "buffer":
                return arena + self._buffer_offsets[rest]
            if kind == "kv":
                layer, _, which = rest.partition(":")
                return kv + (2 * int(layer) + (which == "value")) * half_layer
            return None

        launches = (_Launch * len(self.layout.launches))()
        symbols: dict[str, int] = {}
        for launch, entry in zip(launches, self.layout.launches, strict=True):
            if entry.kernel not in symbols:
                symbols[entry.kernel] = self._library.kernel(entry.kernel)
            launch.kernel = symbols[entry.kernel]
            for index, argument in enumerate(entry.arguments[:MAX_ARGUMENTS]):
                launch.arguments[index] = resolve(argument)
        return launches

    def step(self, batch: Batch) -> Int32:
        """See `Program.step`."""
        num_logits = len(batch.logits_rows)
        sampled = np.zeros(num_logits, np.int32)
        sampling = (_Sampling * max(num_logits, 1))()
        for slot, row in zip(sampling, batch.sampling, strict=False):
            _fill_sampling(slot, row)
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
        )
        self._library.handle.rfc_program_step(self._handle, ctypes.addressof(step))
        return sampled

    def logits(self, num_rows: int) -> npt.NDArray[np.float32]:
        """See `Program.logits`."""
        name = self.layout.launches[-1].arguments[0].removeprefix("buffer:")
        offset = self._buffer_offsets[name]
        count = num_rows * self.layout.vocab_size
        flat = np.frombuffer(self._arena, np.float32, count, offset)
        return flat.reshape(num_rows, self.layout.vocab_size).copy()

    def memory(self) -> tuple[int, int]:
        """See `Program.memory`; from /proc/meminfo."""
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text("ascii").splitlines())
        return tuple(int(fields[key].split()[0]) * 1024 for key in ("MemAvailable", "MemTotal"))  # type: ignore[return-value]

    def close(self) -> None:
        """See `Program.close`."""
        if self._handle:
            self._library.handle.rfc_program_destroy(self._handle)
            self._handle = None
            self._library.close()


def _place_buffers(layout: Layout) -> dict[str, int]:
    """Offsets in the arena, in bytes: one buffer after another, each at a multiple of 64."""
    offsets, end = {}, 0
    for entry in layout.buffers:
        offsets[entry.name] = end
        end += -(-entry.n_bytes(layout.max_batch_tokens) // TENSOR_ALIGNMENT) * TENSOR_ALIGNMENT
    return offsets


def load_host_program(bundle: Bundle, num_blocks: int, threads: int, level: str | None = None) -> HostProgram:
    """The best of the bundle's host code objects for this CPU, or the one of `level`, on its weights.

    Raises:
        DeviceError: no fitting code object, or memory or threads are not to be had.
    """
    target = choose_variant(bundle.manifest.targets, level)
    code = bundle.open_code(target.file)
    return HostProgram(bundle.layout, bundle.map_weights(), code, target.file, num_blocks, threads)


def _fill_sampling(slot: _Sampling, row: RowSampling) -> None:
    slot.temperature = row.temperature
    slot.top_p = row.top_p
    slot.min_p = row.min_p
    slot.top_k = row.top_k
    slot.repetition_penalty = row.repetition_penalty
    slot.presence_penalty = row.presence_penalty
    slot.frequency_penalty = row.frequency_penalty
    slot.seed = row.seed
    slot.counter = row.counter
    if row.seen_tokens is not None and row.seen_counts is not None:
        slot.num_seen = len(row.seen_tokens)
        slot.seen_tokens = row.seen_tokens.ctypes.data
        slot.seen_counts = row.seen_counts.ctypes.data
