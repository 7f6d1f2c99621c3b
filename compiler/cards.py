"""Named cards: what each could do at best, for the modelled times of `rfc inspect`. Nothing here was measured.

Source: AMD's product pages (data sheets) of each card, peak figures at the boost clock, dense.
"""

from __future__ import annotations

from ..artifacts.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU that one can buy.

    Attributes:
        arch: its gfx name.
        bandwidth: GB/s of its memory.
        compute_units: that are switched on.
        clock: GHz, boost.
        float32: peak TFLOP/s of vector float32, as AMD counts them (dual issue included on RDNA 3 and 4).
        int8: peak TOP/s of its matrix units on int8, or of dot products where it has none.
    """

    name: str
    arch: str
    bandwidth: float
    compute_units: int
    clock: float
    float32: float
    int8: float

    @property
    def vector_rate(self) -> float:
        """Return one-lane vector instructions a second: 64 lanes a compute unit and cycle, on RDNA and CDNA alike."""
        return self.compute_units * 64 * self.clock * 1e9


CARDS: tuple[Card, ...] = (
    Card("Radeon RX 7900 XTX", "gfx1100", 960, 96, 2.5, 61.4, 122.8),
    Card("Radeon RX 7900 XT", "gfx1100", 800, 84, 2.4, 51.5, 103.0),
    Card("Radeon RX 7800 XT", "gfx1101", 624, 60, 2.43, 37.3, 74.7),
    Card("Radeon RX 7600", "gfx1102", 288, 32, 2.655, 21.75, 43.5),
    Card("Radeon RX 9070 XT", "gfx1201", 640, 64, 2.97, 48.7, 389.0),
    Card("Radeon RX 9060 XT", "gfx1200", 320, 32, 3.13, 25.6, 205.0),
    Card("Radeon RX 6900 XT", "gfx1030", 512, 80, 2.25, 23.0, 92.2),
    Card("Instinct MI50", "gfx906", 1024, 60, 1.725, 13.3, 53.0),
    Card("Instinct MI100", "gfx908", 1229, 120, 1.502, 23.1, 184.6),
    Card("Instinct MI250X (one of two dies)", "gfx90a", 1638, 110, 1.7, 23.9, 191.5),
    Card("Instinct MI300X", "gfx942", 5300, 304, 2.1, 163.4, 2614.9),
    Card("Instinct MI350X", "gfx950", 8000, 256, 2.2, 144.2, 4614.0),
)


def cards_of(arch: str) -> tuple[Card, ...]:
    """Return the cards of one arch."""
    return tuple(card for card in CARDS if card.arch == arch)
