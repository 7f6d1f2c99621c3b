"""How the numbers of adapters lie that are kept beside the matrices of one product.

The product's node has stacked matrices; each adapter of each of them is a segment. A is float16[ranks of all segments,
columns of what the product reads, filled up to a multiple of 16], B is float16 [ranks, columns] of each segment, one
behind the other, and 16 zeros. Both are times powers of two that keep them far from the ends of float16: `units`,
float32[segments], undo that, and have what else the product is multiplied by. `segments` is int32[segments, 6], the
fields of `Segment`.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from ...artifacts.dataclass import dataclass
from ..graph import LOGITS, Graph, Node
from ..operation import Float64
from ..plan import Parameter

SCALES: Final = "adapter_scales"
"""The weight that nodes name, [adapters]: no tensor of the bundle, as each step has it for each of its sequences."""
ATTRIBUTES: Final[dict[str, type]] = {"adapters": int}
"""Of both operations: the adapters that the bundle has."""
FILLED: Final = 16
"""Elements that kernels read at once: rows of A are a multiple, and so many zeros end B."""


@dataclass(frozen=True, slots=True)
class Segment:
    """An adapter of a matrix.

    Attributes:
        adapter: which one, of all that the bundle has.
        first_rank: row of A that it begins with.
        ranks: its rows.
        first_column: of the product's output that it adds to.
        columns: that it adds to.
        first_b: element of B that it begins with.
    """

    adapter: int
    first_rank: int
    ranks: int
    first_column: int
    columns: int
    first_b: int


def read_segments(table: Float64) -> list[Segment]:
    """Return the segments of a table's numbers."""
    return [Segment(*map(int, row)) for row in table]


def factors(table: Float64, units: Float64, scales: Float64) -> Float64:
    """Return what each rank is multiplied by: the scale of its adapter, and the unit of its segment."""
    segments = zip(read_segments(table), units, strict=True)
    return np.concatenate([np.full(one.ranks, scales[one.adapter] * unit) for one, unit in segments])


def parameters(graph: Graph, node: Node, ranks: int) -> dict[str, Parameter]:
    """Return what a kernel is told of the segments; the second weight is their table."""
    return {
        "adapters": node.integer("adapters"),
        "at_logits_rows": graph.values[node.output].rows == LOGITS,
        "num_segments": graph.weights[node.weights[1]].shape[0],
        "ranks": ranks,
    }


def adapted_rows(graph: Graph, node: Node) -> str:
    """Return the rows of a grid that is launched only where a sequence of the step has an adapter."""
    return "adapted_logits" if graph.values[node.output].rows == LOGITS else "adapted_tokens"
