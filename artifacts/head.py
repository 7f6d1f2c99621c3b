"""What follows the hidden states of a model that embeds or ranks: pooling, and dense layers of the vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from .checker import Checker
from .dataclass import dataclass

POOLINGS: Final = ("mean", "cls", "last")
ACTIVATIONS: Final = ("none", "tanh", "gelu")
SCORES: Final = ("none", "raw", "softmax")
MAX_LAYERS: Final = 4


@dataclass(frozen=True, slots=True)
class HeadLayer:
    """activation(weight @ x + bias), then a layer norm where there is one; names are those of tensors.

    Attributes:
        weight: float32[outputs, inputs].
        bias: float32[outputs], or "".
        activation: one of `ACTIVATIONS`; gelu by its tangent.
        norm: float32[outputs], the weights of a layer norm without bias, or "".
    """

    weight: str
    bias: str = ""
    activation: str = "none"
    norm: str = ""


@dataclass(frozen=True, slots=True)
class Head:
    """How hidden states of a text's tokens become a vector or scores.

    Attributes:
        pooling: one of `POOLINGS`: their mean, the first or the last.
        layers: of the vector, in order.
        scores: what comes out, one of `SCORES`: none, it is the embedding; raw, or what a softmax makes of it.
        epsilon: of norms of layers.
    """

    pooling: str
    layers: tuple[HeadLayer, ...] = ()
    scores: str = "none"
    epsilon: float = 0.0


def encode_head(head: Head) -> list[object]:
    """Return the plain data that `read_head` reads."""
    layers = [[layer.weight, layer.bias, layer.activation, layer.norm] for layer in head.layers]
    return [head.pooling, layers, head.scores, head.epsilon]


def read_head(check: Checker, value: object) -> Head:
    """Read untrusted data.

    Raises:
        BundleError: it is no head; names the field.
    """
    pooling, layers, scores, epsilon = check.array(value, "head", 4, 4)
    if not isinstance(epsilon, float) or not 0.0 <= epsilon < 1.0:  # spelled so that a NaN fails
        check.fail("head.epsilon", f"expected a number from 0 to 1, found {epsilon!r}")
    rows = check.array(layers, "head.layers", 0, MAX_LAYERS)
    return Head(
        _choice(check, pooling, "head.pooling", POOLINGS),
        tuple(_layer(check, row, f"head.layers[{index}]") for index, row in enumerate(rows)),
        _choice(check, scores, "head.scores", SCORES),
        epsilon,
    )


def _layer(check: Checker, value: object, at: str) -> HeadLayer:
    weight, bias, activation, norm = check.array(value, at, 4, 4)
    return HeadLayer(
        check.text(weight, f"{at}.weight"),
        check.text(bias, f"{at}.bias", empty=True),
        _choice(check, activation, f"{at}.activation", ACTIVATIONS),
        check.text(norm, f"{at}.norm", empty=True),
    )


def _choice(check: Checker, value: object, at: str, known: Sequence[str]) -> str:
    text = check.text(value, at)
    if text not in known:
        check.fail(at, f"expected one of {', '.join(known)}, found {text!r}")
    return text


def check_head(check: Checker, head: Head, shapes: Mapping[str, tuple[str, tuple[int, ...]]], hidden_size: int) -> None:
    """Check that each layer's tensors exist and take what the one before gives.

    Args:
        check: names the file.
        head: to be checked.
        shapes: packing and shape of each tensor.
        hidden_size: elements of the vector that the first layer takes.

    Raises:
        BundleError: they do not; names the field.
    """
    if head.scores != "none" and not head.layers:
        check.fail("head.layers", "expected layers that make scores, found none")
    size = hidden_size
    for index, layer in enumerate(head.layers):
        at = f"head.layers[{index}]"
        packing, shape = shapes.get(layer.weight, ("", ()))
        if packing != "f32" or len(shape) != 2 or shape[1] != size or not shape[0]:
            check.fail(f"{at}.weight", f"expected a tensor f32 of {size} columns, found {layer.weight!r}")
        size = shape[0]
        for name, tensor in (("bias", layer.bias), ("norm", layer.norm)):
            if tensor and shapes.get(tensor) != ("f32", (size,)):
                check.fail(f"{at}.{name}", f"expected a tensor f32 of {size} elements, found {tensor!r}")
