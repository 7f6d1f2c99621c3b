"""Both halves of an adapter's product, on each level of the host and on emulated GPUs, against what nodes mean."""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace

import numpy as np
import pytest

from rocmforge.artifacts.layout import GridEntry
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.graph import Node
from rocmforge.compiler.operations import OPERATIONS
from rocmforge.compiler.ops.lora_segments import Segment
from rocmforge.compiler.plan import KernelSpec, Parameter
from rocmforge.tests.kernels import kernel_harness
from rocmforge.tests.kernels.hip_harness import Gpu
from rocmforge.tests.kernels.kernel_harness import LEVELS, ROUNDING, Array, Float32, Float64, Kernels, Step, spec

WAVES = {"gfx1100": 32, "gfx942": 64}
ARCHES = tuple(WAVES)
PLACES = (*LEVELS, *ARCHES)
ADAPTERS = 3
SCALES = np.array([[1, 0, -0.5], [0, 0, 0], [0, 2, 0]], np.float32)
"""Of three sequences: two adapters, none, one."""
ROWS = (0, 0, 1, 2, 2, 1, 0)
FILLING = np.float32(3.5)
"""What stands where nothing is to be written."""


@dataclass(frozen=True)
class Case:
    """Adapters of a product: segments, what it reads and what it has written."""

    segments: tuple[Segment, ...]
    columns: int
    width: int
    at_logits_rows: bool = False

    @property
    def ranks(self) -> int:
        return self.segments[-1].first_rank + self.segments[-1].ranks

    def arrays(self) -> dict[str, Array]:
        """A, B, table, units, x, low and out, as kernels have them."""
        random = np.random.default_rng(self.columns)
        last, rows = self.segments[-1], len(ROWS) - 2 * self.at_logits_rows
        a = np.zeros((self.ranks, -(-self.columns // 16) * 16), np.float16)
        a[:, : self.columns] = random.normal(0, 1, (self.ranks, self.columns))
        b = np.zeros(last.first_b + last.ranks * last.columns + 16, np.float16)
        b[:-16] = random.normal(0, 1, len(b) - 16)
        return {
            "a": a,
            "b": b,
            "table": np.array([astuple(one) for one in self.segments], np.int32),
            "units": random.normal(0, 0.1, len(self.segments)).astype(np.float32),
            "x": random.normal(0, 1, (rows, self.columns)).astype(np.float32),
            "low": np.full((rows, self.ranks), FILLING),
            "out": random.normal(0, 1, (rows, self.width)).astype(np.float32),
        }

    def parameters(self) -> dict[str, Parameter]:
        return {
            "adapters": ADAPTERS,
            "at_logits_rows": self.at_logits_rows,
            "num_segments": len(self.segments),
            "ranks": self.ranks,
        }

    def specs(self, place: str) -> tuple[KernelSpec, KernelSpec]:
        more: dict[str, Parameter] = {"wave_size": WAVES[place]} if place in ARCHES else {}
        threads: dict[str, Parameter] = {"threads": 64} if place in ARCHES else {}
        return (
            spec("lora_down", columns=self.columns, **self.parameters(), **more),
            spec("lora_up", columns=self.width, **self.parameters(), **more, **threads),
        )

    def sequences(self) -> list[int]:
        """Of each row."""
        return [ROWS[index] for index in self.step().logits_rows] if self.at_logits_rows else list(ROWS)

    def step(self) -> Step:
        asked = (6, 2, 3, 4, 0) if self.at_logits_rows else ()
        return Step(len(ROWS), rows=ROWS, logits_rows=asked, adapter_scales=SCALES)


# Adapters of two matrices, of ranks that differ, in any order; widths that no vector divides.
CASES = {
    "two": Case((Segment(0, 0, 4, 0, 37, 0), Segment(2, 4, 7, 0, 37, 148), Segment(1, 11, 1, 37, 300, 407)), 61, 400),
    "one": Case((Segment(2, 0, 16, 0, 256, 0),), 512, 256),
    "logits": Case((Segment(1, 0, 3, 0, 50, 0), Segment(0, 3, 8, 0, 50, 150)), 40, 50, True),
}


@pytest.fixture(scope="module")
def built(build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kernels | Gpu]:
    host = [rows_spec(LEVELS[0]), *(one for case in CASES.values() for one in case.specs(LEVELS[0]))]
    found: dict[str, Kernels | Gpu] = {}
    found |= kernel_harness.build(host, build_cache, tmp_path_factory.mktemp("lora"), LEVELS)
    for arch in ARCHES:
        specs = [rows_spec(arch), *(one for case in CASES.values() for one in case.specs(arch))]
        found[arch] = Gpu(arch, specs, build_cache)
    return found


def computed(built: dict[str, Kernels | Gpu], place: str, case: Case, step: Step) -> tuple[Float32, Float32]:
    """What both kernels leave in `low` and `out`."""
    arrays, (down, up) = case.arrays(), case.specs(place)
    first = arrays["x"], arrays["a"], arrays["table"], arrays["units"], arrays["low"]
    second = arrays["low"], arrays["b"], arrays["table"], arrays["out"]
    where = built[place]
    if isinstance(where, Gpu):
        rows = "adapted_logits" if case.at_logits_rows else "adapted_tokens"
        where.run(down, GridEntry(WAVES[place], case.ranks, rows), step, *first)
        where.run(up, GridEntry(64, -(-case.width // 64), rows), step, *second)
    else:
        where.run(down, step, *first, by_item=True)
        where.run(up, step, *second, by_item=True)
    return arrays["low"], arrays["out"]


def meaning(case: Case) -> tuple[Float64, Float64, Float64, Float64]:
    """What the nodes mean, `low` and `out`, and of both the sums of what is added up, without signs."""
    arrays = {name: array.astype(np.float64) for name, array in case.arrays().items()}
    attributes = {"adapters": ADAPTERS}
    down = Node("lora_down", ("x",), "low", ("a", "table", "units", "scales"), attributes)
    up = Node("lora_up", ("low", "out"), "out", ("b", "table", "scales"), attributes)
    found: list[list[Float64]] = [[], [], [], []]
    for row, sequence in enumerate(case.sequences()):
        scales = SCALES[sequence].astype(np.float64)
        for plain, at in ((True, 0), (False, 2)):
            keep = (lambda one: one) if plain else np.abs
            weights = [keep(arrays["a"]), arrays["table"], keep(arrays["units"]), keep(scales)]
            low = OPERATIONS["lora_down"].compute(down, [keep(arrays["x"][row : row + 1])], weights)
            inputs = [low, keep(arrays["out"][row : row + 1])]
            out = OPERATIONS["lora_up"].compute(up, inputs, [keep(arrays["b"]), arrays["table"], keep(scales)])
            found[at].append(low[0])
            found[at + 1].append(out[0])
    low, out, low_size, out_size = map(np.array, found)
    return low, out, low_size, out_size


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("place", PLACES)
def test_a_product_with_adapters(built: dict[str, Kernels | Gpu], place: str, name: str) -> None:
    """Each sum is off by as many roundings as it has steps: of columns, then of ranks, twice each in portable code."""
    case = CASES[name]
    low, out = computed(built, place, case, case.step())
    expected_low, expected, low_size, size = meaning(case)
    used = np.array(
        [[SCALES[s, one.adapter] != 0 for one in case.segments for _ in range(one.ranks)] for s in case.sequences()]
    )
    assert (low[~used] == FILLING).all()
    steps = 2 * (case.columns + 4)
    assert (np.abs(low - expected_low)[used] <= steps * ROUNDING * low_size[used]).all()
    assert (np.abs(out - expected) <= (steps + 2 * case.ranks + 2) * ROUNDING * size).all()
    without = [row for row, sequence in enumerate(case.sequences()) if not SCALES[sequence].any()]
    assert without
    assert out[without].tobytes() == case.arrays()["out"][without].tobytes()


ROWS_CASE = Case((Segment(0, 0, 5, 0, 8, 0), Segment(2, 5, 40, 0, 8, 40), Segment(0, 45, 1, 0, 8, 360)), 0, 8)
TOKENS = (3, 0, 11, 3, 7, 5, 11)


def rows_spec(place: str) -> KernelSpec:
    more: dict[str, Parameter] = {"wave_size": WAVES[place]} if place in ARCHES else {}
    return spec("lora_rows", **ROWS_CASE.parameters(), **more)


@pytest.mark.parametrize("place", PLACES)
def test_rows_of_an_embedding_with_adapters(built: dict[str, Kernels | Gpu], place: str) -> None:
    """Two factors, each rounded once."""
    random, arrays = np.random.default_rng(1), ROWS_CASE.arrays()
    a = random.normal(0, 1, 12 * ROWS_CASE.ranks + 16).astype(np.float16)
    for scales in (SCALES, None):
        step = Step(len(ROWS), rows=ROWS, token_ids=TOKENS, adapter_scales=scales)
        low = np.full((len(ROWS), ROWS_CASE.ranks), FILLING)
        where, values = built[place], (a, arrays["table"], arrays["units"], low)
        if isinstance(where, Gpu):
            where.run(rows_spec(place), GridEntry(WAVES[place], 1, "adapted_tokens"), step, *values)
        else:
            where.run(rows_spec(place), step, *values, by_item=True)
        for row, (token, sequence) in enumerate(zip(TOKENS, ROWS, strict=True)):
            node = Node("lora_rows", (), "low", ("a", "table", "units", "scales"), {"adapters": ADAPTERS})
            of_sequence = np.zeros(ADAPTERS) if scales is None else scales[sequence].astype(np.float64)
            numbers = [a.astype(np.float64), arrays["table"], arrays["units"].astype(np.float64), of_sequence]
            (expected,) = OPERATIONS["lora_rows"].compute(node, [np.array([[token]])], numbers)
            used = np.array([of_sequence[one.adapter] != 0 for one in ROWS_CASE.segments for _ in range(one.ranks)])
            assert (low[row][~used] == FILLING).all()
            assert (np.abs(low[row] - expected)[used] <= 2.5 * ROUNDING * np.abs(expected[used])).all()


@pytest.mark.parametrize("place", PLACES)
def test_a_step_without_adapters_leaves_all_as_it_is(built: dict[str, Kernels | Gpu], place: str) -> None:
    case = CASES["two"]
    low, out = computed(built, place, case, replace(case.step(), adapter_scales=None))
    assert (low == FILLING).all()
    assert out.tobytes() == case.arrays()["out"].tobytes()
