"""A plan's launches on a GPU: grids from what a step holds, and graphs that are captured once and replayed."""

from __future__ import annotations

import bisect
import contextlib
import ctypes
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from ....artifacts.arguments import Argument
from ....artifacts.dataclass import dataclass
from ....artifacts.errors import DeviceError
from ....artifacts.layout import MAX_ARGUMENTS, GridEntry, Layout
from ..batch import Batch
from .api import CAPTURE_MODE_THREAD_LOCAL, SUCCESS, HipApi, HipError, check
from .step import StepMemory

log = logging.getLogger(__name__)

MAX_GRAPHS: Final = 128


class StepShape(NamedTuple):
    """What grids depend on: tokens, rows of logits, the longest context in positions, whether there are adapters, and
    sequences that have state."""

    tokens: int
    logits: int
    context: int
    adapted: bool = False
    sequences: int = 0


def shape_of(batch: Batch) -> StepShape:
    """Return the shape of a batch."""
    context, adapted = int(batch.positions.max(initial=-1)) + 1, batch.adapter_scales is not None
    sequences = 0 if batch.state_from is None else len(batch.state_from)
    return StepShape(len(batch.token_ids), len(batch.logits_rows), context, adapted, sequences)


def grid_of(grid: GridEntry, shape: StepShape) -> tuple[int, int, int] | None:
    """Return the workgroups in x, y and z, or None where the kernel is not launched for such a step."""
    y = z = 1
    if grid.rows != "none":
        counts = {"tokens": shape.tokens, "logits": shape.logits, "sequences": shape.sequences}
        count = counts[grid.rows.removeprefix("adapted_")]
        if grid.rows.startswith("adapted") and not shape.adapted:
            return None
        if not max(grid.at_least, 1) <= count <= grid.at_most:
            return None
        y = -(-count // grid.tile)
    if grid.split:
        z = max(1, -(-shape.context // grid.split))
    return grid.x, y, z


@dataclass(frozen=True, slots=True)
class Launch:
    """A kernel with its arguments in place.

    Attributes:
        symbol: for messages.
        function: HIP's handle.
        parameters: pointers to the arguments: the step, then eight.
        arguments: what they point to, kept alive.
    """

    symbol: str
    function: ctypes.c_void_p
    grid: GridEntry
    parameters: ctypes.Array[ctypes.c_void_p]
    arguments: ctypes.Array[ctypes.c_void_p]


def resolve_launches(
    api: HipApi,
    module: ctypes.c_void_p,
    layout: Layout,
    step: StepMemory,
    address: Callable[[Argument], int | None],
) -> tuple[Launch, ...]:
    """Return the launches of a layout, ready to go.

    Args:
        api: HIP.
        module: that has the kernels.
        layout: of the bundle.
        step: whose pointer is every kernel's first argument, where it is at the time of the launch.
        address: of an argument; what it says of the step's does not count.

    Raises:
        DeviceError: the module lacks a kernel, or the layout was made for the host.
    """
    functions: dict[str, ctypes.c_void_p] = {}
    launches = []
    for entry in layout.launches:
        if entry.grid is None:
            raise DeviceError(f"{entry.kernel}: expected a grid, found none: this layout is not for GPUs")
        if entry.kernel not in functions:
            function = ctypes.c_void_p()
            code = api.hipModuleGetFunction(ctypes.byref(function), module, entry.kernel.encode("ascii"))
            check(api, code, f"kernel {entry.kernel} of the code object")
            functions[entry.kernel] = function
        values = [address(argument) for argument in entry.arguments]
        arguments = (ctypes.c_void_p * MAX_ARGUMENTS)(*values)
        first, size = ctypes.addressof(arguments), ctypes.sizeof(ctypes.c_void_p)
        pointers = [ctypes.addressof(step.pointer), *(first + size * i for i in range(MAX_ARGUMENTS))]
        for index, argument in enumerate(entry.arguments):
            if argument in step.arguments:
                pointers[1 + index] = ctypes.addressof(step.arguments[argument])
        parameters = (ctypes.c_void_p * (1 + MAX_ARGUMENTS))(*pointers)
        launches.append(Launch(entry.kernel, functions[entry.kernel], entry.grid, parameters, arguments))
    return tuple(launches)


def launch_all(api: HipApi, launches: Sequence[Launch], shape: StepShape, stream: ctypes.c_void_p) -> None:
    """Queue what a step of this shape needs.

    Raises:
        HipError: a launch failed; names the kernel.
    """
    for launch in launches:
        groups = grid_of(launch.grid, shape)
        if groups is not None:
            code = api.hipModuleLaunchKernel(
                launch.function, *groups, launch.grid.threads, 1, 1, 0, stream, launch.parameters, None
            )
            check(api, code, f"launch of {launch.symbol}")


class _Steps:
    """Rounds counts up, never past one where other kernels would be launched."""

    def __init__(self, grids: Sequence[GridEntry], rows: str, most: int) -> None:
        ends = {1 << bit for bit in range(most.bit_length())}
        for grid in grids:
            if grid.rows.endswith(rows):
                ends |= {grid.at_least - 1, grid.at_most}
        self._ends = sorted(end for end in ends | {most} if 1 <= end <= most)

    def round_up(self, count: int) -> int:
        return self._ends[bisect.bisect_left(self._ends, count)]


class Graphs:
    """Decode steps as HIP graphs: one for each bucket of shapes, captured when it first comes.

    A step is one of decoding where every token has a row of logits. Its grids are those of the bucket's largest
    shape; kernels read the true counts from the step's memory, and workgroups beyond them leave at once.

    Attributes:
        problem: why there are none any more; None: they are used.
    """

    def __init__(self, api: HipApi, launches: Sequence[Launch], layout: Layout, stream: ctypes.c_void_p) -> None:
        self._api = api
        self._launches = launches
        self._stream = stream
        self._executables: dict[StepShape, ctypes.c_void_p] = {}
        self.problem: str | None = None
        self._most = min(layout.max_sequences, layout.max_batch_tokens)
        grids = [launch.grid for launch in launches]
        self._tokens = _Steps(grids, "tokens", self._most)
        self._logits = _Steps(grids, "logits", self._most)
        self._sequences = _Steps(grids, "sequences", self._most)
        splits = [grid.split for grid in grids if grid.split]
        self._split = min(splits, default=0)
        self._max_context = layout.max_seq_len
        self._has_state = bool(layout.states)

    def bucket(self, shape: StepShape) -> StepShape | None:
        """Return the largest shape that shares a graph with this one; None where it is not for graphs."""
        if self.problem is not None or shape.tokens != shape.logits or not 1 <= shape.tokens <= self._most:
            return None
        context = 0
        if self._split:
            splits = -(-shape.context // self._split)
            context = max(shape.context, min(self._split << (splits - 1).bit_length(), self._max_context))
        tokens, logits = self._tokens.round_up(shape.tokens), self._logits.round_up(shape.logits)
        sequences = self._sequences.round_up(shape.sequences) if shape.sequences else 0
        return StepShape(tokens, logits, context, shape.adapted, sequences)

    def capture_usual(self) -> None:
        """Capture those of short contexts, for each number of sequences: memory that graphs take shows then.

        Raises:
            HipError: a launch failed.
        """
        for count in range(1, self._most + 1):
            bucket = self.bucket(StepShape(count, count, 1, sequences=count if self._has_state else 0))
            if bucket is not None:
                self._executable(bucket)

    def launch(self, bucket: StepShape) -> bool:
        """Queue the graph of a bucket; False where HIP cannot make one: then nothing was queued, now or later.

        Raises:
            HipError: a launch failed.
        """
        executable = self._executable(bucket)
        if executable is None:
            return False
        check(self._api, self._api.hipGraphLaunch(executable, self._stream), "launch of a step's graph")
        return True

    def _executable(self, bucket: StepShape) -> ctypes.c_void_p | None:
        """Return the graph of a bucket, captured when it first comes; None where HIP cannot make one."""
        found = self._executables.get(bucket)
        if found is None and (found := self._capture(bucket)) is not None:
            if len(self._executables) >= MAX_GRAPHS:
                self._api.hipGraphExecDestroy(self._executables.pop(next(iter(self._executables))))
            self._executables[bucket] = found
        return found

    def _capture(self, bucket: StepShape) -> ctypes.c_void_p | None:
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        try:
            code = self._api.hipStreamBeginCapture(self._stream, CAPTURE_MODE_THREAD_LOCAL)
            check(self._api, code, "capture of a graph")
        except HipError as error:
            self.turn_off(str(error))
            return None
        try:
            launch_all(self._api, self._launches, bucket, self._stream)
        except HipError:
            self._end_capture(graph)
            self._destroy(graph)
            raise
        try:
            check(self._api, self._end_capture(graph), "capture of a graph")
            code = self._api.hipGraphInstantiate(ctypes.byref(executable), graph, None, None, 0)
            check(self._api, code, "making of a graph")
        except HipError as error:
            self.turn_off(str(error))
            return None
        finally:
            self._destroy(graph)
        return executable

    def _end_capture(self, graph: ctypes.c_void_p) -> int:
        """Return HIP's answer. From 6.4, a stream whose capture failed takes no work until another has ended well."""
        code = self._api.hipStreamEndCapture(self._stream, ctypes.byref(graph))
        if code != SUCCESS and not self._api.hipStreamBeginCapture(self._stream, CAPTURE_MODE_THREAD_LOCAL):
            empty = ctypes.c_void_p()
            self._api.hipStreamEndCapture(self._stream, ctypes.byref(empty))
            self._destroy(empty)
        return code

    def turn_off(self, problem: str) -> None:
        """Use no graph any more."""
        log.warning("%s; kernels are launched one by one from now on", problem)
        self.problem = problem

    def _destroy(self, graph: Any) -> None:
        if graph.value:
            self._api.hipGraphDestroy(graph)

    def clear(self) -> None:
        """Forget all graphs: the step's memory has moved, or this is the end."""
        for executable in self._executables.values():
            with contextlib.suppress(HipError):
                self._api.hipGraphExecDestroy(executable)
        self._executables.clear()
