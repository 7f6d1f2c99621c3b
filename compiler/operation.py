"""What an operation of the graph is: each is a module of `ops/`, and what passes and planners ask of it stands here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field

import numpy as np
import numpy.typing as npt

from ..artifacts.dataclass import dataclass
from ..artifacts.errors import UsageError
from .graph import Graph, Node
from .lower_hip import HipPlanner
from .lower_host import HostPlanner

Float64 = npt.NDArray[np.float64]


def _never(graph: Graph, node: Node) -> bool:
    return False


def _nothing_wrong(graph: Graph, node: Node) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation.

    Attributes:
        name: by which nodes name it.
        compute: what it means, the specification of both back ends: (node, inputs, weights) to the output, each
            float64[rows, columns]. The inputs are those of one sequence from its first token on.
        host: appends its launches on the host.
        hip: appends its launches on a GPU.
        attributes: a node's attributes, all of which it has, and their types.
        optional: attributes that a node has where they are not what is usual, and their types.
        inputs: least and most values that it reads.
        weights: least and most weights that it reads.
        problem: what is wrong with a node's shapes; "" where nothing is.
        takes_q8: its first input comes as int8 blocks or superblocks where its first weight is quantized.
        writes_q8: whether a node's output can be int8 blocks.
        writes_superblocks: whether it can be int8 superblocks, on the host.
        in_place: its output lies where its first input does, if it has one.
        mixes_tokens: it reads other tokens' rows, which is more than the KV cache has of them.
        writes_kv: it leaves keys and values of the layer that its attribute `layer` counts; it has those of `Heads`.
        has_state: it reads and leaves state of each sequence, as `Planner.state` has it.
        reads_tokens: what it reads are token ids: `compute` gets them as its input.
        reads_rows: it reads rows given from outside: `compute` gets them before its inputs, float64[rows, input_width
            of the graph], NaN where a token takes none.
    """

    name: str
    compute: Callable[[Node, Sequence[Float64], Sequence[Float64]], Float64]
    host: Callable[[HostPlanner, Node], None]
    hip: Callable[[HipPlanner, Node], None]
    attributes: Mapping[str, type] = field(default_factory=dict)
    optional: Mapping[str, type] = field(default_factory=dict, kw_only=True)
    inputs: tuple[int, int] = (1, 1)
    weights: tuple[int, int] = (0, 0)
    problem: Callable[[Graph, Node], str] = _nothing_wrong
    takes_q8: bool = False
    writes_q8: Callable[[Graph, Node], bool] = _never
    writes_superblocks: Callable[[Graph, Node], bool] = _never
    in_place: bool = False
    mixes_tokens: bool = False
    writes_kv: bool = False
    has_state: bool = False
    reads_tokens: bool = False
    reads_rows: bool = False


def no_kernel(planner: HipPlanner | HostPlanner, node: Node) -> None:
    """Refuse a node, for `Operation.host` and `Operation.hip` of what has no kernel.

    Raises:
        UsageError: always.
    """
    raise UsageError(f"{node.output}: {planner.target.backend} has no kernel for {node.op} like that")


def always(graph: Graph, node: Node) -> bool:
    """Say yes, for `Operation.writes_q8`."""
    return True


def columns_problem(graph: Graph, node: Node) -> str:
    """Return the problem of a matrix product, for `Operation.problem`."""
    fits = graph.weights[node.weights[0]].shape[-1] == graph.values[node.inputs[0]].columns
    return "" if fits else "weight and input differ in columns"
