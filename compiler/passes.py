"""Passes over the graph. Each returns a new graph; together they fuse what would cost memory traffic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..artifacts.formats import BLOCK_COLUMNS, FORMATS, SUPERBLOCK_COLUMNS
from .graph import Q8, Q8_SUPER, Graph, Node, Value
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


def quantize_activations(graph: Graph, superblocks: bool = False) -> Graph:
    """Inputs of quantized weights become int8 blocks: made by their producer if it can, else by a node.

    Args:
        superblocks: inputs of matrices whose columns are whole superblocks become such.
    """
    nodes: list[Node] = []
    values = dict(graph.values)
    quantized: dict[tuple[str, str], str] = {}
    for node in graph.nodes:
        dtype = _wanted_dtype(graph, node, superblocks)
        if dtype:
            source = node.inputs[0]
            if (source, dtype) not in quantized:
                name = quantized[source, dtype] = f"{source}.{dtype}"
                values[name] = replace(values[source], name=name, dtype=dtype)
                nodes.append(Node("quantize", (source,), name))
            nodes.append(replace(node, inputs=(quantized[source, dtype], *node.inputs[1:])))
        else:
            nodes.append(node)
        for dtype in (Q8, Q8_SUPER):
            quantized.pop((node.output, dtype), None)  # a linear may have added to it
    return _fold_quantize(replace(graph, nodes=tuple(nodes), values=values))


def _wanted_dtype(graph: Graph, node: Node, superblocks: bool) -> str:
    """Return of which int8 blocks a node's first input should be; "" where it should not.

    What could be written as blocks by its producer, but not as superblocks, becomes these for weights that gain most by
    them alone: to quantize it apart takes about what others gain.
    """
    if not OPERATIONS[node.op].takes_q8:
        return ""
    weight, source = graph.weights[node.weights[0]], node.inputs[0]
    weights = FORMATS[weight.ggml_type]
    if weights.is_float:
        return ""
    if not superblocks or weight.shape[-1] % SUPERBLOCK_COLUMNS:
        return Q8
    apart = _can_write(graph, source, Q8) and not _can_write(graph, source, Q8_SUPER)
    return Q8 if apart and not weights.has_superblocks else Q8_SUPER


def quantize_by_superblocks(graph: Graph) -> Graph:
    """Quantize the activations of a graph that has been through all passes again, to superblocks where they fit."""
    of_floats = {name: name.removesuffix(f".{Q8}") for name, value in graph.values.items() if value.dtype == Q8}
    nodes = [
        replace(
            node,
            inputs=tuple(of_floats.get(name, name) for name in node.inputs),
            output=of_floats.get(node.output, node.output),
        )
        for node in graph.nodes
        if node.op != "quantize"
    ]
    floats = {of_floats[name]: replace(graph.values[name], name=of_floats[name], dtype="float32") for name in of_floats}
    plain = replace(graph, nodes=tuple(nodes), values={**graph.values, **floats})
    return verify(quantize_activations(_without_unused(plain), superblocks=True))


def _fold_quantize(graph: Graph) -> Graph:
    """Take out each quantize node whose source has no other reader, and whose producer can write int8 blocks."""
    folded: dict[str, str] = {}
    for node in graph.nodes:
        source, dtype = node.inputs[0] if node.op == "quantize" else None, graph.values[node.output].dtype
        if source is not None and len(graph.consumers(source)) == 1 and _can_write(graph, source, dtype):
            folded[source] = node.output
    nodes = tuple(
        replace(node, output=folded.get(node.output, node.output))
        for node in graph.nodes
        if not (node.op == "quantize" and node.inputs[0] in folded)
    )
    return _without_unused(replace(graph, nodes=nodes))


def _can_write(graph: Graph, value: str, dtype: str) -> bool:
    """Return whether the producer of a value can write it as int8 blocks or superblocks."""
    producer = next(node for node in graph.nodes if node.output == value)
    operation = OPERATIONS[producer.op]
    return (operation.writes_superblocks if dtype == Q8_SUPER else operation.writes_q8)(graph, producer)


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
