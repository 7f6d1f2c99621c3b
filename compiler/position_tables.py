"""Tables by position that the compiler makes itself: cosines and sines of rotary positions, temperatures of attention.

From additions and multiplications in float64, which IEEE 754 fixes to the bit, where a number depends on the position:
library sines differ between machines, and a bundle must not. What powers and logarithms give is rounded to float32.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Final, Literal

from ..artifacts.dataclass import dataclass
from .arrays import np

if TYPE_CHECKING:
    import numpy.typing as npt

    Float32 = npt.NDArray[np.float32]
    Float64 = npt.NDArray[np.float64]

PACKINGS: Final = ("rope_table", "temperatures")
"""Packings of such tables."""


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How rotary frequencies are stretched for long contexts.

    Attributes:
        kind: "none"; "linear": all frequencies divided by `factor`; "factors": each divided by its own number
            from the tensor `rope_factors` (Llama 3.1 to 3.3), and by `factor`; "yarn": low ones divided by `factor`,
            high ones not, a ramp between; "longrope": each divided by its own number, from one tensor up to the
            original context, from another beyond it.
        factor: 1 where nothing else is said.
        original_context: tokens of context before the stretching; of "yarn" and "longrope".
        beta_fast: turns within the original context from which on "yarn" leaves a frequency as it is.
        beta_slow: and up to which it divides it by `factor`.
        log_multiplier: of "yarn", where the file has one: cosines and sines grow by the ratio of two magnitudes.
        attention_factor: by which cosines and sines are multiplied, beside what "yarn" itself does to them.
        divided: of "yarn": frequencies are divided by the numbers of `rope_factors` too.
    """

    kind: Literal["none", "linear", "factors", "yarn", "longrope"] = "none"
    factor: float = 1.0
    original_context: int = 0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    log_multiplier: float = 0.0
    attention_factor: float = 1.0
    divided: bool = False

    def magnitude(self) -> float:
        """Return what cosines and sines are multiplied by.

        Source: Peng et al.: "YaRN", section 3.4; with a multiplier, DeepSeek V2's modeling code.
        """
        if self.kind != "yarn" or self.factor <= 1:
            return self.attention_factor
        stretch = 0.1 * math.log(self.factor)
        divisor = self.log_multiplier * stretch + 1 if self.log_multiplier else 1.0
        return self.attention_factor * (stretch + 1) / divisor

    def yarn_shares(self, theta: float, pairs: int) -> Float64:
        """Return how much of each frequency "yarn" leaves as it is: float64[pairs], 1 where all of it.

        Source: Peng et al.: "YaRN", section 3.2; the ends of the ramp are whole pairs, as llama.cpp has them.
        """

        def pair(turns: float) -> float:
            return pairs * math.log(self.original_context / (turns * 2 * math.pi)) / math.log(theta)

        low = max(0, math.floor(pair(self.beta_fast)))
        high = min(2 * pairs - 1, math.ceil(pair(self.beta_slow)))
        ramp = (np.arange(pairs) - low) / max(0.001, high - low)
        return 1.0 - np.clip(ramp, 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class RopeTable:
    """Cosines and sines of rotary positions.

    Attributes:
        theta: base of the frequencies.
        dim: elements of a head that rotate; even.
        scaling: see `RopeScaling`.
        axes: of an image's patches, which rotate by two positions, half of the pairs by each: "": by one; `again`: both
            halves have the same frequencies; `turns`: each every other one.
    """

    packing: ClassVar[str] = "rope_table"
    theta: float
    dim: int
    scaling: RopeScaling = RopeScaling()
    axes: Literal["", "again", "turns"] = ""

    def shape(self, length: int) -> tuple[int, ...]:
        """Return the shape for so many positions."""
        return length, self.dim

    def factors_role(self, length: int) -> str:
        """Return the role of the tensor of divisors for a context of `length`; "" where there are none."""
        if self.scaling.kind == "longrope":
            return "rope_factors_long" if length > self.scaling.original_context else "rope_factors_short"
        return "rope_factors" if self.scaling.kind == "factors" or self.scaling.divided else ""

    def inverse_frequencies(self, factors: Float32 | None) -> Float32:
        """Return the angles, in radians, that one position turns each pair by: theta^(-2i / dim), scaled.

        Args:
            factors: float32[dim / 2] divisors, for the scaling kinds that have them; else None.

        Returns:
            float32[dim / 2].
        """
        exponents = -2.0 * np.arange(self.dim // 2, dtype=np.float64) / self.dim
        if self.axes:
            first, second = exponents[::2], exponents[1::2]
            exponents = np.concatenate([first, second if self.axes == "turns" else first])
        whole: Float64 = self.theta**exponents
        frequencies = whole / self.scaling.factor
        if self.scaling.kind == "yarn":
            shares = self.scaling.yarn_shares(self.theta, self.dim // 2)
            frequencies = frequencies * (1 - shares) + whole * shares
        if factors is not None:
            frequencies = frequencies / factors.astype(np.float64)
        return frequencies.astype(np.float32)

    def numbers(self, factors: Float32 | None, length: int) -> Float32:
        """Return cosines and sines of every position: float32[length, dim], cosines first."""
        frequencies = self.inverse_frequencies(factors).astype(np.float64)
        turns = np.arange(length, dtype=np.float64)[:, None] * frequencies * (1 / (2 * np.pi))
        turns -= np.floor(turns + 0.5)
        sines, cosines = _sine(turns), _sine(0.25 - np.abs(turns))
        magnitude = np.float64(np.float32(self.scaling.magnitude()))
        return (np.concatenate([cosines, sines], axis=1) * magnitude).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Temperatures:
    """What queries are multiplied by at each position: scale * ln(floor((position + offset) / length) + 1) + 1.

    Source: Llama 4's modeling code (offset 1), Mistral 3's (offset 0).
    """

    packing: ClassVar[str] = "temperatures"
    scale: float
    length: int
    offset: int = 0

    def shape(self, length: int) -> tuple[int, ...]:
        """Return the shape for so many positions."""
        return (length,)

    def factors_role(self, length: int) -> str:
        """Return that there are no divisors, as `RopeTable` has them."""
        return ""

    def numbers(self, factors: Float32 | None, length: int) -> Float32:
        """Return the number of every position: float32[length]."""
        steps = (np.arange(length) + self.offset) // self.length
        logarithms = np.array([math.log(step + 1) for step in range(int(steps[-1]) + 1)])
        return (self.scale * logarithms[steps] + 1).astype(np.float32)


PositionTable = RopeTable | Temperatures


def _sine(turns: Float64) -> Float64:
    """Return sin(2 pi t) for |t| <= 1/2: folded to |t| <= 1/4, then its Taylor series to t^21 (error below 1e-16)."""
    folded = np.where(np.abs(turns) > 0.25, np.sign(turns) * 0.5 - turns, turns)
    x = folded * (2 * np.pi)
    square = x * x
    series = np.full_like(x, 1.0)
    for n in range(20, 0, -2):
        series = 1.0 - series * square / (n * (n + 1))
    return x * series
