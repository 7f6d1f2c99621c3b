"""weights.bin: every packed tensor of the plan, in order, streamed from the GGUF."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..artifacts.layout import TENSOR_ALIGNMENT, TensorEntry
from ..artifacts.packing_sizes import packed_bytes
from .blocks import Bytes
from .floats import float_rows
from .model_config import ModelConfig
from .model_source import ModelSource
from .model_tensors import WeightTensor, weight_tensors
from .packing import interleave_pairs, pack_rows
from .packing_lanes import interleave_lane_pairs, pack_lanes
from .plan import PackedTensor
from .position_tables import PACKINGS

ROWS_AT_ONCE = 4096  # bounds the memory of a repack

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


def write_weights(
    tensors: Sequence[PackedTensor],
    gguf: ModelSource,
    config: ModelConfig,
    max_seq_len: int,
    sink: Sink,
    progress: Callable[[int], None],
) -> tuple[TensorEntry, ...]:
    """Pack and write tensors.

    Args:
        tensors: of one plan or of several, each once.
        max_seq_len: rows of tables by position.
        progress: called with the bytes written so far.
    Returns:
        where each one lies.
    """
    entries = []
    roles = weight_tensors(gguf, config)
    for tensor in tensors:
        offset = sink.align(TENSOR_ALIGNMENT)
        for part in _packed_parts(tensor, roles, gguf, config, max_seq_len):
            sink.write(np.ascontiguousarray(part).data.cast("B"))
            progress(sink.position)
        shape = config.tables()[tensor.sources[0]].shape(max_seq_len) if tensor.packing in PACKINGS else tensor.shape
        n_bytes = packed_bytes(tensor.packing, shape)
        assert sink.position - offset == n_bytes, tensor.name  # what the runtime will hold it to
        entries.append(TensorEntry(tensor.name, tensor.packing, shape, offset, n_bytes))
    return tuple(entries)


def _packed_parts(
    tensor: PackedTensor,
    roles: Mapping[str, WeightTensor],
    gguf: ModelSource,
    config: ModelConfig,
    max_seq_len: int,
) -> Iterator[npt.NDArray[np.generic]]:
    """Yield a tensor piece by piece, so that the largest is never held twice."""
    if tensor.packing in PACKINGS:
        table = config.tables()[tensor.sources[0]]
        role = table.factors_role(max_seq_len)
        yield table.numbers(read_floats(gguf, roles[role]) if role else None, max_seq_len)
        return
    infos = [roles[source] for source in tensor.sources]
    if tensor.packing == "f32":
        yield from (read_floats(gguf, info) for info in infos)
        return
    ggml_type, columns = infos[0].ggml_type.name, tensor.shape[1]
    raw = [info.read(gguf) for info in infos]
    family, _, kind = tensor.packing.partition("_")
    pack, interleave = _PACKERS[family]
    if kind.startswith("pairs_"):
        gate, up = (pack(part, ggml_type, columns) for part in raw)
        yield interleave(gate, up)
        return
    stacked = raw[0] if len(raw) == 1 else np.concatenate(raw)
    for row in range(0, len(stacked), ROWS_AT_ONCE):
        yield pack(stacked[row : row + ROWS_AT_ONCE], ggml_type, columns)


def read_floats(gguf: ModelSource, tensor: WeightTensor) -> npt.NDArray[np.float32]:
    """Return the elements of a tensor of any type as float32[elements], exactly."""
    elements = float_rows(tensor.read(gguf), tensor.ggml_type).reshape(-1)
    return np.reciprocal(elements) if tensor.inverted else elements
