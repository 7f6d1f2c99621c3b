"""The head of a model that embeds or ranks, computed by the CPU in float64: the same bits beside any device."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from ...artifacts.dataclass import dataclass
from ...artifacts.head import Head
from ...artifacts.layout import Layout
from .batch import Float32

Float64 = npt.NDArray[np.float64]


def _gelu(x: Float64) -> Float64:
    result: Float64 = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return result


_ACTIVATIONS: Mapping[str, Callable[[Float64], Float64]] = {"none": lambda x: x, "tanh": np.tanh, "gelu": _gelu}


@dataclass(frozen=True, slots=True)
class _Layer:
    weight: Float64
    bias: Float64 | None
    activation: Callable[[Float64], Float64]
    norm: Float64 | None


class EmbeddingHead:
    """A head with its weights. Immutable; of any thread."""

    def __init__(self, head: Head, layout: Layout, weights: mmap.mmap) -> None:
        """Copy the head's weights out of a bundle's weights.bin, mapped."""
        self.pooling = head.pooling
        self.ranks = head.scores != "none"
        self._softmax = head.scores == "softmax"
        self._epsilon = head.epsilon
        tensors = {tensor.name: tensor for tensor in layout.tensors}

        def read(name: str) -> Float64 | None:
            if not name:
                return None
            tensor = tensors[name]
            count = int(np.prod(tensor.shape))
            return np.frombuffer(weights, np.float32, count, tensor.offset).reshape(tensor.shape).astype(np.float64)

        self._layers = []
        for layer in head.layers:
            weight = read(layer.weight)
            assert weight is not None  # the layout was checked
            self._layers.append(_Layer(weight, read(layer.bias), _ACTIVATIONS[layer.activation], read(layer.norm)))

    def apply(self, pooled: Float64) -> Float64:
        """Return what the layers make of a text's pooled hidden states: a vector, or scores."""
        x = pooled
        for layer in self._layers:
            x = (layer.weight * x).sum(axis=1)  # no BLAS: its bits depend on the machine's cores
            if layer.bias is not None:
                x = x + layer.bias
            x = layer.activation(x)
            if layer.norm is not None:
                centred = x - x.mean()
                x = centred / np.sqrt(np.mean(centred * centred) + self._epsilon) * layer.norm
        if self._softmax:
            shares = np.exp(x - x.max())
            x = shares / shares.sum()
        return x


def unit(vector: Float64) -> Float32:
    """Return a vector's direction: float32 of length 1; not finite where it is not."""
    with np.errstate(invalid="ignore"):
        length = np.sqrt(np.sum(vector * vector))
    return (vector / (length or 1.0)).astype(np.float32)
