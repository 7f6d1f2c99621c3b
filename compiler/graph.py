"""The graph: ordered nodes over named, shaped values, and how a model becomes one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .model_config import ModelConfig

TOKENS = "T"  # symbolic extent: tokens of a step
LOGITS = "R"  # symbolic extent: rows of which logits are asked


class GraphError(Exception):
    """A defect of a pass: names the node at fault. Never caused by input."""


@dataclass(frozen=True, slots=True)
class Value:
    """An activation. `rows` is `TOKENS` or `LOGITS`; `dtype` float32, int32, or q8 (int8 blocks of 32)."""

    name: str
    rows: str
    columns: int
    dtype: str = "float32"


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor of the model by its role, such as `layers.0.attention_q`; `shape` [rows, columns] or [columns]."""

    name: str
    shape: tuple[int, ...]
    ggml_type: str


@dataclass(frozen=True, slots=True)
class Node:
    """One operation.

    Attributes:
        op: embedding, norm, linear, gate_up, swiglu, rope_kv, attention, quantize, add, sample.
        inputs: names of values read.
        output: name of the value written; a `linear` with `out_offset` writes a slice of it.
        weights: names of weights read, in the op's order.
        attributes: what else the op needs to be specialised (plain data).
    """

    op: str
    inputs: tuple[str, ...]
    output: str
    weights: tuple[str, ...] = ()
    attributes: Mapping[str, int | float | bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in an order of execution; every value and weight they name is declared."""

    nodes: tuple[Node, ...]
    values: Mapping[str, Value]
    weights: Mapping[str, Weight]

    def consumers(self, value: str) -> tuple[Node, ...]:
        """Nodes that read `value`, in order."""
        return tuple(node for node in self.nodes if value in node.inputs)

    def text(self) -> str:
        """One line a node, for the bundle's graph.txt."""
        return "".join(f"{self._line(node)}\n" for node in self.nodes)

    def _line(self, node: Node) -> str:
        out = self.values[node.output]
        attributes = "".join(f" {key}={value}" for key, value in sorted(node.attributes.items()))
        weights = "".join(f" {self.weights[name].name}:{self.weights[name].ggml_type}" for name in node.weights)
        return (
            f"{out.name}[{out.rows}, {out.columns}]{out.dtype} = {node.op}({', '.join(node.inputs)})"
            f"{weights}{attributes}"
        )


def verify(graph: Graph) -> Graph:
    """Check that each node reads only what was written before it and names what is declared.

    Raises:
        GraphError: it does not; names the node.
    """
    written: set[str] = set()
    for index, node in enumerate(graph.nodes):
        where = f"node {index} ({node.op} -> {node.output})"
        for name in node.inputs:
            if name not in written:
                raise GraphError(f"{where}: reads {name} before it is written")
        for name in (*node.inputs, node.output):
            if name not in graph.values:
                raise GraphError(f"{where}: value {name} is not declared")
        for name in node.weights:
            if name not in graph.weights:
                raise GraphError(f"{where}: weight {name} is not declared")
        if node.op in {"linear", "gate_up"} and graph.weights[node.weights[0]].shape[-1] != (
            graph.values[node.inputs[0]].columns
        ):
            raise GraphError(f"{where}: weight and input differ in columns")
        written.add(node.output)
    return graph


class _Builder:
    """Collects nodes and values; the only mutable thing here, and local to `build_graph`."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.values: dict[str, Value] = {}

    def add(
        self,
        op: str,
        inputs: tuple[str, ...],
        output: Value,
        weights: tuple[str, ...] = (),
        **attributes: int | float | bool,
    ) -> str:
        self.values[output.name] = output
        self.nodes.append(Node(op, inputs, output.name, weights, attributes))
        return output.name


def build_graph(config: ModelConfig, weights: Mapping[str, Weight]) -> Graph:
    """The forward pass of a decoder-only transformer with RMS norms, rotary positions and SwiGLU.

    Args:
        config: the model.
        weights: all weights by role.
    """
    builder = _Builder()
    hidden = builder.add("embedding", (), Value("embedded", TOKENS, config.hidden_size), ("token_embedding",))
    for layer in range(config.num_layers):
        hidden = _add_layer(builder, config, weights, layer, hidden)
    normed = builder.add(
        "norm",
        (hidden,),
        Value("final_normed", LOGITS, config.hidden_size),
        ("output_norm",),
        epsilon=config.rms_norm_eps,
    )
    output = "token_embedding" if config.tie_word_embeddings else "output"
    logits = builder.add("linear", (normed,), Value("logits", LOGITS, config.vocab_size), (output,), out_offset=0)
    builder.add("sample", (logits,), Value("sampled", LOGITS, config.vocab_size, "int32"))
    return verify(Graph(tuple(builder.nodes), builder.values, weights))


def _add_layer(builder: _Builder, config: ModelConfig, weights: Mapping[str, Weight], layer: int, hidden: str) -> str:
    def role(name: str) -> str:
        return f"layers.{layer}.{name}"

    def value(name: str, columns: int) -> Value:
        return Value(role(name), TOKENS, columns)

    def projections(names: tuple[str, ...], source: str, output: Value) -> str:
        offset = 0
        for name in names:
            bias = (role(f"{name}_bias"),) if role(f"{name}_bias") in weights else ()
            builder.add("linear", (source,), output, (role(name), *bias), out_offset=offset)
            offset += weights[role(name)].shape[0]
        return output.name

    epsilon = config.rms_norm_eps
    query_size = config.num_heads * config.head_dim
    qkv_size = query_size + 2 * config.num_kv_heads * config.head_dim
    normed = builder.add(
        "norm",
        (hidden,),
        value("attention_normed", config.hidden_size),
        (role("attention_norm"),),
        epsilon=epsilon,
    )
    qkv = projections(("attention_q", "attention_k", "attention_v"), normed, value("qkv", qkv_size))
    norms = (role("attention_q_norm"), role("attention_k_norm")) if config.qk_norm else ()
    rotated = builder.add(
        "rope_kv",
        (qkv,),
        value("rotated_qkv", qkv_size),
        ("rope_table", *norms),
        layer=layer,
        epsilon=epsilon,
    )
    attended = builder.add(
        "attention", (rotated,), value("attended", query_size), layer=layer, head_dim=config.head_dim
    )
    projected = projections(("attention_output",), attended, value("attention_out", config.hidden_size))
    hidden = builder.add("add", (hidden, projected), value("attention_residual", config.hidden_size))
    normed = builder.add(
        "norm", (hidden,), value("ffn_normed", config.hidden_size), (role("ffn_norm"),), epsilon=epsilon
    )
    gate_up = projections(("ffn_gate", "ffn_up"), normed, value("gate_up", 2 * config.intermediate_size))
    activated = builder.add("swiglu", (gate_up,), value("activated", config.intermediate_size))
    down = projections(("ffn_down",), activated, value("ffn_out", config.hidden_size))
    return builder.add("add", (hidden, down), value("ffn_residual", config.hidden_size))
