"""Grids, and buckets of steps that may share a graph."""

from __future__ import annotations

import ctypes
import dataclasses
import logging
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocmforge.artifacts.arguments import Argument, BufferRef, StepRef
from rocmforge.artifacts.errors import DeviceError
from rocmforge.artifacts.layout import GRID_ROWS, GridEntry, LaunchEntry
from rocmforge.runtime.device.hip import launches as hip_launches
from rocmforge.runtime.device.hip.api import HipError
from rocmforge.runtime.device.hip.launches import Graphs, Launch, StepShape, grid_of, resolve_launches, shape_of
from rocmforge.runtime.device.hip.memory import DeviceMemory
from rocmforge.runtime.device.hip.step import StepMemory
from rocmforge.tests.support.fake_hip import CAPTURE_INVALIDATED, CAPTURE_UNSUPPORTED, LAUNCH_FAILURE, FakeHip
from rocmforge.tests.support.hip_bundle import LAYOUT, batch

GRIDS = st.builds(
    lambda x, rows, tile, split, low, more: GridEntry(64, x, rows, tile, split, low, max(low, 1) + more),
    st.integers(1, 9),
    st.sampled_from(GRID_ROWS),
    st.integers(1, 20),
    st.sampled_from([0, 16, 48, 128]),
    st.integers(0, 9),
    st.integers(0, 40),
)


def graphs(grids: list[GridEntry]) -> Graphs:
    pointers = (ctypes.c_void_p * 9)()
    launches = [Launch("kernel", ctypes.c_void_p(), grid, pointers, pointers) for grid in grids]
    return Graphs(FakeHip(), launches, LAYOUT, ctypes.c_void_p())


@given(st.lists(GRIDS, max_size=6), st.integers(1, 8), st.integers(1, 128), st.booleans(), st.integers(0, 8))
def test_a_bucket_launches_the_same_kernels_on_grids_that_hold_the_step(
    grids: list[GridEntry], tokens: int, context: int, adapted: bool, sequences: int
) -> None:
    shape = StepShape(tokens, tokens, context, adapted, min(sequences, tokens))
    bucket = graphs(grids).bucket(shape)
    assert bucket is not None
    assert max(bucket.tokens, bucket.logits) <= LAYOUT.max_sequences
    assert bucket.context <= LAYOUT.max_seq_len
    for grid in grids:
        exact, rounded = grid_of(grid, shape), grid_of(grid, bucket)
        assert (exact is None) == (rounded is None)
        if exact is not None and rounded is not None:
            assert all(have >= want for have, want in zip(rounded, exact, strict=True))


@given(st.lists(GRIDS, max_size=6))
def test_buckets_are_few(grids: list[GridEntry]) -> None:
    """Counts up to 8: four powers of two, and two ends for each launch; contexts up to 128 in splits of 16: four."""
    made = graphs(grids)
    buckets = {made.bucket(StepShape(n, n, context)) for n in range(1, 9) for context in range(1, 129)}
    counts = {(bucket.tokens, bucket.logits) for bucket in buckets if bucket}
    assert len(counts) <= 8
    assert len({bucket.context for bucket in buckets if bucket}) <= 4


def test_which_steps_are_for_graphs() -> None:
    made = graphs([])
    assert made.bucket(StepShape(3, 3, 40)) == StepShape(4, 4, 0)
    assert made.bucket(StepShape(9, 1, 9)) is None  # prefill
    assert made.bucket(StepShape(9, 9, 9)) is None  # more than max_sequences
    assert made.bucket(StepShape(0, 0, 0)) is None


def test_grids() -> None:
    assert grid_of(GridEntry(64, 5), StepShape(0, 0, 0)) == (5, 1, 1)
    assert grid_of(GridEntry(64, 5, "tokens", 4), StepShape(9, 2, 0)) == (5, 3, 1)
    assert grid_of(GridEntry(64, 5, "logits", 4), StepShape(9, 2, 0)) == (5, 1, 1)
    assert grid_of(GridEntry(64, 5, "tokens", 1, 256), StepShape(2, 2, 257)) == (5, 2, 2)
    assert grid_of(GridEntry(64, 5, "sequences", 2), StepShape(9, 8, 0, sequences=3)) == (5, 2, 1)
    assert grid_of(GridEntry(64, 5, "sequences", 2), StepShape(9, 8, 0)) is None  # of a model without state
    assert grid_of(GridEntry(64, 5, "tokens", 1, 0, 3, 4), StepShape(2, 9, 0)) is None
    assert grid_of(GridEntry(64, 5, "tokens", 1, 0, 3, 4), StepShape(5, 3, 0)) is None
    assert grid_of(GridEntry(64, 5, "logits", 1, 0, 0, 4), StepShape(5, 0, 0)) is None  # no workgroup is no launch


def test_the_shape_of_a_step() -> None:
    assert shape_of(batch(7, 100, 3)) == StepShape(3, 3, 100)
    assert shape_of(batch(100, 9, new=4)) == StepShape(8, 2, 100)
    empty = np.zeros(0, np.int32)
    none = dataclasses.replace(batch(1), token_ids=empty, positions=empty, logits_rows=empty)
    assert shape_of(none) == StepShape(0, 0, 0)
    stateful = dataclasses.replace(batch(7, 3, new=2), state_from=np.zeros(2, np.int32), state_to=np.zeros(4, np.int32))
    assert shape_of(stateful) == StepShape(4, 2, 7, False, 2)


def test_ends_of_buckets() -> None:
    """Powers of two, where other kernels begin and end, and the most; contexts by powers of two of the splits."""
    made = graphs([GridEntry(64, 5, "tokens", 1, 0, 4, 6), GridEntry(64, 5, "logits", 1, 48, 3, 5)])
    found = [made.bucket(StepShape(count, count, 1)) for count in range(1, 9)]
    assert [bucket and bucket.tokens for bucket in found] == [1, 2, 3, 4, 6, 6, 8, 8]
    assert [bucket and bucket.logits for bucket in found] == [1, 2, 4, 4, 5, 8, 8, 8]
    contexts = {1: 48, 48: 48, 49: 96, 96: 96, 97: 128, 128: 128, 129: 129}
    buckets = {context: made.bucket(StepShape(1, 1, context)) for context in contexts}
    assert {context: bucket and bucket.context for context, bucket in buckets.items()} == contexts
    two = graphs([GridEntry(64, 5, "tokens", 1, 64), GridEntry(64, 5, "tokens", 1, 32)])
    assert two.bucket(StepShape(1, 1, 33)) == StepShape(1, 1, 64)
    assert two.bucket(StepShape(1, 1, 20)) == StepShape(1, 1, 32)
    assert made.bucket(StepShape(2, 1, 1)) is made.bucket(StepShape(9, 9, 1)) is None
    made.turn_off("no more")
    assert (made.problem, made.bucket(StepShape(1, 1, 1))) == ("no more", None)


A = BufferRef("a")


def test_kernels_of_a_layout_are_looked_up_once() -> None:
    api = FakeHip()
    memory = DeviceMemory(api)
    step = StepMemory(memory, 0)
    entries = (
        LaunchEntry("one", (StepRef("image"), A, None), GridEntry(64, 1)),
        LaunchEntry("two", (), GridEntry(64, 2)),
        LaunchEntry("one", (A, StepRef("echo")), GridEntry(64, 3)),
    )
    layout = dataclasses.replace(LAYOUT, launches=entries)
    asked: list[Argument] = []

    def address(argument: Argument) -> int | None:
        asked.append(argument)
        return 4096 if argument == A else None

    launches = resolve_launches(api, ctypes.c_void_p(), layout, step, address)
    assert list(api.functions.values()) == ["one", "two"]
    assert asked == [StepRef("image"), A, None, A, StepRef("echo")]
    assert [(launch.symbol, launch.grid.x) for launch in launches] == [("one", 1), ("two", 2), ("one", 3)]
    assert launches[0].function is launches[2].function is not launches[1].function
    pointer, image, echo = step.pointer.value, *(step.arguments[StepRef(part)].value for part in ("image", "echo"))
    values = [[ctypes.c_void_p.from_address(at or 0).value for at in launch.parameters] for launch in launches]
    assert values == [
        [pointer, image, 4096, *[None] * 6],
        [pointer, *[None] * 8],
        [pointer, 4096, echo, *[None] * 6],
    ]
    bare = dataclasses.replace(LAYOUT, launches=(LaunchEntry("one", ()),))
    with pytest.raises(DeviceError, match=r"^one: expected a grid, found none: this layout is not for GPUs$"):
        resolve_launches(api, ctypes.c_void_p(), bare, step, address)


class Captured:
    """Graphs of one launch, on a stream of a fake GPU."""

    def __init__(self) -> None:
        self.api = FakeHip()
        self.memory = DeviceMemory(self.api)
        step = StepMemory(self.memory, 0)
        layout = dataclasses.replace(LAYOUT, launches=(LaunchEntry("k", (), GridEntry(64, 1, "tokens", 1, 32)),))
        self.stream = ctypes.c_void_p()
        self.api.hipStreamCreateWithFlags(ctypes.byref(self.stream), 1)
        launches = resolve_launches(self.api, ctypes.c_void_p(), layout, step, lambda _: None)
        self.graphs = Graphs(self.api, launches, layout, self.stream)

    def close(self) -> None:
        self.graphs.clear()
        self.graphs.clear()
        for stream in self.api.streams.values():
            stream.queue.clear()
        self.api.hipStreamDestroy(self.stream)
        self.memory.close()
        assert self.api.held() == 0


def test_graphs_are_made_once_and_the_oldest_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hip_launches, "MAX_GRAPHS", 2)
    made = Captured()
    api, graphs = made.api, made.graphs
    first, second, third = (StepShape(count, count, 32) for count in (1, 2, 4))
    for shape, instantiated in ((first, 1), (second, 2), (first, 2), (second, 2), (third, 3), (second, 3), (first, 4)):
        assert graphs.launch(shape)
        assert api.calls["hipGraphInstantiate"] == instantiated
    assert (len(api.executables), api.calls["hipGraphExecDestroy"], api.graphs) == (2, 2, {})
    assert api.calls["hipGraphLaunch"] == 7
    api.fail("hipGraphLaunch", 1, LAUNCH_FAILURE)
    with pytest.raises(HipError, match=r"^launch of a step's graph: hipErrorLaunchFailure"):
        graphs.launch(first)
    graphs.clear()
    assert api.executables == {}
    assert graphs.launch(first)
    made.close()


def test_the_usual_graphs_are_those_of_short_contexts() -> None:
    made = Captured()
    made.graphs.capture_usual()
    assert made.api.calls["hipGraphInstantiate"] == len(made.api.executables) == 4  # of 1, 2, 4 and 8 sequences
    assert made.api.calls["hipGraphLaunch"] == 0
    for count in range(1, 9):
        assert made.graphs.launch(StepShape(1 << (count - 1).bit_length(), 1 << (count - 1).bit_length(), 32))
    assert made.api.calls["hipGraphInstantiate"] == 4
    made.close()
    made = Captured()
    made.graphs.turn_off("none")
    made.graphs.capture_usual()
    assert made.api.calls["hipStreamBeginCapture"] == 0
    made.close()


@pytest.mark.parametrize(
    ("function", "code", "begun", "problem"),
    [
        ("hipStreamBeginCapture", CAPTURE_UNSUPPORTED, 1, "capture of a graph: hipErrorStreamCaptureUnsupported"),
        ("hipStreamEndCapture", CAPTURE_INVALIDATED, 2, "capture of a graph: hipErrorStreamCaptureInvalidated"),
        ("hipGraphInstantiate", CAPTURE_UNSUPPORTED, 1, "making of a graph: hipErrorStreamCaptureUnsupported"),
    ],
)
def test_graphs_that_cannot_be_made_are_told_once(
    function: str, code: int, begun: int, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = Captured()
    made.api.fail(function, 1, code)
    with caplog.at_level(logging.WARNING):
        assert not made.graphs.launch(StepShape(1, 1, 32))
    (record,) = caplog.records
    assert record.getMessage().startswith(problem)
    assert record.getMessage().endswith("); kernels are launched one by one from now on")
    assert made.graphs.problem == record.getMessage().partition(";")[0]
    assert made.api.calls["hipStreamBeginCapture"] == begun
    assert (made.api.graphs, made.api.executables) == ({}, {})
    assert made.api.streams[made.stream.value or 0].spoilt is False
    made.close()


def test_a_launch_that_fails_while_it_is_captured() -> None:
    made = Captured()
    made.api.fail("hipModuleLaunchKernel", 1, LAUNCH_FAILURE)
    with pytest.raises(HipError, match=r"^launch of k: hipErrorLaunchFailure"):
        made.graphs.launch(StepShape(1, 1, 32))
    assert (made.graphs.problem, made.api.graphs) == (None, {})
    assert made.graphs.launch(StepShape(1, 1, 32))
    made.close()


def failing(api: FakeHip) -> Callable[..., int]:
    def begin(*_: object) -> int:
        api.calls["hipStreamBeginCapture"] += 1
        return CAPTURE_UNSUPPORTED

    return begin


def test_an_end_that_fails_and_no_other_that_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then there is nothing to end."""
    made = Captured()
    end = made.api.hipStreamEndCapture

    def fail_and_begin_no_more(stream: object, graph: object) -> int:
        code = end(stream, graph)
        monkeypatch.setattr(made.api, "hipStreamBeginCapture", failing(made.api))
        return code or CAPTURE_INVALIDATED

    monkeypatch.setattr(made.api, "hipStreamEndCapture", fail_and_begin_no_more)
    assert not made.graphs.launch(StepShape(1, 1, 32))
    assert (made.api.calls["hipStreamBeginCapture"], made.api.calls["hipStreamEndCapture"]) == (2, 1)
    made.close()
