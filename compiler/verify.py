"""The rules that a graph keeps, checked after each pass."""

from __future__ import annotations

from .graph import Graph, GraphError, Node
from .operations import OPERATIONS


def verify(graph: Graph) -> Graph:
    """Check that each node reads only what was written before it, names what is declared, and is as its operation says.

    Raises:
        GraphError: it does not; names the node.
    """
    written: set[str] = set()
    for index, node in enumerate(graph.nodes):
        problem = _problem(graph, node, written)
        if problem:
            raise GraphError(f"node {index} ({node.op} -> {node.output}): {problem}")
        written.add(node.output)
    return graph


def _problem(graph: Graph, node: Node, written: set[str]) -> str:
    """Return what is wrong with a node before which the values `written` were; "" where nothing is."""
    for name in node.inputs:
        if name not in written:
            return f"reads {name} before it is written"
    for name in (*node.inputs, node.output):
        if name not in graph.values:
            return f"value {name} is not declared"
    for name in node.weights:
        if name not in graph.weights:
            return f"weight {name} is not declared"
    return _signature_problem(node) or OPERATIONS[node.op].problem(graph, node)


def _signature_problem(node: Node) -> str:
    operation = OPERATIONS.get(node.op)
    if operation is None:
        return f"expected an operation of {', '.join(OPERATIONS)}"
    for what, (least, most), names in (
        ("inputs", operation.inputs, node.inputs),
        ("weights", operation.weights, node.weights),
    ):
        if not least <= len(names) <= most:
            return f"expected {least} to {most} {what}, found {len(names)}"
    found = {name: type(value) for name, value in node.attributes.items()}
    optional = {name: kind for name, kind in operation.optional.items() if name in found}
    if found != {**operation.attributes, **optional}:
        expected, given = (
            ", ".join(f"{name}: {kind.__name__}" for name, kind in sorted(kinds.items())) or "none"
            for kinds in ({**operation.attributes, **optional}, found)
        )
        return f"expected attributes {expected}, found {given}"
    return ""
