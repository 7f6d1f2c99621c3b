"""A model whose matrices are of another type than its files have: `--quantize`."""

from __future__ import annotations

from collections.abc import Mapping
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
from .imatrix import Importance
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
        self._importance: Mapping[str, npt.NDArray[np.float32]] = {} if importance is None else importance.columns
        tensors = {name: _typed(info, Quant[kind], base) for name, info in base.tensors.items()}
        for name, columns in self._importance.items():
            if name in tensors and columns.shape[-1] != tensors[name].shape[-1]:
                problem = f"expected {tensors[name].shape[-1]} columns, found {columns.shape[-1]}: of another model?"
                raise UsageError(f"--imatrix: {printable(name)}: {problem}")
        if importance is not None and not self._importance.keys() & tensors.keys():
            raise UsageError("--imatrix: expected tensors of the model, found none: of another model?")
        super().__init__(base, MappingProxyType(tensors))

    def read_rows(self, name: str, first: int, count: int) -> npt.NDArray[np.uint8]:
        """See `ModelSource`."""
        info, kept = self.tensor(name), self.base.tensor(name)
        if info == kept or info.ggml_type is kept.ggml_type:
            return self.base.read_rows(name, first, count)
        step = max(1, ELEMENTS_AT_ONCE // info.shape[-1])
        parts = []
        for start in range(first, first + count, step):
            values = read_float_rows(self.base, name, start, min(step, first + count - start))
            if not np.isfinite(values).all():
                raise self.error(name, "expected finite weights to quantize, found others")
            parts.append(quantize_rows(values, info.ggml_type, self._weights(name, start)))
        return np.concatenate(parts)

    def _weights(self, name: str, row: int) -> npt.NDArray[np.float32] | None:
        columns = self._importance.get(name)
        return None if columns is None or len(columns) != 1 else columns[0]


def _typed(info: TensorInfo, kind: Quant, base: ModelSource) -> TensorInfo:
    """Return a tensor with the type that it is to have."""
    parts = info.name.split(".")
    if len(info.shape) < 2 or parts[-1] != "weight" or parts[-2] in _KEPT or parts[-2].endswith("norm"):
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
