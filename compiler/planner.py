"""What planners of both back ends share: they collect what nodes are lowered to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ..artifacts.arguments import Argument, BufferRef, KvRef, StateRef, TensorRef
from ..artifacts.dataclass import dataclass
from ..artifacts.layout import (
    STATE_ALIGNMENT,
    BufferEntry,
    FinalNorm,
    GridEntry,
    KvLayout,
    LaunchEntry,
    Sampler,
    StateEntry,
    Tap,
)
from .graph import LOGITS, Q8_SUPER, TAPPED, Graph, Node
from .plan import KernelSpec, PackedTensor, Parameter, Plan
from .target import Target


@dataclass(frozen=True, slots=True)
class Buffers:
    """The arena's buffers, and by value the name of the one that it lies in."""

    entries: tuple[BufferEntry, ...]
    of: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Q8Block:
    """Int8 activations with a scale, as a back end's struct has them: of how many columns, in how many bytes."""

    columns: int
    n_bytes: int


class Planner:
    """Launches, kernels and tensors of a plan, as operations append them.

    Attributes:
        packing: of the back end's matrices.
    """

    packing: ClassVar[str]

    def __init__(self, graph: Graph, target: Target, buffers: Buffers, kv: KvLayout, max_seq_len: int) -> None:
        """Lower a graph that has been through all passes; `max_seq_len` bounds the context."""
        self.graph, self.target, self.kv, self.max_seq_len = graph, target, kv, max_seq_len
        self.kernels: dict[str, KernelSpec] = {}
        self.launches: list[LaunchEntry] = []
        self.tensors: dict[str, PackedTensor] = {}
        self.states: list[StateEntry] = []
        self.buffers, self._buffer_of = buffers.entries, buffers.of
        layers = (node.integer("layer") for node in graph.nodes if node.attributes.get("num_kv_heads"))
        self._caches = {layer: index for index, layer in enumerate(dict.fromkeys(layers))}

    def launch(
        self, template: str, arguments: tuple[Argument, ...], grid: GridEntry | None = None, /, **parameters: Parameter
    ) -> None:
        """Append a launch of a kernel with these parameters."""
        spec = KernelSpec(template, tuple(sorted(parameters.items())))
        self.kernels[spec.symbol] = spec
        self.launches.append(LaunchEntry(spec.symbol, arguments, grid))

    def value(self, name: str) -> BufferRef:
        """Return the argument for a value of the graph."""
        return BufferRef(self._buffer_of[name])

    def q8_parameters(self, name: str) -> dict[str, Parameter]:
        """Return what the kernel that writes a value is told of int8 blocks."""
        return {"out_q8": self.graph.values[name].is_int8, **self.super_parameters(name)}

    def super_parameters(self, name: str) -> dict[str, Parameter]:
        """Return what a kernel that writes int8 alone is told of it."""
        return {"out_super": True} if self.graph.values[name].dtype == Q8_SUPER else {}

    def tensor(self, sources: tuple[str, ...], packing: str) -> TensorRef:
        """Return the argument for weights, stacked where there are several; they are packed once."""
        shapes = [self.graph.weights[name].shape for name in sources]
        shape = (sum(shape[0] for shape in shapes), *shapes[0][1:])
        roles = "+".join((sources[0], *(source.rsplit(".", 1)[-1] for source in sources[1:])))
        name = f"{roles}@{packing}"
        self.tensors[name] = PackedTensor(name, packing, sources, shape)
        return TensorRef(name)

    def floats(self, sources: tuple[str, ...]) -> TensorRef | None:
        """Return the argument for vectors, stacked; None where there are none."""
        return self.tensor(sources, "f32") if sources else None

    def cache(self, layer: int) -> tuple[KvRef, KvRef]:
        """Return the arguments for the keys and the values of a layer; caches are in the order of the layers.

        Keys that hold their values are both.
        """
        index = self._caches[layer]
        return KvRef(index, "key"), KvRef(index, "value" if self.kv.caches[index].value_dim else "key")

    def state(self, name: str, n_bytes: int) -> StateRef:
        """Return the argument for state that a slot holds `n_bytes` of, a multiple of `STATE_ALIGNMENT`.

        Args:
            name: of its own.
            n_bytes: of one sequence.
        """
        assert not n_bytes % STATE_ALIGNMENT, "slots lie one after another"
        assert all(entry.name != name for entry in self.states), "each operation has state of its own"
        self.states.append(StateEntry(name, n_bytes))
        return StateRef(len(self.states) - 1)

    def matrix(self, sources: tuple[str, ...], pairs: bool = False) -> TensorRef:
        """Return the argument for matrices, stacked, or as pairs of a gate's and an up's rows."""
        ggml_type = self.graph.weights[sources[0]].ggml_type.lower()
        prefix = f"{self.packing}_pairs" if pairs else self.packing
        return self.tensor(sources, f"{prefix}_{ggml_type}")

    def finish(self) -> Plan:
        """Return the plan, once all nodes are lowered."""
        kernels = tuple(self.kernels[symbol] for symbol in sorted(self.kernels))
        norm, sampler = self._final_norm(), self._sampler()
        tensors = tuple(self.tensors.values())
        states = tuple(self.states)
        tapped = self.graph.values.get(TAPPED)
        tap = None if tapped is None else Tap(self._buffer_of[TAPPED], tapped.columns)
        return Plan(kernels, tuple(self.launches), self.buffers, tensors, self.kv, norm, sampler, states, tap)

    def _sampler(self) -> Sampler:
        """Return the sampler, whose launch is the last, as its node is."""
        return Sampler(len(self.launches) - 1, self._buffer_of[self.graph.nodes[-1].inputs[0]])

    def _final_norm(self) -> FinalNorm | None:
        """Return the norm before the output matrix. Values after it have R rows, so none takes the buffer it reads.

        A part of a bundle may have none: nobody asks it for hidden states.
        """
        node = next((node for node in self.graph.nodes if node.op == "norm" and self._chooses_rows(node)), None)
        if node is None:
            return None
        tensors = [self.tensor((name,), "f32").name for name in node.weights]
        weight, bias = (*tensors, "", "")[:2]
        return FinalNorm(self._buffer_of[node.inputs[0]], weight, node.real("epsilon"), node.word("kind", "rms"), bias)

    def _chooses_rows(self, node: Node) -> bool:
        """Return whether a node reads rows of all tokens, and writes those of which logits are asked."""
        values = self.graph.values
        return values[node.output].rows == LOGITS and values[node.inputs[0]].rows != LOGITS
