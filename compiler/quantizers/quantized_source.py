"""A model whose matrices are of another type than its files have: `--quantize`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from ...artifacts.errors import UsageError, printable
from ...artifacts.formats import FORMATS
from ..derived_source import DerivedSource
from ..floats import read_float_rows
from ..ggml_types import BLOCKS
from ..ggml_types import GgmlType as Quant
from ..model_source import ModelSource, TensorInfo
from .imatrix import Columns, Importance
from .quantize import QUANTIZERS, quantize_rows

ELEMENTS_AT_ONCE = 1 << 23  # that are floats at a time: 32 MiB
TYPES = tuple(kind.name for kind in QUANTIZERS if kind.name in FORMATS)
# Where a row is no multiple of a type's block: the type of 32 columns that comes next, and float16 at last.
_NEXT = {
    Quant.Q2_K: Quant.IQ4_NL,
    Quant.Q3_K: Quant.IQ4_NL,
    Quant.IQ4_XS: Quant.IQ4_NL,
    Quant.Q4_K: Quant.Q5_0,
    Quant.Q5_K: Quant.Q5_1,
    Quant.Q6_K: Quant.Q8_0,
}
# Matrices that decide more than they weigh: routers of experts, positions, convolutions.
_KEPT = (
    *("ffn_gate_inp", "ffn_gate_inp_shexp", "position_embd", "token_types"),
    *("conv", "ssm_conv1d", "ssm_conv1d_q", "ssm_conv1d_k", "ssm_conv1d_v"),
)


class QuantizedSource(DerivedSource):
    """A model with its matrices in other types.

    Args:
        base: the model.
        kind: the type, one of `TYPES`.
        importance: of columns, by the names of tensors; None: all alike.

    Raises:
        UsageError: there is no such type, or the importance is of another model.
    """

    __slots__ = ("_importance",)

    def __init__(self, base: ModelSource, kind: str, importance: Importance | None = None) -> None:
        if kind not in TYPES:
            raise UsageError(f"--quantize: expected one of {', '.join(TYPES)}, found {printable(kind)}")
        self._importance: Mapping[str, Columns] = {} if importance is None else importance.columns
        tensors = {name: _typed(info, Quant[kind], base) for name, info in base.tensors.items()}
        for name, columns in self._importance.items():
            if name in tensors:
                _check_importance(columns, tensors[name])
        if importance is not None and not self._importance.keys() & tensors.keys():
            raise UsageError("--imatrix: expected tensors of the model, found none: of another model?")
        super().__init__(base, MappingProxyType(tensors))

    def read_rows(self, name: str, first: int, count: int) -> npt.NDArray[np.uint8]:
        """See `ModelSource`."""
        info, kept = self.tensor(name), self.base.tensor(name)
        if info == kept or info.ggml_type is kept.ggml_type:
            return self.base.read_rows(name, first, count)
        parts = []
        for start, end, importance in self._chunks(info, first, first + count):
            values = read_float_rows(self.base, name, start, end - start)
            if not np.isfinite(values).all():
                raise self.error(name, "expected finite weights to quantize, found others")
            parts.append(quantize_rows(values, info.ggml_type, importance))
        return np.concatenate(parts)

    def _chunks(self, info: TensorInfo, first: int, end: int) -> Iterator[tuple[int, int, Columns | None]]:
        """Yield what is quantized at a time of the rows from `first` to `end`.

        Yields:
            first row, end, and the importance of their columns, float32[columns]; None: all alike.
        """
        columns = self._importance.get(info.name)
        # Where experts have importance of their own, no chunk is of two.
        height = info.rows if columns is None or len(columns) == 1 else info.shape[-2]
        step = max(1, ELEMENTS_AT_ONCE // info.shape[-1])
        while first < end:
            expert = first // height
            stop = min(first + step, (expert + 1) * height, end)
            yield first, stop, None if columns is None else columns[expert]
            first = stop


def _check_importance(columns: Columns, info: TensorInfo) -> None:
    """Refuse importance, float32[matrices, columns], that cannot be of a tensor.

    Raises:
        UsageError: it has other columns, or its matrices are neither 1 nor as many as the tensor's.
    """
    problem = ""
    if columns.shape[-1] != info.shape[-1]:
        problem = f"expected {info.shape[-1]} columns, found {columns.shape[-1]}"
    elif len(columns) not in (1, info.matrices):
        expected = "1 matrix" if info.matrices == 1 else f"1 or {info.matrices} matrices"
        problem = f"expected {expected}, found {len(columns)}"
    if problem:
        raise UsageError(f"--imatrix: {printable(info.name)}: {problem}: of another model?")


def _typed(info: TensorInfo, kind: Quant, base: ModelSource) -> TensorInfo:
    """Return a tensor with the type that it is to have."""
    module, last = ("", *info.name.split("."))[-2:]  # none of a tensor that is named `weight` alone
    if len(info.shape) < 2 or last != "weight" or module in ("", *_KEPT) or module.endswith("norm"):
        return info
    chosen = kind
    if info.name == ("output.weight" if "output.weight" in base.tensors else "token_embd.weight"):
        chosen = _of_logits(kind)
    if info.shape[-1] % BLOCKS[chosen][0]:
        chosen = _NEXT.get(chosen, chosen)
    if info.shape[-1] % BLOCKS[chosen][0]:
        chosen = Quant.F16
    return TensorInfo(info.name, info.shape, chosen)


def _of_logits(kind: Quant) -> Quant:
    """Return the type of the matrix that gives the logits: Q6_K, unless what was asked for is finer."""
    block, n_bytes = BLOCKS[kind]
    of_q6_k = BLOCKS[Quant.Q6_K]
    return kind if n_bytes / block >= of_q6_k[1] / of_q6_k[0] else Quant.Q6_K
