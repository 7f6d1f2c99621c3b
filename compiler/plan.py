"""The plan: which kernels run, on what, in which order, and how the weights lie.

Everything a kernel is specialised to is decided here; templates only write it down.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from ..artifacts.errors import UsageError
from ..artifacts.layout import KV_GROUP, BufferEntry, FinalNorm, GridEntry, KvLayout, LaunchEntry
from .graph import LOGITS, Graph, Value
from .model_config import ModelConfig
from .passes import Q8_BLOCK
from .target import Target

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
        name: the roles it holds, joined by "+", and after "@" the packing.
        packing: `rows16_<type>` (host) or `lanes32_<type>` (GPU), either with `pairs_` before the type (gate and up
            in turn), `f32`, or `rope_table`.
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
    final_norm: FinalNorm


class Planner:
    """Collects what nodes are lowered to, one by one. A back end adds a method for each op, of the op's name."""

    def __init__(
        self, graph: Graph, config: ModelConfig, target: Target, q8_block_bytes: int, kv_dtype: str = "f16"
    ) -> None:
        """Args: a graph that has been through all passes; `q8_block_bytes` as the back end's struct has them;
        `kv_dtype` of the KV cache, one of `KV_DTYPES`.

        Raises:
            UsageError: the model's heads have no such KV cache.
        """
        self.graph, self.config, self.target = graph, config, target
        self.kv_dtype = kv_dtype
        if kv_dtype == "q8_0" and config.head_dim % KV_GROUP:
            found = f"found heads of {config.head_dim}"
            raise UsageError(f"--kv-type q8_0: expected heads of a multiple of {KV_GROUP} elements, {found}")
        self.q8_block_bytes = q8_block_bytes
        self.kernels: dict[str, KernelSpec] = {}
        self.launches: list[LaunchEntry] = []
        self.tensors: dict[str, PackedTensor] = {}
        self.buffers, self.buffer_of = assign_buffers(graph, target, q8_block_bytes)

    def launch(
        self, template: str, arguments: tuple[str, ...], grid: GridEntry | None = None, /, **parameters: Parameter
    ) -> None:
        """Append a launch of a kernel with these parameters."""
        spec = KernelSpec(template, tuple(sorted(parameters.items())))
        self.kernels[spec.symbol] = spec
        self.launches.append(LaunchEntry(spec.symbol, arguments, grid))

    def value(self, name: str) -> str:
        """The argument for a value of the graph."""
        return f"buffer:{self.buffer_of[name]}"

    def tensor(self, sources: tuple[str, ...], packing: str) -> str:
        """The argument for weights, stacked where there are several; they are packed once."""
        shapes = [self.graph.weights[name].shape for name in sources]
        shape = (sum(shape[0] for shape in shapes), *shapes[0][1:])
        roles = "+".join((sources[0], *(source.rsplit(".", 1)[-1] for source in sources[1:])))
        name = f"{roles}@{packing}"
        self.tensors[name] = PackedTensor(name, packing, sources, shape)
        return f"tensor:{name}"

    def finish(self) -> Plan:
        """Lower all nodes, in order."""
        for node in self.graph.nodes:
            getattr(self, node.op)(node)
        config = self.config
        kv = KvLayout(config.num_layers, config.num_kv_heads, config.head_dim, self.target.kv_block_size, self.kv_dtype)
        kernels = tuple(self.kernels[symbol] for symbol in sorted(self.kernels))
        tensors = tuple(self.tensors.values())
        return Plan(kernels, tuple(self.launches), self.buffers, tensors, kv, self._final_norm())

    def _final_norm(self) -> FinalNorm:
        """The norm before the output matrix. Values after it have R rows, so none of them takes the buffer it reads."""
        node = next(n for n in self.graph.nodes if n.op == "norm" and self.graph.values[n.output].rows == LOGITS)
        tensor = self.tensor(node.weights, "f32").removeprefix("tensor:")
        return FinalNorm(self.buffer_of[node.inputs[0]], tensor, float(node.attributes["epsilon"]))


def float_literal(value: float) -> str:
    """A C float literal that reads back to the same float32."""
    return f"{float(value):.9e}f"


def assign_buffers(
    graph: Graph, target: Target, q8_block_bytes: int
) -> tuple[tuple[BufferEntry, ...], Mapping[str, str]]:
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
            buffers.setdefault(name, _buffer(name, value, target, q8_block_bytes))
            buffer_of[node.output] = name
        for name in dict.fromkeys((*node.inputs, node.output)):  # in order: the plan must not depend on hashes
            if last_use[name] == index and graph.values[name].dtype != "int32":
                value = graph.values[name]
                free.setdefault((value.rows, value.columns, value.dtype), []).append(buffer_of[name])
    return tuple(buffers.values()), buffer_of


def _buffer(name: str, value: Value, target: Target, q8_block_bytes: int) -> BufferEntry:
    if value.rows == LOGITS:
        elements = value.columns * target.max_sequences
        if value.dtype == "q8":
            return BufferEntry(name, "uint8", 0, elements // Q8_BLOCK * q8_block_bytes)
        return BufferEntry(name, value.dtype, 0, elements)
    if value.dtype == "q8":
        return BufferEntry(name, "uint8", value.columns // Q8_BLOCK * q8_block_bytes, 0)
    return BufferEntry(name, value.dtype, value.columns, 0)
