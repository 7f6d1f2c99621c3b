"""What is known of cards: their figures must agree with each other."""

from __future__ import annotations

import pytest

from rocmforge.compiler.cards import CARDS, Card
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
