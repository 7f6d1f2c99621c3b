"""Runs one node of a graph by the kernels that it is lowered to, on a level of the host or on an emulated GPU."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from rocmforge.artifacts.arguments import Argument, BufferRef, StateRef, TensorRef
from rocmforge.artifacts.layout import KvLayout, LaunchEntry
from rocmforge.compiler import lower_hip, lower_host
from rocmforge.compiler.buffers import assign_buffers
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.graph import Q8, Q8_SUPER, Graph, Node, Value, Weight
from rocmforge.compiler.lower_hip import HipPlanner
from rocmforge.compiler.lower_host import HostPlanner
from rocmforge.compiler.operations import OPERATIONS
from rocmforge.compiler.packing import interleave_pairs, pack_rows
from rocmforge.compiler.packing_lanes import interleave_lane_pairs, pack_lanes
from rocmforge.compiler.plan import KernelSpec, PackedTensor
from rocmforge.compiler.planner import Planner
from rocmforge.compiler.target import TARGETS
from rocmforge.tests.kernels import hip_harness, kernel_harness
from rocmforge.tests.kernels.hip_harness import Gpu, fitting, grid_of
from rocmforge.tests.kernels.kernel_harness import (
    LEVELS,
    Array,
    Float32,
    Float64,
    Step,
    assert_guards_whole,
    build,
    guarded,
)
from rocmforge.tests.oracles.dequantize import dequantize

ARCHES = ("gfx1100", "gfx942")
HOST_LEVELS = tuple(dict.fromkeys((LEVELS[0], LEVELS[-1])))
PLACES = (*HOST_LEVELS, *ARCHES)
"""Where a node is run: waves of 32 and of 64, and on the host the best level of this machine and the portable one. What
another level has of its own, its header of vectors, test_kernels_host.py and test_products_host.py go through."""

_KV = KvLayout(1, 1, 32, 16, "f16")
_PACKERS = {"rows16": (pack_rows, interleave_pairs), "lanes32": (pack_lanes, interleave_lane_pairs)}


@dataclass(frozen=True, slots=True)
class Case:
    """A node, with what it reads.

    Attributes:
        values: those that the node names.
        weights: matrices as rows of their GGUF type, uint8[rows, row bytes], and vectors as float32.
        types: of the matrices.
        inputs: float32[rows, columns] by value.
        given: rows from outside, NaN where a token takes none, of a node that reads them.
    """

    node: Node
    values: tuple[Value, ...]
    weights: Mapping[str, Array] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, Float32] = field(default_factory=dict)
    given: tuple[Float32, ...] = ()

    def numbers(self, name: str) -> Float64:
        """A weight as the node's meaning takes it."""
        raw = self.weights[name]
        return np.asarray(dequantize(raw, self.types[name]) if name in self.types else raw, np.float64)

    def meaning(self, *inputs: Array) -> Float64:
        """What the node means of these inputs, else of its own."""
        read = inputs or (*self.given, *(self.inputs[name] for name in self.node.inputs))
        weights = [self.numbers(name) for name in self.node.weights]
        return OPERATIONS[self.node.op].compute(self.node, [np.asarray(x, np.float64) for x in read], weights)

    def values_at(self, place: str) -> dict[str, Value]:
        """The values by name; on the host int8 blocks are superblocks where weights want such."""
        wide = place in LEVELS and any(kind in kernel_harness.SUPER_TYPES for kind in self.types.values())
        return {
            value.name: replace(value, dtype=Q8_SUPER) if wide and value.dtype == Q8 else value for value in self.values
        }

    def planner(self, place: str) -> Planner:
        """The planner of a place, with the node lowered."""
        table = {"source": Weight("source", (64, 64), "F32")}
        for name in self.weights:
            shape = self.numbers(name).shape
            table[name] = Weight(name, shape, self.types.get(name, "F32"))
        sources = tuple(Node("embedding", (), name, ("source",)) for name in dict.fromkeys(self.node.inputs))
        graph = Graph((*sources, self.node), self.values_at(place), table)
        operation = OPERATIONS[self.node.op]
        assert operation.problem(graph, self.node) == ""
        if place not in LEVELS:
            gpu = HipPlanner(graph, TARGETS[place], assign_buffers(graph, TARGETS[place], lower_hip.Q8_BLOCKS), _KV, 64)
            operation.hip(gpu, self.node)
            return gpu
        host = HostPlanner(
            graph, TARGETS["host"], assign_buffers(graph, TARGETS["host"], lower_host.Q8_BLOCKS), _KV, 64
        )
        operation.host(host, self.node)
        return host

    def read(self, place: str, value: str) -> Float64:
        """An input as the kernels of a place have it."""
        rows = self.inputs[value]
        dtype = self.values_at(place)[value].dtype
        if dtype == "float32":
            return rows.astype(np.float64)
        blocks = quantized(place, rows, dtype)
        return kernel_harness.q8_values(blocks) if place in LEVELS else hip_harness.q8_values(blocks)

    def packed(self, tensor: PackedTensor) -> Array:
        """A tensor of weights.bin."""
        if tensor.packing == "f32":
            return np.concatenate([np.asarray(self.weights[name], np.float32) for name in tensor.sources])
        family, _, kind = tensor.packing.partition("_")
        pack, interleave = _PACKERS[family]
        ggml_type, columns = self.types[tensor.sources[0]], tensor.shape[1]
        rows = [self.weights[name] for name in tensor.sources]
        if kind.startswith("pairs_"):
            gate, up = (pack(part, ggml_type, columns) for part in rows)
            return interleave(gate, up)
        return pack(np.concatenate(rows), ggml_type, columns)


def quantized(place: str, rows: Float32, dtype: str = Q8) -> Array:
    """Rows as int8 blocks or superblocks, as the kernels of a place read and write them."""
    if dtype == Q8_SUPER:
        return kernel_harness.quantize_superblocks(rows)
    return kernel_harness.quantize_rows(rows) if place in LEVELS else hip_harness.q8_rows(rows)


class Places:
    """Levels and GPUs, each with the kernels of all cases of a file."""

    def __init__(self, cases: Iterable[Case], cache: BuildCache, folder: Path) -> None:
        self._cases, self._cache, self._folder = tuple(cases), cache, folder
        self._host: dict[str, kernel_harness.Kernels] = {}
        self._gpus: dict[str, Gpu] = {}

    def _specs(self, place: str) -> list[KernelSpec]:
        return [spec for case in self._cases for spec in case.planner(place).kernels.values()]

    def run(self, place: str, case: Case, step: Step, rows: int | None = None, states: Array | None = None) -> Array:
        """What is in the output after the node's launches, of the first `rows` rows of the inputs.

        Args:
            states: uint8[slots, n_bytes] of a node with state, written in place.

        Returns:
            float32[rows, columns], or int8 blocks of the back end.
        """
        planner, node = case.planner(place), case.node
        count = len(step.logits_rows) if case.values[-1].rows == "R" else step.num_tokens
        memory: dict[str, Array] = {}
        self._guards: list[Array] = []
        for value in reversed(case.values_at(place).values()):  # an input over the output that lies where it does
            memory[planner.value(value.name).name] = self._array(place, case, value, count, rows)
        for launch in planner.launches:
            arguments = [
                states if isinstance(argument, StateRef) else self._argument(case, planner, memory, argument)
                for argument in launch.arguments
            ]
            self._launch(place, planner.kernels[launch.kernel], launch, step, arguments, count)
        for guard in self._guards:
            assert_guards_whole(guard)
        return memory[planner.value(node.output).name][:count]

    def _array(self, place: str, case: Case, value: Value, count: int, rows: int | None) -> Array:
        harness = kernel_harness if place in LEVELS else hip_harness
        given = case.inputs.get(value.name)
        if given is None:
            blocks = {Q8: (32, harness.Q8_BLOCK), Q8_SUPER: (256, kernel_harness.Q8_SUPERBLOCK)}
            columns, dtype = blocks.get(value.dtype, (1, np.float32))
            out, guard = guarded((count, value.columns // columns), dtype)
            self._guards.append(guard)
            return out
        given = given[:rows]
        behind = 0 if place in LEVELS else 64  # the arena has rows there, of anything
        rows_there = quantized(place, given, value.dtype) if value.is_int8 else given
        out = np.zeros((len(rows_there) + behind, *rows_there.shape[1:]), rows_there.dtype)  # here of what would show
        if value.is_int8:
            out["unit" if place in LEVELS else "scales"] = np.nan
        else:
            out[:] = np.nan
        out[: len(rows_there)] = rows_there
        return out

    def _argument(self, case: Case, planner: Planner, memory: Mapping[str, Array], argument: Argument) -> Array | None:
        if isinstance(argument, BufferRef):
            return memory[argument.name]
        if isinstance(argument, TensorRef):
            return case.packed(planner.tensors[argument.name])
        assert argument is None
        return None

    def _launch(
        self,
        place: str,
        kernel: KernelSpec,
        launch: LaunchEntry,
        step: Step,
        arguments: Sequence[Array | None],
        count: int,
    ) -> None:
        if place not in LEVELS:
            if place not in self._gpus:
                self._gpus[place] = Gpu(place, self._specs(place), self._cache)
            for one, grid in fitting(((kernel, grid_of(launch)),), count):
                self._gpus[place].run(one, grid, step, *arguments)
            return
        if not self._host:
            self._host.update(build(self._specs(place), self._cache, self._folder, HOST_LEVELS))
        self._host[place].run(kernel, step, *arguments)
