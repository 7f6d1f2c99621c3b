"""The causal convolution of channels over their sequence: activation(sum_j w[c, j] * x[t + j - (K - 1), c] + bias[c]).

x is 0 before a sequence's first token. It is columns of the input, from `first` on, as many as the weights have rows;
where there is `times_first`, each times the input's column that stands as far behind that one. Where there is
`gate_first`, the result is times the columns from there on, last of all. Weights are [channels, K], those of several
tensors side by side; biases, [channels], follow them. Their roles end in "bias".

The state of a sequence is x of its last K - 1 tokens.
Source: llama.cpp 11434, `ggml_ssm_conv`, and `build_shortconv_block` of src/models/lfm2.cpp for the products.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from ...artifacts.arguments import Argument
from ...artifacts.layout import STATE_ALIGNMENT
from ..graph import Graph, Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation
from ..plan import Parameter
from ..planner import Planner
from .activations import ACTIVATIONS

_FIRSTS: Final = ("first", "times_first", "gate_first")
MOST_TAPS: Final = 8


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`."""
    matrices, biases, _ = node.parts()
    weight = np.concatenate(weights[: len(matrices)])
    rows, (channels, taps) = len(inputs[0]), weight.shape
    x = _columns(node, "first", inputs[0], channels)
    if "times_first" in node.attributes:
        x = x * _columns(node, "times_first", inputs[0], channels)
    padded = np.concatenate([np.zeros((taps - 1, channels)), x])
    result: Float64 = sum((padded[j : j + rows] * weight[:, j] for j in range(taps)), np.zeros((rows, channels)))
    if biases:
        result = result + np.concatenate(weights[len(matrices) :])
    if node.word("activation") != "none":
        result = ACTIVATIONS[node.word("activation")](result)
    return result * _columns(node, "gate_first", inputs[0], channels) if "gate_first" in node.attributes else result


def _columns(node: Node, name: str, source: Float64, count: int) -> Float64:
    first = node.integer(name, 0)
    return source[:, first : first + count]


def _arguments(planner: Planner, node: Node) -> tuple[tuple[Argument, ...], dict[str, Parameter]]:
    """Return the arguments of the launch, and the kernel's parameters but for the number of its channels."""
    matrices, biases, _ = node.parts()
    channels, taps = planner.graph.values[node.output].columns, planner.graph.weights[matrices[0]].shape[1]
    state_bytes = -(-4 * channels * (taps - 1) // STATE_ALIGNMENT) * STATE_ALIGNMENT
    values = planner.value(node.inputs[0]), planner.floats(matrices), planner.value(node.output)
    parameters: dict[str, Parameter] = {
        "taps": taps,
        "stride": planner.graph.values[node.inputs[0]].columns,
        "first": node.integer("first", 0),
        "activation": node.word("activation"),
        "has_bias": bool(biases),
        "state_bytes": state_bytes,
    }
    parameters |= {name: node.integer(name) for name in _FIRSTS[1:] if name in node.attributes}
    return (*values, planner.state(node.output, state_bytes), planner.floats(biases)), parameters


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    arguments, parameters = _arguments(planner, node)
    planner.launch("short_conv", arguments, channels=planner.graph.values[node.output].columns, **parameters)


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`."""
    arguments, parameters = _arguments(planner, node)
    planner.elementwise("short_conv", node, *arguments, **parameters)


def _problem(graph: Graph, node: Node) -> str:
    if node.word("activation") not in ("none", "silu"):
        return f"expected an activation of none, silu, found {node.word('activation')}"
    matrices, biases, _ = node.parts()
    shapes = [graph.weights[name].shape for name in matrices]
    if any(len(shape) != 2 or shape[1] != shapes[0][1] or not 2 <= shape[1] <= MOST_TAPS for shape in shapes):
        return f"expected weights of 2 to {MOST_TAPS} columns, as many each, found {[list(shape) for shape in shapes]}"
    channels = sum(shape[0] for shape in shapes)
    bias_shapes = [graph.weights[name].shape for name in biases]
    if biases and bias_shapes != [(shape[0],) for shape in shapes]:
        return f"expected biases as high as the weights, found {[list(shape) for shape in bias_shapes]}"
    columns, out = graph.values[node.inputs[0]].columns, graph.values[node.output].columns
    end = max(node.integer(name, 0) for name in _FIRSTS) + channels
    if end <= columns and out == channels:
        return ""
    return f"expected an input of {end} columns and an output of {channels}, found {columns} and {out}"


OPERATION = Operation(
    "short_conv",
    compute,
    host,
    hip,
    {"activation": str},
    optional=dict.fromkeys(_FIRSTS, int),
    weights=(1, 8),
    problem=_problem,
    has_state=True,
)
