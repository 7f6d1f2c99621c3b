"""The graph: ordered nodes over named, shaped values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from ..artifacts.dataclass import dataclass

TOKENS = "T"  # symbolic extent: tokens of a step
LOGITS = "R"  # symbolic extent: rows of which logits are asked
Q8 = "q8"  # a dtype: int8 blocks of 32
Q8_SUPER = "q8_super"  # a dtype: int8 superblocks of 256
TAPPED = "tapped"
"""The value that a head which drafts tokens reads, where a graph has it: it is kept to the end of a step."""

Attribute = int | float | bool | str


class GraphError(Exception):
    """A defect of a pass: names the node at fault. Never caused by input."""


@dataclass(frozen=True, slots=True)
class Value:
    """An activation. `rows` is `TOKENS` or `LOGITS`; `dtype` float32, int32, `Q8` or `Q8_SUPER`."""

    name: str
    rows: str
    columns: int
    dtype: str = "float32"

    @property
    def is_int8(self) -> bool:
        """Whether elements are int8, with scales."""
        return self.dtype in (Q8, Q8_SUPER)


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
        op: name of a row of `OPERATIONS`, which says what it means and what a node of it has.
        inputs: names of values read.
        output: name of the value written; a `linear` with `out_offset` writes a slice of it.
        weights: names of weights read, in the operation's order.
        attributes: what else it is specialised to (plain data).
    """

    op: str
    inputs: tuple[str, ...]
    output: str
    weights: tuple[str, ...] = ()
    attributes: Mapping[str, Attribute] = field(default_factory=dict)

    def integer(self, name: str, default: int | None = None) -> int:
        """Return an attribute that counts something; `default` is what stands for an optional one that it has not."""
        return int(self.attributes[name] if default is None else self.attributes.get(name, default))

    def real(self, name: str, default: float | None = None) -> float:
        """Return an attribute that is a number; `default` as in `integer`."""
        return float(self.attributes[name] if default is None else self.attributes.get(name, default))

    def word(self, name: str, default: str | None = None) -> str:
        """Return an attribute that is a choice; `default` as in `integer`."""
        return str(self.attributes[name] if default is None else self.attributes.get(name, default))

    def parts(self) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
        """Return the matrices of a product, their biases and their scales, in order: the ends of roles tell them."""
        biases = tuple(name for name in self.weights if name.endswith("bias"))
        scales = tuple(name for name in self.weights if name.endswith("scale"))
        return tuple(name for name in self.weights if name not in (*biases, *scales)), biases, scales


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in an order of execution; every value and weight they name is declared."""

    nodes: tuple[Node, ...]
    values: Mapping[str, Value]
    weights: Mapping[str, Weight]

    @property
    def input_width(self) -> int:
        """Elements of a row given from outside that the nodes read; 0 where none reads any."""
        ends = (node.integer("column") + node.integer("count") for node in self.nodes if node.op == "input_rows")
        return max(ends, default=0)

    def consumers(self, value: str) -> tuple[Node, ...]:
        """Return the nodes that read `value`, in order."""
        return tuple(node for node in self.nodes if value in node.inputs)

    def text(self) -> str:
        """Return one line a node, for the bundle's graph.txt."""
        return "".join(f"{self._line(node)}\n" for node in self.nodes)

    def _line(self, node: Node) -> str:
        out = self.values[node.output]
        attributes = "".join(f" {key}={value}" for key, value in sorted(node.attributes.items()))
        weights = "".join(f" {self.weights[name].name}:{self.weights[name].ggml_type}" for name in node.weights)
        return (
            f"{out.name}[{out.rows}, {out.columns}]{out.dtype} = {node.op}({', '.join(node.inputs)})"
            f"{weights}{attributes}"
        )
