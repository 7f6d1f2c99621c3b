"""Grids, and buckets of steps that may share a graph."""

from __future__ import annotations

import ctypes

from hypothesis import given
from hypothesis import strategies as st

from rocmforge.artifacts.layout import GRID_ROWS, GridEntry
from rocmforge.runtime.hip_launches import Graphs, Launch, StepShape, grid_of

from .fake_hip import FakeHip
from .hip_bundle import LAYOUT

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


@given(st.lists(GRIDS, max_size=6), st.integers(1, 8), st.integers(1, 128))
def test_a_bucket_launches_the_same_kernels_on_grids_that_hold_the_step(
    grids: list[GridEntry], tokens: int, context: int
) -> None:
    shape = StepShape(tokens, tokens, context)
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
    assert grid_of(GridEntry(64, 5, "tokens", 1, 0, 3, 4), StepShape(2, 9, 0)) is None
    assert grid_of(GridEntry(64, 5, "tokens", 1, 0, 3, 4), StepShape(5, 3, 0)) is None
    assert grid_of(GridEntry(64, 5, "logits", 1, 0, 0, 4), StepShape(5, 0, 0)) is None  # no workgroup is no launch
