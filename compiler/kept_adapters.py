"""Low-rank adapters that stay beside the weights, for requests to choose: `--adapter`.

A pass puts two nodes behind each product that has some: `lora_down` and `lora_up`, whose weights are made here; behind
an embedding `lora_rows` and `lora_up`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..artifacts.dataclass import dataclass
from ..artifacts.errors import InputError, UsageError, printable
from ..artifacts.layout import ADAPTER_NAME, MAX_ADAPTERS
from .floats import Floats
from .graph import Graph, GraphError, Node, Value, Weight
from .lora import Adapter, LoraFile, LowRank, parse_lora
from .model_tensors import WeightTensor
from .ops.lora_segments import FILLED, SCALES, Segment

_DOWN = {"linear": "lora_down", "embedding": "lora_rows"}
"""The first node behind an operation's whose matrix may have adapters."""
_TOP = 15  # the largest number of A and of B lies below 2 to this, and not below half of that
_MAX_ELEMENTS = 1 << 31


@dataclass(frozen=True, slots=True)
class NamedAdapter:
    """An adapter that the user gave, and the name that requests have for it."""

    name: str
    file: LoraFile


def parse_adapter(text: str) -> NamedAdapter:
    """Return what NAME=FILE[:SCALE] says.

    Raises:
        UsageError: there is no such name or file, or the scale is not finite.
    """
    name, equals, rest = text.partition("=")
    if not equals or not rest or not ADAPTER_NAME.fullmatch(name):
        expected = "expected NAME=FILE[:SCALE], the name of letters, digits, '.', '_' and '-', and not 'latest'"
        raise UsageError(f"--adapter: {expected}, found {printable(text)}")
    return NamedAdapter(name, parse_lora(rest, "--adapter"))


def check_names(adapters: Sequence[NamedAdapter]) -> None:
    """Check that the names are different, and not too many.

    Raises:
        UsageError: they are not.
    """
    names = [one.name for one in adapters]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"--adapter: expected each name once, found {twice} twice")
    if len(names) > MAX_ADAPTERS:
        raise UsageError(f"--adapter: expected at most {MAX_ADAPTERS}, found {len(names)}")


@dataclass(frozen=True, slots=True)
class KeptAdapters:
    """Adapters of a model, in the order of their names.

    Attributes:
        names: by which requests ask for them.
        adapters: what each adds to which tensors.
        made: the weights of the nodes that `place` has added, by name: float16, float32 or int32.
    """

    names: tuple[str, ...] = ()
    adapters: tuple[Adapter, ...] = ()
    made: dict[str, npt.NDArray[Any]] = field(default_factory=dict)

    def place(self, graph: Graph, tensors: Mapping[str, WeightTensor]) -> Graph:
        """Return a graph whose products have the adapters of their matrices behind them.

        Args:
            graph: whose products and sums are fused, and whose gates are not.
            tensors: of the model, by role.

        Raises:
            InputError: an adapter is of a tensor that is read otherwise than by a product, or not at all.
        """
        self._check(graph, tensors)
        nodes, values = [], dict(graph.values)
        weights = {**graph.weights, SCALES: Weight(SCALES, (len(self.names),), "F32")}
        for node in graph.nodes:
            nodes.append(node)
            parts = list(self._parts(graph, node, tensors)) if node.op in _DOWN else []
            if parts:
                low = f"{node.output}.low{len(nodes)}"
                names = self._make(node, parts)
                ranks = sum(part.shape[0] for part in parts)
                values[low] = Value(low, graph.values[node.output].rows, ranks)
                weights |= {name: _weight(name, self.made[name]) for name in names}
                a, b, table, units = names
                attributes = {"adapters": len(self.names)}
                nodes.append(Node(_DOWN[node.op], node.inputs[:1], low, (a, table, units, SCALES), attributes))
                nodes.append(Node("lora_up", (low, node.output), node.output, (b, table, SCALES), attributes))
        return replace(graph, nodes=tuple(nodes), values=values, weights=weights)

    def _check(self, graph: Graph, tensors: Mapping[str, WeightTensor]) -> None:
        """Refuse what is an adapter of a tensor whose use is another than a product's."""
        multiplied, others = set[str](), set[str]()
        for node in graph.nodes:
            matrices = node.parts()[0] if node.op in _DOWN else ()
            for role in (role for role in node.weights if role in tensors):
                stored = role in matrices and tensors[role].form == "stored"
                (multiplied if stored else others).add(tensors[role].name)
        for adapter in self.adapters:
            if not adapter.matrices:
                raise InputError(adapter.files[-1], "tensors", "expected lora_a and lora_b of a matrix, found none")
            for name in adapter.matrices:
                if name not in multiplied - others:
                    what = "experts'" if name.endswith("_exps.weight") else "another"
                    problem = f"expected a matrix of products or an embedding, found {what}: merge it with --lora"
                    raise InputError(adapter.files[-1], name, problem)

    def _parts(self, graph: Graph, node: Node, tensors: Mapping[str, WeightTensor]) -> Iterator[_Part]:
        """Yield what adapters add to a product, matrix by matrix."""
        column = node.integer("out_offset", 0)
        for role in node.parts()[0]:
            rows, tensor = graph.weights[role].shape[0], tensors[role]
            for index, adapter in enumerate(self.adapters):
                found = adapter.matrices.get(tensor.name)
                if found is not None:
                    part = replace(found, left=found.left[tensor.row_numbers()])
                    if node.op == "embedding":  # whose output has what a product reads
                        part = replace(part, left=part.right.T, right=part.left.T)
                    yield _Part(index, part, column, adapter.files[-1], tensor.name)
            column += rows

    def _make(self, node: Node, parts: Sequence[_Part]) -> tuple[str, str, str, str]:
        """Make the weights of a product's adapters; return their names: A, B, segments, units."""
        base = f"{node.weights[0]}.rows" if node.op == "embedding" else node.weights[0]
        names = tuple(f"{base}.lora_{end}" for end in ("a", "b", "segments", "units"))
        if names[0] in self.made:
            raise GraphError(f"{node.output}: a second product of {node.weights[0]} has adapters")
        segments, units = [], []
        halves: tuple[list[npt.NDArray[np.float16]], list[npt.NDArray[np.float16]]] = ([], [])
        rank = first_b = 0
        for part in parts:
            (rows, columns), unit = part.shape, part.low.factor * node.real("scale", 1)
            for found, matrix in zip(halves, (part.low.right, part.low.left.T), strict=True):
                half, power = _halves(matrix)
                found.append(half)
                unit *= power
            if not abs(unit) < float(np.finfo(np.float32).max):
                raise InputError(part.path, part.name, f"expected numbers that float32 holds, found {unit:.3g}")
            segments.append(Segment(part.adapter, rank, rows, part.column, columns, first_b))
            units.append(unit)
            rank, first_b = rank + rows, first_b + rows * columns
        if max(first_b, rank * halves[0][0].shape[1]) >= _MAX_ELEMENTS:
            raise InputError(parts[-1].path, parts[-1].name, f"expected fewer than {_MAX_ELEMENTS} numbers, found more")
        stacked = np.concatenate(halves[0])
        if node.op == "embedding":
            filled = np.pad(stacked.T.reshape(-1), (0, FILLED))
        else:
            filled = np.pad(stacked, ((0, 0), (0, -stacked.shape[1] % FILLED)))
        flat = [half.reshape(-1) for half in halves[1]]
        table = np.array([astuple(one) for one in segments], np.int32)
        arrays = filled, np.concatenate([*flat, np.zeros(FILLED, np.float16)]), table, np.array(units, np.float32)
        self.made.update(zip(names, arrays, strict=True))
        a, b, segments_name, units_name = names
        return a, b, segments_name, units_name


@dataclass(frozen=True, slots=True)
class _Part:
    """What an adapter adds to a product's columns from `column` on; its file and tensor."""

    adapter: int
    low: LowRank
    column: int
    path: Path
    name: str

    @property
    def shape(self) -> tuple[int, int]:
        """Ranks and columns."""
        return self.low.right.shape[0], self.low.left.shape[0]


def _halves(matrix: Floats) -> tuple[npt.NDArray[np.float16], float]:
    """Return a matrix as float16 times a power of two, and the power: what is a float16 already stays exact."""
    largest = float(np.abs(matrix).max())
    shift = _TOP - math.frexp(largest)[1]
    return np.ldexp(matrix, shift).astype(np.float16), math.ldexp(1.0, -shift) if largest else 0.0


_TYPES = {np.dtype(np.float16): "F16", np.dtype(np.float32): "F32", np.dtype(np.int32): "I32"}


def _weight(name: str, numbers: npt.NDArray[Any]) -> Weight:
    return Weight(name, numbers.shape, _TYPES[numbers.dtype])
