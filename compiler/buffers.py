"""Gives values of the graph their buffers in the arena."""

from __future__ import annotations

from collections.abc import Mapping

from ..artifacts.layout import BufferEntry
from .graph import LOGITS, TAPPED, Graph, Value
from .operations import OPERATIONS
from .planner import Buffers, Q8Block
from .target import Target


def assign_buffers(graph: Graph, target: Target, blocks: Mapping[str, Q8Block]) -> Buffers:
    """Give each value a buffer; one whose last reader has run is taken again by a value of the same shape.

    Args:
        graph: that has been through all passes.
        target: whose limits on a step bound the buffers.
        blocks: of int8 activations, by dtype.
    """
    last_use: dict[str, int] = {}
    for index, node in enumerate(graph.nodes):
        for name in (*node.inputs, node.output):
            last_use[name] = index
    last_use.pop(TAPPED, None)  # nobody else gets that buffer within a step
    buffers: dict[str, BufferEntry] = {}
    free: dict[tuple[str, int, str], list[str]] = {}
    buffer_of: dict[str, str] = {}
    for index, node in enumerate(graph.nodes):
        if OPERATIONS[node.op].in_place and node.inputs:
            buffer_of[node.output] = buffer_of[node.inputs[0]]
            last_use[node.inputs[0]] = -1
        elif node.output not in buffer_of:
            value = graph.values[node.output]
            key = (value.rows, value.columns, value.dtype)
            name = free[key].pop() if free.get(key) else f"buffer{len(buffers)}"
            buffers.setdefault(name, _buffer(name, value, target, blocks))
            buffer_of[node.output] = name
        for name in dict.fromkeys((*node.inputs, node.output)):  # in order: the plan must not depend on hashes
            if last_use.get(name) == index and graph.values[name].dtype != "int32":
                value = graph.values[name]
                free.setdefault((value.rows, value.columns, value.dtype), []).append(buffer_of[name])
    return Buffers(tuple(buffers.values()), buffer_of)


def _buffer(name: str, value: Value, target: Target, blocks: Mapping[str, Q8Block]) -> BufferEntry:
    dtype, elements = value.dtype, value.columns
    if value.is_int8:
        block = blocks[dtype]
        dtype, elements = "uint8", elements // block.columns * block.n_bytes
    if value.rows == LOGITS:
        return BufferEntry(name, dtype, 0, elements * target.max_sequences)
    return BufferEntry(name, dtype, elements, 0)
