"""A file of weights: every packed tensor of the plans, in order, streamed from the GGUF."""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..artifacts.dataclass import dataclass
from ..artifacts.layout import TENSOR_ALIGNMENT, TensorEntry
from ..artifacts.packing_sizes import packed_bytes
from ..artifacts.processors import usable_cpus
from .blocks import Bytes
from .floats import float_rows
from .model_config import ModelConfig
from .model_source import ModelSource
from .model_tensors import WeightTensor, weight_tensors
from .packing import interleave_pairs, pack_rows
from .packing_lanes import interleave_lane_pairs, pack_lanes
from .plan import PackedTensor
from .position_tables import PACKINGS, PositionTable

ROWS_AT_ONCE = 4096  # these, and elements, bound the memory of a repack
ELEMENTS_AT_ONCE = 1 << 22

_Part = Callable[[], npt.NDArray[np.generic]]
Made = Mapping[str, npt.NDArray[Any]]
_Packer = tuple[Callable[[Bytes, str, int], Bytes], Callable[[Bytes, Bytes], Bytes]]
# By the packing's first part: rows into tiles, and two packed matrices into one of pairs.
_PACKERS: Mapping[str, _Packer] = {
    "rows16": (pack_rows, interleave_pairs),
    "lanes32": (pack_lanes, interleave_lane_pairs),
}


class Sink(Protocol):
    """Where the bytes go; `artifacts.writer.BundleStream`."""

    def write(self, data: memoryview) -> None:
        """Append bytes."""

    def align(self, alignment: int) -> int:
        """Pad with zeros to a multiple; returns the position."""

    @property
    def position(self) -> int:
        """Return the bytes written."""


def rope_table(config: ModelConfig, factors: npt.NDArray[np.float32] | None, length: int) -> npt.NDArray[np.float32]:
    """Return cosines and sines of every position: float32[length, rope_dim], cosines first; see `RopeTable`."""
    return config.tables()["rope_table"].numbers(factors, length)


class FileSink:
    """A plain file as a `Sink`. A context manager."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._digest = hashlib.sha256()
        self._position = 0

    def __enter__(self) -> FileSink:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    @property
    def position(self) -> int:
        """See `Sink`."""
        return self._position

    @property
    def sha256(self) -> str:
        """Return the hex digest of what was written."""
        return self._digest.hexdigest()

    def write(self, data: memoryview) -> None:
        """See `Sink`."""
        self._file.write(data)
        self._digest.update(data)
        self._position += len(data)

    def align(self, alignment: int) -> int:
        """See `Sink`."""
        self.write(memoryview(bytes(-self._position % alignment)))
        return self._position


@dataclass(frozen=True, slots=True)
class WeightSource:
    """What packed tensors are made of.

    Attributes:
        source: of the weights.
        roles: each weight's tensor.
        tables: by position, by role.
        max_seq_len: rows of these.
        made: numbers of weights that are none of the source's, as they are written.
    """

    source: ModelSource
    roles: Mapping[str, WeightTensor]
    tables: Mapping[str, PositionTable]
    max_seq_len: int
    made: Made = field(default_factory=dict)


def write_weights(
    tensors: Sequence[PackedTensor],
    gguf: ModelSource,
    config: ModelConfig,
    max_seq_len: int,
    sink: Sink,
    progress: Callable[[int], None],
    made: Made = MappingProxyType({}),
) -> tuple[TensorEntry, ...]:
    """Pack and write a model's tensors, as `write_tensors` does; see `WeightSource`."""
    source = WeightSource(gguf, weight_tensors(gguf, config), config.tables(), max_seq_len, made)
    return write_tensors(tensors, source, sink, progress)


def write_tensors(
    tensors: Sequence[PackedTensor], source: WeightSource, sink: Sink, progress: Callable[[int], None]
) -> tuple[TensorEntry, ...]:
    """Pack and write tensors.

    Args:
        tensors: of one plan or of several, each once.
        source: what they are made of.
        progress: called with the bytes written so far.
    Returns:
        where each one lies.
    """
    entries = []
    for tensor in tensors:
        offset = sink.align(TENSOR_ALIGNMENT)
        for part in _in_order(_packed_parts(tensor, source)):
            sink.write(np.ascontiguousarray(part).data.cast("B"))
            progress(sink.position)
        is_table = tensor.packing in PACKINGS
        shape = source.tables[tensor.sources[0]].shape(source.max_seq_len) if is_table else tensor.shape
        n_bytes = packed_bytes(tensor.packing, shape)
        assert sink.position - offset == n_bytes, tensor.name  # what the runtime will hold it to
        entries.append(TensorEntry(tensor.name, tensor.packing, shape, offset, n_bytes))
    return tuple(entries)


def _in_order(parts: Iterator[_Part]) -> Iterator[npt.NDArray[np.generic]]:
    """Yield what each part gives, one after another, while the next ones are made: NumPy works without the lock."""
    workers = usable_cpus()
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[npt.NDArray[np.generic]]] = deque()
        try:
            for part in parts:
                waiting.append(pool.submit(part))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _packed_parts(tensor: PackedTensor, source: WeightSource) -> Iterator[_Part]:
    """Yield what makes a tensor, some rows at a time, so that no whole one is ever held."""
    roles, gguf, max_seq_len = source.roles, source.source, source.max_seq_len
    if tensor.sources[0] in source.made:
        yield lambda: source.made[tensor.sources[0]]
        return
    if tensor.packing in PACKINGS:
        table = source.tables[tensor.sources[0]]
        role = table.factors_role(max_seq_len)
        factors = read_floats(gguf, roles[role]) if role else None
        yield lambda: table.numbers(factors, max_seq_len)
        return
    infos = [roles[source] for source in tensor.sources]
    if tensor.packing == "f32":
        yield from (partial(read_floats, gguf, info) for info in infos)
        return
    ggml_type, columns = infos[0].ggml_type.name, tensor.shape[1]
    family, _, kind = tensor.packing.partition("_")
    pack, interleave = _PACKERS[family]
    step = min(ROWS_AT_ONCE, max(32, ELEMENTS_AT_ONCE // columns // 32 * 32))  # whole tiles of either packing

    def pairs(row: int) -> npt.NDArray[np.generic]:
        gate, up = (pack(_stacked_rows(gguf, [info], row, step), ggml_type, columns) for info in infos)
        return interleave(gate, up)

    def tiles(row: int) -> npt.NDArray[np.generic]:
        return pack(_stacked_rows(gguf, infos, row, step), ggml_type, columns)

    of_pairs = kind.startswith("pairs_")
    for row in range(0, infos[0].shape[0] if of_pairs else sum(info.shape[0] for info in infos), step):
        yield partial(pairs if of_pairs else tiles, row)


def _stacked_rows(gguf: ModelSource, infos: Sequence[WeightTensor], first: int, count: int) -> Bytes:
    """Return rows of matrices that stand one under the other: as many as there are from `first` on, up to `count`."""
    found = []
    for info in infos:
        rows = range(max(first, 0), min(first + count, info.shape[0]))
        if rows:
            found.append(info.read_rows(gguf, rows.start, len(rows)))
        first -= info.shape[0]
    return found[0] if len(found) == 1 else np.concatenate(found)


def slopes(heads: int, layer: int, layers: int) -> npt.NDArray[np.float32]:
    """Return the logarithms of what heads of lightning attention keep from token to token, float32[heads]: minus
    2^(-8 (h + 1) / heads), times what falls from 1 in the first layer to 0 in the last, and 1e-5.

    Source: llama.cpp 11434, src/models/minimax-01.cpp.
    """
    rates = 2.0 ** (-8 / heads * np.arange(1, heads + 1))
    return (-rates * (1 - layer / max(layers - 1, 1) + 1e-5)).astype(np.float32)


def read_floats(gguf: ModelSource, tensor: WeightTensor) -> npt.NDArray[np.float32]:
    """Return the elements of a tensor of any type as float32[elements], exactly."""
    if tensor.form == "ones":
        return np.ones(math.prod(tensor.shape), np.float32)
    if tensor.form == "slopes":
        return slopes(tensor.shape[0], tensor.first, tensor.every)
    elements = float_rows(tensor.read(gguf), tensor.ggml_type).reshape(-1)
    return np.reciprocal(elements) if tensor.form == "inverted" else elements
