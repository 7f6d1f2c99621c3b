"""Low-rank adapters merged into a model's weights: `--lora`.

A merged matrix is weight + scale * B A, computed in float32 in one order. Of a type of floats it stays in that type; of
another it becomes float16, so that what the adapter learned is not rounded away: `--quantize` is for who wants that.

Source: llama.cpp's GGUF adapters (`adapter.type`, `adapter.lora.alpha`, `NAME.lora_a`, `NAME.lora_b`; of the embedding
both are turned round), and PEFT's folders (`adapter_config.json`, `adapter_model.safetensors`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from ..artifacts.dataclass import dataclass
from ..artifacts.errors import InputError, UsageError, printable
from .derived_source import DerivedSource
from .floats import Floats, read_float_rows
from .ggml_types import GgmlType as Quant
from .gguf_reader import read_gguf
from .model_source import ModelSource, TensorInfo
from .quantizers.quantize import quantize_rows

ELEMENTS_AT_ONCE = 1 << 22  # that are floats at a time: 16 MiB, and as much again for products
EMBEDDING = "token_embd.weight"
ALORA = "adapter.alora.invocation_tokens"
_FLOATS = (Quant.F32, Quant.F16, Quant.BF16)


@dataclass(frozen=True, slots=True)
class LoraFile:
    """An adapter that the user gave: a GGUF file or PEFT's folder, and by what it is multiplied."""

    path: Path
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class LowRank:
    """What is added to a matrix: `left` @ `right`, float32[rows, rank] and float32[rank, columns], times `factor`.

    To experts' matrices, stacked: `right` is float32[experts, rank, columns], and `left` has the rows of all in turn.
    """

    left: Floats
    right: Floats
    factor: float


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter.

    Attributes:
        files: that it was read from, in order.
        matrices: by GGUF's name of the tensor that each is added to.
    """

    files: tuple[Path, ...]
    matrices: Mapping[str, LowRank]


def parse_lora(text: str, option: str = "--lora") -> LoraFile:
    """Return what FILE[:SCALE] says, the value of `option`; a colon that no number follows is the name's.

    Raises:
        UsageError: the scale is not finite.
    """
    path, colon, number = text.rpartition(":")
    try:
        scale = float(number) if colon and path else None
    except ValueError:
        scale = None
    if scale is None:
        return LoraFile(Path(text))
    if not math.isfinite(scale):
        raise UsageError(f"{option}: expected a finite scale, found {printable(number)}")
    return LoraFile(Path(path), scale)


def read_gguf_adapter(path: Path, base: ModelSource, scale: float) -> Adapter:
    """Read an adapter of llama.cpp's.

    Raises:
        InputError: it is none, or of another model.
    """
    file = read_gguf(path)
    for key, expected in (
        ("general.type", "adapter"),
        ("adapter.type", "lora"),
        ("general.architecture", base.get_str("general.architecture")),
    ):
        found = file.get_str(key, "")
        if found != expected:
            raise file.error(key, f"expected {expected}, found {printable(found) or 'nothing'}")
    if ALORA in file.metadata:
        raise file.error(ALORA, "expected an adapter of all tokens, found one that begins with some: not supported")
    alpha = file.get_float("adapter.lora.alpha", 0.0)
    pairs: dict[str, dict[str, Floats]] = {}
    for name, info in file.tensors.items():
        target, _, side = name.rpartition(".")
        if side not in {"lora_a", "lora_b"} or len(info.shape) not in (2, 3):
            problem = f"expected a matrix NAME.lora_a or NAME.lora_b, found shape {list(info.shape)}"
            raise file.error(name, problem)
        pairs.setdefault(target, {})[side] = read_float_rows(file, name, 0, info.rows).reshape(info.shape)
    matrices = {}
    for name, pair in pairs.items():
        if len(pair) != 2:
            raise file.error(name, f"expected lora_a and lora_b, found {next(iter(pair))} alone")
        a, b = pair["lora_a"], pair["lora_b"]
        rank = b.shape[-1]
        if a.shape[:-2] != b.shape[:-2]:
            shapes = f"shapes {list(a.shape)} and {list(b.shape)}"
            raise file.error(name, f"expected as many matrices of either side, found {shapes}")
        factor = scale * (alpha / rank if alpha else 1.0)
        left, right = (a, b.T) if name == EMBEDDING and b.ndim == 2 else (b.reshape(-1, rank), a)
        matrices[name] = low_rank(path, base, name, (left, right), factor)
    return Adapter((path,), MappingProxyType(matrices))


def low_rank(path: Path, base: ModelSource, name: str, pair: tuple[Floats, Floats], factor: float) -> LowRank:
    """Check what an adapter adds to a tensor.

    Args:
        path: the adapter, for messages.
        name: of the tensor, GGUF's.
        pair: left and right, as `LowRank` has them; of experts, rows of all of them.
        factor: see `LowRank`.

    Raises:
        InputError: the model has no such matrix, or one of another shape, or a number is not finite.
    """
    left, right = pair
    if name not in base.tensors:
        raise InputError(path, name, "expected a tensor of the model, found one that it does not have")
    shape = base.tensors[name].shape
    matrices = right.shape[:-2]  # as many as there are experts
    found = (*matrices, left.shape[0] // math.prod(matrices), right.shape[-1])
    if shape != found or left.shape[1] != right.shape[-2]:
        ranks = f"ranks {left.shape[1]} and {right.shape[-2]}"
        raise InputError(path, name, f"expected shape {list(shape)}, as the model has, found {list(found)}, {ranks}")
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        raise InputError(path, name, "expected finite numbers, found others")
    return LowRank(np.ascontiguousarray(left), np.ascontiguousarray(right), factor)


class MergedSource(DerivedSource):
    """A model with adapters merged into its weights, in their order."""

    __slots__ = ("_adapters",)

    def __init__(self, base: ModelSource, adapters: Sequence[Adapter]) -> None:
        self._adapters = tuple(adapters)
        touched = {name for adapter in adapters for name in adapter.matrices}
        tensors = {name: _merged(info) if name in touched else info for name, info in base.tensors.items()}
        super().__init__(base, MappingProxyType(tensors))

    def read_rows(self, name: str, first: int, count: int) -> npt.NDArray[np.uint8]:
        """See `ModelSource`."""
        info = self.tensor(name)
        added = [adapter.matrices[name] for adapter in self._adapters if name in adapter.matrices]
        if not added:
            return self.base.read_rows(name, first, count)
        step, own = max(1, ELEMENTS_AT_ONCE // info.shape[-1]), self._own_scales(name)
        parts = []
        for start in range(first, first + count, step):
            rows = slice(start, min(start + step, first + count))
            values = read_float_rows(self.base, name, start, rows.stop - start).copy()
            for one in added:
                _add_rows(values, start, one, own)
            if info.ggml_type is Quant.F16 and np.abs(values).max() > np.finfo(np.float16).max:
                raise self.error(name, "expected merged weights that float16 holds, found larger ones")
            parts.append(quantize_rows(values, info.ggml_type))
        return np.concatenate(parts)

    def _own_scales(self, name: str) -> list[float]:
        """Return what products with a matrix are multiplied by, which is not to hold for what is added to it; one
        number, or one of each expert's."""
        scale = f"{name.removesuffix('.weight')}.scale"
        if scale not in self.base.tensors:
            return [1.0]
        own: list[float] = read_float_rows(self.base, scale, 0, 1).reshape(-1).tolist()
        if not all(own):
            raise self.error(scale, "expected a scale other than 0 of a matrix that adapters are merged into, found 0")
        return own


def _merged(info: TensorInfo) -> TensorInfo:
    return TensorInfo(info.name, info.shape, info.ggml_type if info.ggml_type in _FLOATS else Quant.F16)


def _add_rows(values: Floats, first: int, low: LowRank, own: Sequence[float]) -> None:
    """Add to rows of a matrix, or of experts' matrices, those from `first` on."""
    stack = low.right.reshape(-1, *low.right.shape[-2:])
    size, row, last = len(low.left) // len(stack), first, first + len(values)
    while row < last:
        expert = row // size
        end = min((expert + 1) * size, last)
        factor = np.float32(low.factor / own[expert if len(own) > 1 else 0])
        _add(values[row - first : end - first], low.left[row:end] * factor, stack[expert])
        row = end


def _add(values: Floats, left: Floats, right: Floats) -> None:
    """Add left @ right: a product after the other, since libraries of linear algebra sum as the machine likes."""
    product = np.empty_like(values)
    for k in range(left.shape[1]):
        np.multiply(left[:, k : k + 1], right[k], out=product)
        values += product
