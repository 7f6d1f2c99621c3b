"""What is known of cards: their figures must agree with each other."""

from __future__ import annotations

import pytest

from rocmforge.compiler.cards import CARDS, Card, cards_of
from rocmforge.compiler.target import TARGETS

# Operations of a lane and cycle as AMD counts its peak of float32: a product and a sum, and both of them twice where
# the card issues two at once (RDNA 3 and 4) or takes packed pairs (CDNA 3 and 4).
SINGLE = ("gfx906", "gfx908", "gfx90a", "gfx1030")


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_the_peak_is_that_of_its_lanes(card: Card) -> None:
    """AMD rounds clocks and peaks to three digits."""
    expected = card.vector_rate * (2 if card.arch in SINGLE else 4)
    assert card.float32 * 1e12 == pytest.approx(expected, rel=0.005)
    assert card.arch in TARGETS
    cycles = card.float32 * 1e12 / (card.vector_rate * (2 if card.arch in SINGLE else 4))
    assert round(card.compute_units * cycles) == card.compute_units  # not one unit more or less


# Peak of int8 over that of float32: dot products of four on RDNA 2 and Vega, matrix units elsewhere.
INT8 = {
    **{"gfx906": 4, "gfx908": 8, "gfx90a": 8, "gfx942": 16, "gfx950": 32, "gfx1030": 4},
    **{"gfx1100": 2, "gfx1101": 2, "gfx1102": 2, "gfx1200": 8, "gfx1201": 8},
}


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_the_peak_of_int8_is_a_multiple_of_that_of_float32(card: Card) -> None:
    assert card.int8 == pytest.approx(card.float32 * INT8[card.arch], rel=0.005)


def test_the_cards_of_an_arch() -> None:
    assert [card.name for card in cards_of("gfx1100")] == ["Radeon RX 7900 XTX", "Radeon RX 7900 XT"]
    assert [card.name for card in cards_of("gfx906")] == ["Instinct MI50"]
    assert cards_of("host") == ()
    assert {card.arch for card in CARDS} == set(INT8)
    assert len(CARDS) == len({card.name for card in CARDS}) == 12
