"""Recurrent state over a sequence: each head h has a matrix S[h] of `state` rows, 0 before a sequence's first token.

A token, with key k, query q and value v of its own, makes of it S <- d * S, S <- S + k v^T, and gives S^T q:

    of kind   d[h, i]                                    k[h], q[h]              v[h]                   and adds
    mamba     exp(step[h] * a[h, i])                     b, c                    step[h] * x[h]         d[h] * x[h]
    mamba2    exp(step[h] * a[h])                        b[group], c[group]      step[h] * x[h]         d[h] * x[h]
    linear    exp(a[h])                                  b[group], c[group]      x[h]
    delta     exp(a[h] * softplus(alpha[h] + bias[h]))   k, q of its key head    beta' * (v - (d S)^T k)
    kda       exp(a[h] * softplus(decay[h, i] + bias[h, i]))      k[h], q[h]     beta' * (v - (d S)^T k)

step = softplus(dt + bias), the bias where there is one; beta' = sigmoid(beta); keys and queries of delta and kda are
first divided by sqrt(sum of their squares + `epsilon`), and queries by sqrt(`state`). a is as files have it, below 0.

Inputs, of which each is columns of a value from the attribute `<name>_first` on, 0 where that is not given:
    mamba     x [heads], dt [heads], b [state], c [state]; a head is a channel, of one column.
    mamba2    x [heads, columns], dt [heads], b [groups, state], c [groups, state]; heads of a group are neighbours.
    linear    x, b and c as mamba2.
    delta     qkv: q [key_heads, state], k [key_heads, state], v [heads, columns], behind a convolution and SiLU;
              gates [2 * heads]: of each `gate_heads` heads beta, then alpha (where it is not given: all heads').
    kda       qkv: q [heads, state], k [heads, state], v [heads, columns]; decay [heads, state]; beta [heads].
Weights: of mamba a [heads, state], d [heads] and where there is one dt's bias [heads]; of mamba2 the same, but
a [heads]; of linear a [heads]; of delta a [heads], bias [heads]; of kda a [heads], bias [heads * state].
A head of delta has the key head h / (heads / key_heads) of `mapping` "block", h % key_heads of "modulo".
The output is [heads, columns].

Sources: llama.cpp 11434, `ggml_ssm_scan` and `ggml_gated_delta_net` of ggml-cpu, src/models/mamba-base.cpp,
qwen3next.cpp, qwen35.cpp, kimi-linear.cpp and minimax-01.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, Self

import numpy as np

from ...artifacts.arguments import Argument
from ...artifacts.dataclass import dataclass
from ...artifacts.layout import STATE_ALIGNMENT, GridEntry
from ..graph import Graph, Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation
from ..plan import Parameter, float_literal
from ..planner import Planner
from .activations import sigmoid

KINDS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "mamba": ("x", "dt", "b", "c"),
        "mamba2": ("x", "dt", "b", "c"),
        "linear": ("x", "b", "c"),
        "delta": ("qkv", "gates"),
        "kda": ("qkv", "decay", "beta"),
    }
)
"""Names of a node's inputs, by its kind."""

_OF_KIND: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "mamba": frozenset(),
        "mamba2": frozenset({"groups"}),
        "linear": frozenset({"groups"}),
        "delta": frozenset({"key_heads", "mapping", "gate_heads", "epsilon"}),
        "kda": frozenset({"epsilon"}),
    }
)
_ATTRIBUTES: Final[Mapping[str, type]] = MappingProxyType({"kind": str, "heads": int, "state": int, "columns": int})
MAPPINGS: Final = ("block", "modulo")
MOST_STATE: Final = 256
_THREADS: Final = 64  # of a workgroup
_LANE_ROWS: Final = 16  # of a column's state, in a lane's registers
_NAMES: Final = tuple(dict.fromkeys(name for names in KINDS.values() for name in names))


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a node's attributes say, and how many columns that makes of each input; attributes as a node's."""

    kind: str
    heads: int
    state: int
    columns: int
    key_heads: int
    groups: int
    gate_heads: int

    @classmethod
    def of(cls, node: Node) -> Self:
        """Return those of a node."""
        heads, state, columns = (node.integer(name) for name in ("heads", "state", "columns"))
        key_heads, groups = node.integer("key_heads", heads), node.integer("groups", 1)
        gate_heads = node.integer("gate_heads", heads)
        return cls(node.word("kind"), heads, state, columns, key_heads, groups, gate_heads)

    @property
    def of_mamba(self) -> bool:
        """Whether what is written does not depend on the state."""
        return self.kind in ("mamba", "mamba2", "linear")

    def inputs(self) -> tuple[int, ...]:
        """Return the columns of each input that are read."""
        values, keys = self.heads * self.columns, self.groups * self.state
        if self.of_mamba:
            return (values, keys, keys) if self.kind == "linear" else (values, self.heads, keys, keys)
        qkv = 2 * self.key_heads * self.state + values
        return (qkv, 2 * self.heads) if self.kind == "delta" else (qkv, self.heads * self.state, self.heads)

    def weights(self) -> tuple[tuple[int, ...], ...]:
        """Return the shapes of all weights that there may be."""
        heads = (self.heads,)
        if self.kind == "linear":
            return (heads,)
        if self.of_mamba:
            return ((self.heads, self.state) if self.kind == "mamba" else heads), heads, heads
        return heads, heads if self.kind == "delta" else (self.heads * self.state,)


@dataclass(frozen=True, slots=True)
class Terms:
    """What tokens bring: decays [T, heads, state or 1], keys and queries [T, heads, state], values [T, heads, columns].

    Attributes:
        rates: of what is written, [T, heads, 1].
        added: to the output, [T, heads, columns].
    """

    decays: Float64
    keys: Float64
    queries: Float64
    values: Float64
    rates: Float64
    added: Float64


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`."""
    sizes, terms = Sizes.of(node), terms_of(node, inputs, weights)
    state, found = np.zeros((sizes.heads, sizes.state, sizes.columns)), np.empty_like(terms.values)
    for t in range(len(found)):
        state = terms.decays[t][:, :, None] * state
        kept = 0 if sizes.of_mamba else np.einsum("hij,hi->hj", state, terms.keys[t])
        state = state + np.einsum("hi,hj->hij", terms.keys[t], terms.rates[t] * (terms.values[t] - kept))
        found[t] = np.einsum("hij,hi->hj", state, terms.queries[t]) + terms.added[t]
    joined: Float64 = found.reshape(len(found), -1)
    return joined


def terms_of(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Terms:
    """Return what the tokens bring to the state of a node, of inputs and weights as `compute` has them."""
    sizes = Sizes.of(node)
    parts = [
        x[:, (first := node.integer(f"{name}_first", 0)) : first + count]
        for name, x, count in zip(KINDS[sizes.kind], inputs, sizes.inputs(), strict=True)
    ]
    return _mamba(sizes, parts, weights) if sizes.of_mamba else _delta(node, sizes, parts, weights)


def _mamba(sizes: Sizes, parts: Sequence[Float64], weights: Sequence[Float64]) -> Terms:
    x, b, c = parts[0], *parts[-2:]
    rows, a, bias = len(x), weights[0], weights[2] if len(weights) == 3 else 0
    fixed = sizes.kind == "linear"
    steps = np.ones((rows, sizes.heads, 1)) if fixed else np.logaddexp(0, parts[1] + bias)[:, :, None]
    keys, queries = (
        np.repeat(part.reshape(rows, sizes.groups, sizes.state), sizes.heads // sizes.groups, 1) for part in (b, c)
    )
    values = x.reshape(rows, sizes.heads, -1)
    decays = np.exp(steps * a.reshape(sizes.heads, -1))
    added = np.zeros_like(values) if fixed else weights[1][:, None] * values
    return Terms(decays, keys, queries, values, steps, added)


def _delta(node: Node, sizes: Sizes, parts: Sequence[Float64], weights: Sequence[Float64]) -> Terms:
    rows, heads, key_columns = len(parts[0]), sizes.heads, sizes.key_heads * sizes.state
    query, key, value = np.split(parts[0], [key_columns, 2 * key_columns], axis=1)
    own = np.arange(heads)
    own = own % sizes.key_heads if node.word("mapping", "block") == "modulo" else own // (heads // sizes.key_heads)
    queries, keys = (_unit(part.reshape(rows, -1, sizes.state), node.real("epsilon"))[:, own] for part in (query, key))
    if sizes.kind == "kda":
        decay, beta = parts[1:]
    else:
        beta, decay = (
            part.reshape(rows, heads) for part in np.split(parts[1].reshape(rows, -1, 2, sizes.gate_heads), 2, axis=2)
        )
    decays = np.exp(weights[0][:, None] * np.logaddexp(0, decay + weights[1]).reshape(rows, heads, -1))
    values = value.reshape(rows, heads, -1)
    rates = sigmoid(beta)[:, :, None]
    return Terms(decays, keys, queries / np.sqrt(sizes.state), values, rates, np.zeros_like(values))


def _unit(x: Float64, epsilon: float) -> Float64:
    scaled: Float64 = x / np.sqrt((x * x).sum(-1, keepdims=True) + epsilon)
    return scaled


def _launch(
    planner: Planner, node: Node, state_bytes: int, grid: GridEntry | None = None, /, **more: Parameter
) -> None:
    """Append the launch; `more` are the back end's own parameters."""
    sizes, values = Sizes.of(node), planner.graph.values
    arguments: list[Argument] = [planner.value(node.output), planner.state(node.output, state_bytes)]
    arguments += [planner.floats(node.weights[:1]), planner.floats(node.weights[1:])]
    arguments += [planner.value(name) for name in node.inputs]
    for name, value in zip(KINDS[sizes.kind], node.inputs, strict=True):
        more |= {f"{name}_stride": values[value].columns, f"{name}_first": node.integer(f"{name}_first", 0)}
    if sizes.of_mamba:
        more |= {"groups": sizes.groups, "has_bias": len(node.weights) == 3}
    else:
        more |= {"key_heads": sizes.key_heads, "epsilon": float_literal(node.real("epsilon"))}
    if sizes.kind == "delta":
        more |= {"gate_heads": sizes.gate_heads, "modulo": node.word("mapping", "block") == "modulo"}
    planner.launch(
        "scan",
        tuple(arguments),
        grid,
        kind=sizes.kind,
        heads=sizes.heads,
        state=sizes.state,
        columns=sizes.columns,
        state_bytes=state_bytes,
        **more,
    )


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    sizes = Sizes.of(node)
    heads, columns = (1, sizes.heads) if sizes.kind == "mamba" else (sizes.heads, sizes.columns)
    lanes = 16 if columns % 32 else 32  # LANES of kernels/host/scan_block.h
    _launch(planner, node, 4 * heads * -(-columns // lanes) * lanes * sizes.state)


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`."""
    sizes = Sizes.of(node)
    columns = sizes.heads * sizes.columns
    parts = next(parts for parts in (4, 8, 16) if sizes.state <= _LANE_ROWS * parts)
    state_bytes = -(-4 * columns * sizes.state // STATE_ALIGNMENT) * STATE_ALIGNMENT
    grid = GridEntry(_THREADS, -(-columns * parts // _THREADS), "sequences")
    _launch(planner, node, state_bytes, grid, parts=parts, threads=_THREADS, wave_size=planner.gpu.wave_size)


def _problem(graph: Graph, node: Node) -> str:
    if node.word("kind") not in KINDS:
        return f"expected a kind of {', '.join(KINDS)}, found {node.word('kind')}"
    sizes, names = Sizes.of(node), KINDS[node.word("kind")]
    if len(node.inputs) != len(names):
        return f"expected inputs {', '.join(names)}, found {len(node.inputs)}"
    allowed = {f"{name}_first" for name in names} | _OF_KIND[sizes.kind]
    unknown = [name for name in node.attributes if name not in allowed | set(_ATTRIBUTES)]
    if unknown:
        return f"expected no {', '.join(unknown)} of kind {sizes.kind}"
    if not sizes.of_mamba and "epsilon" not in node.attributes:
        return "expected an epsilon"
    if node.word("mapping", "block") not in MAPPINGS:
        return f"expected a mapping of {', '.join(MAPPINGS)}, found {node.word('mapping')}"
    return _sizes_problem(sizes) or _shapes_problem(graph, node, sizes)


def _sizes_problem(sizes: Sizes) -> str:
    for name in ("key_heads", "groups", "gate_heads"):
        if sizes.heads % getattr(sizes, name):
            return f"expected {name} that {sizes.heads} heads are a multiple of, found {getattr(sizes, name)}"
    if not 1 <= sizes.state <= MOST_STATE:
        return f"expected a state of 1 to {MOST_STATE} rows, found {sizes.state}"
    return f"expected a column a head, found {sizes.columns}" if sizes.kind == "mamba" and sizes.columns > 1 else ""


def _shapes_problem(graph: Graph, node: Node, sizes: Sizes) -> str:
    for name, value, count in zip(KINDS[sizes.kind], node.inputs, sizes.inputs(), strict=True):
        end, columns = node.integer(f"{name}_first", 0) + count, graph.values[value].columns
        if end > columns:
            return f"expected {name} of {end} columns, found {columns}"
    shapes = tuple(graph.weights[name].shape for name in node.weights)
    if shapes != sizes.weights()[: max(len(shapes), min(2, len(sizes.weights())))]:
        return f"expected weights of {sizes.weights()}, found {shapes}"
    out, expected = graph.values[node.output].columns, sizes.heads * sizes.columns
    return "" if out == expected else f"expected an output of {expected} columns, found {out}"


OPERATION = Operation(
    "scan",
    compute,
    host,
    hip,
    _ATTRIBUTES,
    optional={
        **dict.fromkeys(("key_heads", "groups", "gate_heads"), int),
        **{"epsilon": float, "mapping": str},
        **{f"{name}_first": int for name in _NAMES},
    },
    inputs=(2, 4),
    weights=(1, 3),
    problem=_problem,
    has_state=True,
)
