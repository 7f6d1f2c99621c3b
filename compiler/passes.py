"""Passes over the graph. Each returns a new graph; together they fuse what would cost memory traffic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..artifacts.formats import BLOCK_COLUMNS, FORMATS
from .graph import Graph, Node, Value
from .operations import OPERATIONS
from .verify import verify


def merge_linears(graph: Graph) -> Graph:
    """Merge neighbouring linears of one input, weight type and output into one with stacked weights.

    Q, K and V (or those of them that share a type), gate and up. Biases and scales merge along where all have one.
    """
    nodes: list[Node] = []
    for node in graph.nodes:
        previous = nodes[-1] if nodes else None
        if previous is not None and _mergeable(graph, previous, node):
            nodes[-1] = replace(previous, weights=previous.weights + node.weights, attributes={**previous.attributes})
        else:
            nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


def _mergeable(graph: Graph, first: Node, second: Node) -> bool:
    if not (first.op == second.op == "linear" and first.inputs == second.inputs):
        return False
    first_parts, second_parts = first.parts(), second.parts()
    types = {graph.weights[name].ggml_type for name in (first_parts[0][0], second_parts[0][0])}
    return (
        first.output == second.output
        and len(types) == 1
        and [bool(names) for names in first_parts] == [bool(names) for names in second_parts]
        and first.real("scale", 1) == second.real("scale", 1)
    )


def fuse_residuals(graph: Graph) -> Graph:
    """`add(h, linear(x))` becomes a linear that adds into h in place, where nobody reads h or the product after."""
    nodes: list[Node] = []
    renamed: dict[str, str] = {}
    for index, node in enumerate(graph.nodes):
        last = nodes[-1] if nodes else None
        into = _taken_in(graph, index, last) if last is not None else None
        if last is not None and into is not None:
            goal = renamed.get(into, into)
            nodes[-1] = replace(last, inputs=(*last.inputs, goal), output=goal)
            renamed[node.output] = goal
        else:
            nodes.append(replace(node, inputs=tuple(renamed.get(name, name) for name in node.inputs)))
    return _without_unused(replace(graph, nodes=tuple(nodes)))


def _taken_in(graph: Graph, index: int, last: Node) -> str | None:
    """Return what the linear before an addition can add to in its stead; None where a node is no such addition."""
    node = graph.nodes[index]
    if node.op != "add" or node.weights or last.op != "linear" or len(last.inputs) != 1:
        return None
    others = [name for name in node.inputs if name != last.output]
    columns = [graph.values[name].columns for name in node.inputs]
    later = {name for after in graph.nodes[index + 1 :] for name in after.inputs}
    whole = sum(writer.output == last.output for writer in graph.nodes) == 1
    if len(others) == 1 and columns[0] == columns[1] and whole and not later & set(node.inputs):
        return others[0]
    return None


def fuse_gate_up(graph: Graph) -> Graph:
    """Merged gate and up followed by the gate becomes one node, where rows come in whole int8 blocks."""
    nodes: list[Node] = []
    for node in graph.nodes:
        last = nodes[-1] if nodes else None
        fits = graph.values[node.output].columns % BLOCK_COLUMNS == 0
        plain = node.op == "gate" and len(node.attributes) == 1
        if plain and fits and last is not None and _is_gate_and_up(graph, last):
            nodes[-1] = Node("gate_up", last.inputs, node.output, last.weights, node.attributes)
        else:
            nodes.append(node)
    return _without_unused(replace(graph, nodes=tuple(nodes)))


def _is_gate_and_up(graph: Graph, node: Node) -> bool:
    """Return whether a node is a merged linear of two matrices as high as each other, its product as it is."""
    matrices, *_ = node.parts()
    if node.op != "linear" or len(node.inputs) != 1 or node.real("scale", 1) != 1:
        return False
    heights = [graph.weights[name].shape[0] for name in matrices]
    return len(heights) == 2 and heights[0] == heights[1]


def quantize_activations(graph: Graph) -> Graph:
    """Inputs of quantized weights become int8 blocks: made by their producer if it can, else by a node."""
    nodes: list[Node] = []
    values = dict(graph.values)
    quantized: dict[str, str] = {}
    for node in graph.nodes:
        if _wants_q8(graph, node):
            source = node.inputs[0]
            if source not in quantized:
                quantized[source] = f"{source}.q8"
                values[f"{source}.q8"] = replace(values[source], name=f"{source}.q8", dtype="q8")
                nodes.append(Node("quantize", (source,), f"{source}.q8"))
            nodes.append(replace(node, inputs=(quantized[source], *node.inputs[1:])))
        else:
            nodes.append(node)
        quantized.pop(node.output, None)  # a linear may have added to it
    return _fold_quantize(replace(graph, nodes=tuple(nodes), values=values))


def _wants_q8(graph: Graph, node: Node) -> bool:
    return OPERATIONS[node.op].takes_q8 and not FORMATS[graph.weights[node.weights[0]].ggml_type].is_float


def _fold_quantize(graph: Graph) -> Graph:
    """Take out each quantize node whose source has no other reader, and whose producer can write int8 blocks."""
    folded: dict[str, str] = {}
    for node in graph.nodes:
        source = node.inputs[0] if node.op == "quantize" else None
        if source is not None and len(graph.consumers(source)) == 1 and _can_write_q8(graph, source):
            folded[source] = node.output
    nodes = tuple(
        replace(node, output=folded.get(node.output, node.output))
        for node in graph.nodes
        if not (node.op == "quantize" and node.inputs[0] in folded)
    )
    return _without_unused(replace(graph, nodes=nodes))


def _can_write_q8(graph: Graph, value: str) -> bool:
    producer = next(node for node in graph.nodes if node.output == value)
    return OPERATIONS[producer.op].writes_q8(graph, producer)


def _without_unused(graph: Graph) -> Graph:
    used = {name for node in graph.nodes for name in (*node.inputs, node.output)}
    values: dict[str, Value] = {name: value for name, value in graph.values.items() if name in used}
    return replace(graph, values=values)


PASSES: tuple[Callable[[Graph], Graph], ...] = (
    merge_linears,
    fuse_residuals,
    fuse_gate_up,
    quantize_activations,
)


def run_passes(graph: Graph, adapt: Callable[[Graph], Graph] | None = None) -> Graph:
    """Run all passes in order, and verify the graph after each.

    Args:
        adapt: puts adapters behind products, once these are as they stay.
    """
    for step in PASSES:
        graph = verify(step(graph))
        if step is fuse_residuals and adapt is not None:
            graph = verify(adapt(graph))
    return graph
