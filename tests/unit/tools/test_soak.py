"""The soak's judge: what grows must be told, what only scatters must not."""

from __future__ import annotations

import random

import pytest

from rocmforge.tools.bench.server_process import Held
from rocmforge.tools.bench.soak import Sample, check_flat, growth


def samples(memory: list[float]) -> list[Sample]:
    return [Sample(Held(2 * value, value, 12, 20), 0) for value in memory]


def noise(seed: int, count: int, scale: float) -> list[float]:
    chooser = random.Random(seed)
    return [100 + chooser.gauss(0, scale) for _ in range(count)]


@pytest.mark.parametrize("seed", range(5))
def test_scatter_is_not_growth(seed: int) -> None:
    # The limit is 2 MiB and 3 standard errors: fixed seeds, so a pass is a pass for ever.
    assert check_flat(samples(noise(seed, 120, 3.0))) == []


@pytest.mark.parametrize("seed", range(5))
def test_a_leak_is_told(seed: int) -> None:
    # 12 MiB over the run: the thirds' middles are two thirds of it apart, 8 MiB. The standard error of medians of 40
    # samples of scatter 3 is 1.25 x 3 x sqrt(2 / 40) = 0.84, so 8 is above 2 + 3 x 0.84 = 4.5 by four of them.
    memory = [value + 12 * index / 120 for index, value in enumerate(noise(seed, 120, 3.0))]
    assert [problem.split(":")[0] for problem in check_flat(samples(memory))] == ["memory"]


def test_growth_of_a_line_is_exact() -> None:
    rise, error = growth([float(index) for index in range(9)])
    assert (rise, error) == (6.0, 0.0)
    with pytest.raises(ValueError, match="at least 6"):
        growth([1.0] * 5)


@pytest.mark.parametrize(
    ("last", "name"),
    [
        (Sample(Held(200.0, 100.0, 13, 20), 0), "descriptors"),
        (Sample(Held(200.0, 100.0, 12, 21), 0), "threads"),
        (Sample(Held(200.0, 100.0, 12, 20), 1), "pages"),
    ],
    ids=["descriptor", "thread", "page"],
)
def test_one_too_many_is_told(last: Sample, name: str) -> None:
    found = check_flat([*samples([100.0] * 11), last])
    assert [problem.split(":")[0] for problem in found] == [name]
