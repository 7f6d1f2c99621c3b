"""The plan: which kernels run, on what, in which order, and how the weights lie.

Everything a kernel is specialised to is decided here; templates only write it down.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..artifacts.layout import BufferEntry, KvLayout, LaunchEntry
from .graph import LOGITS, Graph, Node, Value
from .model_config import ModelConfig
from .passes import FLOAT_TYPES, Q8_BLOCK, split_weights
from .target import Target

Q8_BLOCK_BYTES = 52  # sizeof(struct q8_block) in kernels/host/common.h
Parameter = int | float | bool | str


@dataclass(frozen=True, slots=True)
class KernelSpec:
    """One kernel: a template and the values it is specialised to."""

    template: str
    parameters: tuple[tuple[str, Parameter], ...]

    @property
    def digest(self) -> str:
        """16 hex digits over template and parameters."""
        text = json.dumps([self.template, self.parameters], separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def symbol(self) -> str:
        """A C identifier, readable and unique: `matmul_q4_1_960x576_ab12cd34`."""
        values = dict(self.parameters)
        weight_type = f"_{values['weight_type']}" if "weight_type" in values else ""
        size = f"_{values['rows']}x{values['columns']}" if "rows" in values else ""
        return f"{self.template}{weight_type.lower()}{size}_{self.digest[:8]}"


@dataclass(frozen=True, slots=True)
class PackedTensor:
    """A tensor of weights.bin and what it is made of.

    Attributes:
        name: the roles it holds, joined by "+".
        packing: `rows16_<type>`, `rows16_pairs_<type>` (gate and up in turn), `f32`, or `rope_table`.
        sources: weights by role, in the order of the rows.
        shape: (rows, columns) or (columns,), of all sources together, unpadded.
    """

    name: str
    packing: str
    sources: tuple[str, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What the build, the packing and the runtime need; derived from graph and target alone."""

    kernels: tuple[KernelSpec, ...]
    launches: tuple[LaunchEntry, ...]
    buffers: tuple[BufferEntry, ...]
    tensors: tuple[PackedTensor, ...]
    kv: KvLayout


class _Planner:
    """Lowers nodes one by one; local to `make_plan`."""

    def __init__(self, graph: Graph, config: ModelConfig, target: Target) -> None:
        self.graph, self.config, self.target = graph, config, target
        self.kernels: dict[str, KernelSpec] = {}
        self.launches: list[LaunchEntry] = []
        self.tensors: dict[str, PackedTensor] = {}
        self.buffers, self.buffer_of = assign_buffers(graph, target)

    def launch(self, template: str, arguments: tuple[str, ...], **parameters: Parameter) -> None:
        spec = KernelSpec(template, tuple(sorted(parameters.items())))
        self.kernels[spec.symbol] = spec
        self.launches.append(LaunchEntry(spec.symbol, arguments))

    def value(self, name: str) -> str:
        return f"buffer:{self.buffer_of[name]}"

    def tensor(self, sources: tuple[str, ...], packing: str) -> str:
        shapes = [self.graph.weights[name].shape for name in sources]
        shape = (sum(shape[0] for shape in shapes), *shapes[0][1:])
        name = "+".join((sources[0], *(source.rsplit(".", 1)[-1] for source in sources[1:])))
        self.tensors[name] = PackedTensor(name, packing, sources, shape)
        return f"tensor:{name}"

    def matrix(self, sources: tuple[str, ...], pairs: bool = False) -> str:
        ggml_type = self.graph.weights[sources[0]].ggml_type.lower()
        return self.tensor(sources, f"rows16_pairs_{ggml_type}" if pairs else f"rows16_{ggml_type}")

    def weight_parameters(self, name: str) -> dict[str, Parameter]:
        weight = self.graph.weights[name]
        is_float = weight.ggml_type in FLOAT_TYPES
        columns = weight.shape[1]
        return {
            "columns": columns,
            "weight_type": weight.ggml_type,
            "weight_header": "weights_float.h" if is_float else "weights_quantized.h",
            "activation_bytes": 4 * columns if is_float else columns // Q8_BLOCK * Q8_BLOCK_BYTES,
        }

    def embedding(self, node: Node) -> None:
        parameters = self.weight_parameters(node.weights[0])
        del parameters["activation_bytes"]
        self.launch("embedding", (self.matrix(node.weights), self.value(node.output)), **parameters)

    def norm(self, node: Node) -> None:
        out = self.graph.values[node.output]
        self.launch(
            "norm",
            (self.value(node.inputs[0]), self.tensor(node.weights, "f32"), self.value(node.output)),
            columns=out.columns,
            epsilon=_float_literal(node.attributes["epsilon"]),
            out_q8=out.dtype == "q8",
            at_logits_rows=out.rows == LOGITS,
        )

    def linear(self, node: Node) -> None:
        matrices, biases = split_weights(self.graph, node)
        out = self.graph.values[node.output]
        bias = self.tensor(biases, "f32") if biases else "none"
        self.launch(
            "matmul",
            (self.matrix(matrices), self.value(node.inputs[0]), self.value(node.output), bias),
            rows=sum(self.graph.weights[name].shape[0] for name in matrices),
            out_stride=out.columns,
            out_offset=node.attributes["out_offset"],
            has_bias=bool(biases),
            accumulate=len(node.inputs) == 2,
            at_logits_rows=out.rows == LOGITS,
            **self.weight_parameters(matrices[0]),
        )

    def gate_up(self, node: Node) -> None:
        out = self.graph.values[node.output]
        self.launch(
            "gate_up",
            (self.matrix(node.weights, pairs=True), self.value(node.inputs[0]), self.value(node.output)),
            rows=out.columns,
            out_q8=out.dtype == "q8",
            **self.weight_parameters(node.weights[0]),
        )

    def quantize(self, node: Node) -> None:
        columns = self.graph.values[node.output].columns
        self.launch("quantize", (self.value(node.inputs[0]), self.value(node.output)), columns=columns)

    def swiglu(self, node: Node) -> None:
        columns = self.graph.values[node.output].columns
        self.launch("swiglu", (self.value(node.inputs[0]), self.value(node.output)), columns=columns)

    def heads(self) -> dict[str, Parameter]:
        config = self.config
        return {
            "num_heads": config.num_heads,
            "num_kv_heads": config.num_kv_heads,
            "head_dim": config.head_dim,
        }

    def rope_kv(self, node: Node) -> None:
        layer = node.attributes["layer"]
        norms = tuple(self.tensor((name,), "f32") for name in node.weights[1:])
        table = self.tensor(node.weights[:1], "rope_table")
        self.launch(
            "rope_kv",
            (self.value(node.inputs[0]), table, f"kv:{layer}:key", f"kv:{layer}:value", *norms),
            rope_dim=self.config.rope_dim,
            interleaved=self.config.rope_style == "interleaved",
            qk_norm=bool(norms),
            epsilon=_float_literal(node.attributes["epsilon"]),
            **self.heads(),
        )

    def attention(self, node: Node) -> None:
        layer = node.attributes["layer"]
        self.launch(
            "attention",
            (self.value(node.inputs[0]), f"kv:{layer}:key", f"kv:{layer}:value", self.value(node.output)),
            scale=_float_literal(self.config.head_dim**-0.5),
            out_q8=self.graph.values[node.output].dtype == "q8",
            **self.heads(),
        )

    def sample(self, node: Node) -> None:
        vocab_size = self.graph.values[node.output].columns
        self.launch("sample", (self.value(node.inputs[0]), self.value(node.output)), vocab_size=vocab_size)


def _float_literal(value: float) -> str:
    """A C float literal that reads back to the same float32."""
    return f"{float(value):.9e}f"


def assign_buffers(graph: Graph, target: Target) -> tuple[tuple[BufferEntry, ...], Mapping[str, str]]:
    """Give each value a buffer; one whose last reader has run is taken again by a value of the same shape."""
    last_use: dict[str, int] = {}
    for index, node in enumerate(graph.nodes):
        for name in (*node.inputs, node.output):
            last_use[name] = index
    buffers: dict[str, BufferEntry] = {}
    free: dict[tuple[str, int, str], list[str]] = {}
    buffer_of: dict[str, str] = {}
    for index, node in enumerate(graph.nodes):
        if node.op == "rope_kv":  # works in place
            buffer_of[node.output] = buffer_of[node.inputs[0]]
            last_use[node.inputs[0]] = -1
        elif node.output not in buffer_of:
            value = graph.values[node.output]
            key = (value.rows, value.columns, value.dtype)
            name = free[key].pop() if free.get(key) else f"buffer{len(buffers)}"
            buffers.setdefault(name, _buffer(name, value, target))
            buffer_of[node.output] = name
        for name in {*node.inputs, node.output}:
            if last_use[name] == index and graph.values[name].dtype != "int32":
                value = graph.values[name]
                free.setdefault((value.rows, value.columns, value.dtype), []).append(buffer_of[name])
    return tuple(buffers.values()), buffer_of


def _buffer(name: str, value: Value, target: Target) -> BufferEntry:
    if value.rows == LOGITS:
        elements = value.columns * target.max_sequences
        if value.dtype == "q8":
            return BufferEntry(name, "uint8", 0, elements // Q8_BLOCK * Q8_BLOCK_BYTES)
        return BufferEntry(name, value.dtype, 0, elements)
    if value.dtype == "q8":
        return BufferEntry(name, "uint8", value.columns // Q8_BLOCK * Q8_BLOCK_BYTES, 0)
    return BufferEntry(name, value.dtype, value.columns, 0)


def make_plan(graph: Graph, config: ModelConfig, target: Target) -> Plan:
    """Lower a graph that has been through all passes.

    Args:
        graph: verified.
        config: the model's hyperparameters.
        target: a row of the target table.
    """
    planner = _Planner(graph, config, target)
    lower: dict[str, Callable[[Node], None]] = {
        "embedding": planner.embedding,
        "norm": planner.norm,
        "linear": planner.linear,
        "gate_up": planner.gate_up,
        "quantize": planner.quantize,
        "swiglu": planner.swiglu,
        "rope_kv": planner.rope_kv,
        "attention": planner.attention,
        "sample": planner.sample,
    }
    for node in graph.nodes:
        lower[node.op](node)
    kv = KvLayout(config.num_layers, config.num_kv_heads, config.head_dim, target.kv_block_size, 2)
    return Plan(
        tuple(planner.kernels[symbol] for symbol in sorted(planner.kernels)),
        tuple(planner.launches),
        planner.buffers,
        tuple(planner.tensors.values()),
        kv,
    )
