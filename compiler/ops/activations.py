"""Activations by the names that nodes and kernels have for them (kernels/*/activation.h)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from ..operation import Float64

_erf = np.vectorize(math.erf, otypes=[np.float64])


def sigmoid(x: Float64) -> Float64:
    """Return 1 / (1 + e^-x), by a sum that does not overflow."""
    result: Float64 = np.exp(-np.logaddexp(0, -x))
    return result


def _gelu(x: Float64) -> Float64:
    """Return x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2, which is about `_gelu_erf`.

    (1 + tanh(u)) / 2 is the sigmoid of 2 u, in which nothing cancels.
    """
    result: Float64 = x * sigmoid(math.sqrt(8 / math.pi) * (x + 0.044715 * x**3))
    return result


def _gelu_erf(x: Float64) -> Float64:
    """Return x times the share of the normal distribution below x."""
    result: Float64 = 0.5 * x * (1 + _erf(x / math.sqrt(2)))
    return result


ACTIVATIONS: Mapping[str, Callable[[Float64], Float64]] = MappingProxyType(
    {
        "gelu": _gelu,
        "gelu_erf": _gelu_erf,
        "gelu_quick": lambda x: x * sigmoid(1.702 * x),
        "relu": lambda x: np.maximum(x, 0),
        "relu2": lambda x: np.maximum(x, 0) ** 2,
        "sigmoid": sigmoid,
        "silu": lambda x: x * sigmoid(x),
        "softplus": lambda x: np.logaddexp(0, x),
        "tanh": np.tanh,
    }
)
"""What each means, element by element."""


def activation_problem(name: str) -> str:
    """Return what is wrong with an activation's name, for `Operation.problem`."""
    return "" if name in ACTIVATIONS else f"expected an activation of {', '.join(ACTIVATIONS)}, found {name}"
