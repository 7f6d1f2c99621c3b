"""Tables by position, against the papers' formulas written out number by number."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rocmforge.compiler.position_tables import RopeScaling, RopeTable, Temperatures

YARN = RopeScaling("yarn", 4.0, original_context=256, beta_fast=8.0)


def yarn_frequency(pair: int, dim: int, theta: float, scaling: RopeScaling) -> float:
    """Of one pair: by how often it turns within the original context."""

    def pair_of(turns: float) -> float:
        return dim * math.log(scaling.original_context / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = math.floor(pair_of(scaling.beta_fast)), math.ceil(pair_of(scaling.beta_slow))
    whole = math.pow(theta, -2 * pair / dim)
    if pair <= low:
        return whole
    if pair >= high:
        return whole / scaling.factor
    share = (pair - low) / (high - low)
    return whole * (1 - share) + whole / scaling.factor * share


def test_yarn_leaves_high_frequencies_and_divides_low_ones() -> None:
    table = RopeTable(10000.0, 64, YARN)
    expected = [yarn_frequency(pair, 64, 10000.0, YARN) for pair in range(32)]
    found = table.inverse_frequencies(None)
    np.testing.assert_allclose(found, expected, rtol=2.0**-23)
    plain = RopeTable(10000.0, 64).inverse_frequencies(None)
    ratios = plain / found
    assert ratios[0] == 1.0
    assert ratios[-1] == pytest.approx(4.0)
    assert ((ratios > 1.01) & (ratios < 3.99)).any()


@pytest.mark.parametrize(
    "scaling, magnitude",
    [
        (RopeScaling(), 1.0),
        (RopeScaling("longrope", attention_factor=1.19), 1.19),
        (YARN, 0.1 * math.log(4) + 1),
        (RopeScaling("yarn", 1.0, 256), 1.0),
        (RopeScaling("yarn", 4.0, 256, log_multiplier=1.0), 1.0),
        (RopeScaling("yarn", 4.0, 256, log_multiplier=0.5), (0.1 * math.log(4) + 1) / (0.05 * math.log(4) + 1)),
        (RopeScaling("yarn", 4.0, 256, attention_factor=2.0), 0.2 * math.log(4) + 2),
    ],
)
def test_cosines_and_sines_have_the_magnitude(scaling: RopeScaling, magnitude: float) -> None:
    table = RopeTable(10000.0, 8, scaling).numbers(None, 50).astype(np.float64)
    np.testing.assert_allclose(np.hypot(table[:, :4], table[:, 4:]), magnitude, rtol=2.0**-22)


def test_longrope_has_other_divisors_beyond_the_original_context() -> None:
    table = RopeTable(10000.0, 8, RopeScaling("longrope", original_context=128))
    assert [table.factors_role(length) for length in (127, 128, 129)] == [
        "rope_factors_short", "rope_factors_short", "rope_factors_long",
    ]  # fmt: skip
    assert RopeTable(1e4, 8, RopeScaling("factors")).factors_role(1) == "rope_factors"
    assert RopeTable(1e4, 8, YARN).factors_role(1) == ""
    factors = np.array([1, 2, 4, 8], np.float32)
    np.testing.assert_allclose(
        table.inverse_frequencies(factors), 10000.0 ** (-np.arange(4) / 4) / factors, rtol=2.0**-23
    )


@pytest.mark.parametrize("offset", [0, 1])
def test_temperatures(offset: int) -> None:
    found = Temperatures(0.1, 8192, offset).numbers(None, 20000)
    assert found.dtype == np.float32
    for position in (0, 8190, 8191, 8192, 16382, 16383, 16384, 19999):
        expected = 0.1 * math.log((position + offset) // 8192 + 1) + 1
        assert found[position] == np.float32(expected), position
    assert len(set(found.tolist())) == 3
