"""Kernels behind the last keys and values, which make only those rows of which outputs are read, each where it lies.

What they make is what the same kernel makes of all rows, which other tests hold against NumPy; others stay as they
were.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.packing import interleave_pairs, pack_rows
from rocmforge.compiler.plan import KernelSpec, Parameter
from rocmforge.tests.kernels.kernel_harness import (
    LEVELS,
    Array,
    Kernels,
    Step,
    assert_guards_whole,
    attention_records,
    guarded,
    int8_rows,
    kv_pages,
    product_parameters,
    random_rows,
    spec,
)
from rocmforge.tests.kernels.kernel_harness import build as build_kernels

TOKENS, COLUMNS = 83, 256
CHOICES: tuple[Sequence[int], ...] = (
    (),
    (0,),
    (TOKENS - 1,),
    (3, 4, 5, 40, 41, 70),
    (*range(2, 35), 37, *range(44, 52), 82),
    range(TOKENS),
)


@dataclass(frozen=True, slots=True)
class Case:
    """A kernel, what it reads, and the row that it writes of each token; `index` is the argument that this is."""

    template: str
    parameters: Mapping[str, Parameter]
    arguments: tuple[Array | None, ...]
    index: int
    dtype: str
    columns: int

    def spec(self, chosen: bool) -> KernelSpec:
        """The kernel of all rows, or of those that are chosen."""
        return spec(self.template, **self.parameters, **({"at_output_rows": True} if chosen else {}))

    def run(self, kernels: Kernels, output_rows: Sequence[int] | None, chosen: bool = True, **how: bool) -> Array:
        """Return what it leaves in rows that held something before."""
        out, memory = guarded((TOKENS, self.columns), self.dtype)
        out[:] = np.arange(self.columns) % 7 + 1
        arguments = (*self.arguments[: self.index], out, *self.arguments[self.index :])
        positions, table = range(TOKENS), [range(-(-TOKENS // 16))]
        step = Step(TOKENS, positions=positions, rows=[0] * TOKENS, block_table=table, output_rows=output_rows)
        kernels.run(self.spec(chosen), step, *arguments, **how)
        assert_guards_whole(memory)
        return out


def _matmul(kind: str, columns: int, x_super: bool, accumulate: bool) -> Case:
    random = np.random.default_rng(columns)
    x = random.normal(0, 1, (TOKENS, columns)).astype(np.float32)
    rows = x if kind == "F16" else int8_rows(x, kind, x_super)
    weights = pack_rows(random_rows(random, kind, 57, columns), kind, columns)
    shape = {"rows": 57, "out_stride": 64, "out_offset": 3, "has_bias": True, "accumulate": accumulate}
    bias = random.normal(0, 1, 57).astype(np.float32)
    parameters = {**shape, "at_logits_rows": False, **product_parameters(kind, columns, x_super)}
    return Case("matmul", parameters, (weights, rows, bias), 2, "<f4", 64)


def _gate_up(kind: str, out_q8: bool) -> Case:
    random = np.random.default_rng(5)
    weights = interleave_pairs(*(pack_rows(random_rows(random, kind, 64, COLUMNS), kind, COLUMNS) for _ in range(2)))
    x = int8_rows(random.normal(0, 1, (TOKENS, COLUMNS)).astype(np.float32), kind)
    parameters = {"rows": 64, "out_q8": out_q8, "activation": "silu", **product_parameters(kind, COLUMNS)}
    return Case("gate_up", parameters, (weights, x), 2, *(("u1", 2 * 56) if out_q8 else ("<f4", 64)))


def _of_rows(template: str, width: int, dtype: str, count: int, *more: Array, **parameters: Parameter) -> Case:
    x = np.random.default_rng(6).normal(0, 1, (TOKENS, width)).astype(np.float32)
    return Case(template, parameters, (x, *more), 1 + len(more), dtype, count)


def _attention() -> Case:
    random = np.random.default_rng(7)
    keys, values = (random.normal(0, 1, (6, 2, *shape)).astype(np.float32) for shape in ((32, 16), (16, 32)))
    pages = kv_pages(keys, values, "f16")
    queries = random.normal(0, 1, (TOKENS, (4 + 2 * 2) * 32)).astype(np.float32)
    heads: Mapping[str, Parameter] = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 32, "kv_q8_0": False}
    parameters = {"scale": "0.176776695f", "out_q8": False, **heads}
    return Case("attention", parameters, (queries, *pages, attention_records(4, 32, 96)), 3, "<f4", 128)


def _routed(experts: int) -> Array:
    """Weights and numbers of two experts for each token."""
    random = np.random.default_rng(8)
    chosen = [random.choice(experts, 2, replace=False) for _ in range(TOKENS)]
    return np.concatenate([random.uniform(0, 1, (TOKENS, 2)), chosen], axis=1).astype(np.float32)


def _experts(experts: int) -> Case:
    random, rows = np.random.default_rng(9), 20
    x = int8_rows(random.normal(0, 1, (TOKENS, COLUMNS)).astype(np.float32), "Q4_K")
    weights = pack_rows(random_rows(random, "Q4_K", experts * rows, COLUMNS), "Q4_K", COLUMNS)
    shape = {"experts": experts, "used": 2, "rows": rows, "out_stride": 2 * rows, "out_offset": 0}
    flags = {"each": False, "has_bias": False, "has_scale": False, "weighted": True}
    parameters = {**shape, **flags, **product_parameters("Q4_K", COLUMNS)}
    return Case("expert_matmul", parameters, (weights, x, _routed(experts)), 3, "<f4", 2 * rows)


ROUTED = _routed(9)
WEIGHT = np.linspace(0.5, 1.5, COLUMNS, dtype=np.float32)
OTHER = np.linspace(-1, 1, TOKENS * COLUMNS, dtype=np.float32).reshape(TOKENS, COLUMNS)
NORM: Mapping[str, Parameter] = {"columns": COLUMNS, "epsilon": "1e-5f", "at_logits_rows": False}
SUM: Mapping[str, Parameter] = {
    **{"columns": COLUMNS, "other_columns": COLUMNS, "other_stride": COLUMNS},
    "at_logits_rows": False,
}
ROUTE: Mapping[str, Parameter] = {
    **{"scoring": "softmax", "has_bias": False, "normalise": True, "scale": "1.0f"},
    **{"groups": 1, "groups_used": 1},
}
CASES: Mapping[str, Case] = {
    "blocks": _matmul("Q4_1", 96, False, True),
    "blocks in pairs": _matmul("Q8_0", 96, False, True),
    "superblocks": _matmul("Q4_K", 512, True, True),
    "superblocks of floats": _matmul("Q4_0", 512, True, False),
    "scales in bytes": _matmul("Q2_K", 256, True, False),
    "floats": _matmul("F16", 61, False, True),
    "gate_up": _gate_up("Q4_K", False),
    "gate_up to int8": _gate_up("Q4_1", True),
    "norm": _of_rows("norm", COLUMNS, "<f4", COLUMNS, WEIGHT, out_q8=False, **NORM),
    "norm to int8": _of_rows("norm", COLUMNS, "u1", 468, WEIGHT, out_q8=True, out_super=True, **NORM),
    "quantize": _of_rows("quantize", COLUMNS, "u1", 8 * 56, columns=COLUMNS),
    "activate": _of_rows("activate", 37, "<f4", 37, columns=37, activation="silu", out_q8=False, at_logits_rows=False),
    "gate": _of_rows("gate", 2 * 37, "<f4", 37, columns=37, activation="silu"),
    "elementwise": _of_rows("elementwise", COLUMNS, "<f4", COLUMNS, OTHER, combine="add", **SUM),
    "route": _of_rows("route", 9, "<f4", 4, experts=9, used=2, **ROUTE),
    "experts": _experts(9),
    "more experts than tokens": _experts(200),
    "expert_sum": _of_rows("expert_sum", 2 * 41, "<f4", 41, ROUTED, columns=41, used=2, weighted=False, scale="1.0f"),
    "attention": _attention(),
}

Built = Callable[[str], Kernels]


@pytest.fixture(scope="module")
def built(build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """All kernels of this file, by level."""
    specs = [case.spec(chosen) for case in CASES.values() for chosen in (False, True)]
    folder = tmp_path_factory.mktemp("kernels")
    kernels = {level: build_kernels(specs, build_cache, folder, [level])[level] for level in LEVELS}
    return kernels.__getitem__


def check(kernels: Kernels, case: Case, rows: Sequence[int], by_item: bool = False) -> None:
    """Hold chosen rows against those of all, and the others against what they were."""
    whole, before = case.run(kernels, None, chosen=False), case.run(kernels, ())
    made = case.run(kernels, rows, by_item=by_item)
    chosen = np.isin(np.arange(TOKENS), rows)
    assert np.array_equal(made[chosen].view(np.uint8), whole[chosen].view(np.uint8))
    if case.template == "attention":  # neighbours come in tiles, less than 16, and are made beside what is chosen
        chosen = np.convolve(chosen, np.ones(31), "same") > 0
    assert np.array_equal(made[~chosen].view(np.uint8), before[~chosen].view(np.uint8))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("level", LEVELS)
def test_chosen_rows_are_made_and_no_others(built: Built, level: str, name: str) -> None:
    kernels, case = built(level), CASES[name]
    for rows in CHOICES:
        for by_item in (False, True):
            check(kernels, case, rows, by_item)
    assert not np.array_equal(case.run(kernels, None), case.run(kernels, ()))  # none chosen is not all


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("level", LEVELS)
def test_where_none_are_chosen_all_are_made(built: Built, level: str, name: str) -> None:
    kernels, case = built(level), CASES[name]
    assert np.array_equal(case.run(kernels, None).view(np.uint8), case.run(kernels, None, chosen=False).view(np.uint8))


@given(rows=st.sets(st.integers(0, TOKENS - 1)))
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("name", ["superblocks", "gate_up to int8", "attention"])
def test_any_rows(built: Built, name: str, rows: set[int]) -> None:
    check(built(LEVELS[0]), CASES[name], sorted(rows))
