"""What a step costs on a GPU, counted on the emulator, and the time that follows for named cards: a model.

Nothing is measured. For each kernel: bytes are 128-byte lines fetched once a launch, over the card's bandwidth;
instructions are vector instructions of all lanes over the card's rate, plus matrix operations over its int8 peak; the
larger of the two is the kernel's time. What it leaves out: gaps between launches, caches that hold weights, clocks that
fall, waves too few to fill the card.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rocmforge.compiler.cards import Card
from rocmforge.tools.emulator import KernelCounters

LINE_BYTES = 128
MATRIX_OPERATIONS = {32: 2 * 16 * 16 * 16, 64: 2 * 32 * 32 * 16}  # of one instruction, by wave size


@dataclass(frozen=True, slots=True)
class KernelCost:
    """One kernel over all its launches of a step.

    Attributes:
        loaded: bytes that its loads fetch from memory when each line is fetched once a launch.
        stored: bytes that it writes, alike.
        transactions: 128-byte lines of weight loads, and `full_transactions` those touched in full.
        vector_instructions: of waves, dot products included.
        matrix_instructions: of waves.
    """

    name: str
    launches: int
    loaded: int
    stored: int
    transactions: int
    full_transactions: int
    vector_instructions: int
    matrix_instructions: int
    wave_size: int

    def memory_seconds(self, card: Card) -> float:
        """Time that its bytes take."""
        return (self.loaded + self.stored) / (card.bandwidth * 1e9)

    def compute_seconds(self, card: Card) -> float:
        """Time that its vector and matrix instructions take."""
        vector = self.vector_instructions * self.wave_size / card.vector_rate
        return vector + self.matrix_instructions * MATRIX_OPERATIONS[self.wave_size] / (card.int8 * 1e12)


@dataclass(frozen=True, slots=True)
class StepCost:
    """A whole step; `tokens` that it computes, and the `least_bytes` that any way of computing them must read."""

    tokens: int
    least_bytes: int
    kernels: tuple[KernelCost, ...]

    @property
    def loaded(self) -> int:
        """Bytes fetched."""
        return sum(kernel.loaded for kernel in self.kernels)

    @property
    def full_share(self) -> float:
        """Of the transactions of weight loads, the share that is full."""
        total = sum(kernel.transactions for kernel in self.kernels)
        return sum(kernel.full_transactions for kernel in self.kernels) / total if total else 1.0

    def seconds(self, card: Card) -> float:
        """Modelled time."""
        return sum(max(kernel.memory_seconds(card), kernel.compute_seconds(card)) for kernel in self.kernels)

    def memory_bound(self, card: Card) -> bool:
        """Whether bytes, not instructions, take the more time over the step."""
        memory = sum(kernel.memory_seconds(card) for kernel in self.kernels)
        return memory >= sum(kernel.compute_seconds(card) for kernel in self.kernels)


def step_cost(
    counters: Mapping[str, KernelCounters], tokens: int, least_bytes: int, wave_size: int, weights: str
) -> StepCost:
    """What the emulator counted in one step.

    Args:
        counters: by kernel, of this step alone.
        tokens: that the step computed.
        least_bytes: weights and KV pages that it had to read.
        wave_size: of the arch.
        weights: label of the allocation that holds the weights.
    """
    return StepCost(
        tokens,
        least_bytes,
        tuple(_kernel_cost(name, c, wave_size, weights) for name, c in sorted(counters.items()) if c.launches),
    )


def _kernel_cost(name: str, counted: KernelCounters, wave_size: int, weights: str) -> KernelCost:
    found = counted.by_allocation.get(weights)
    return KernelCost(
        name=name,
        launches=counted.launches,
        loaded=counted.loads.distinct_lines * LINE_BYTES,
        stored=counted.stores.distinct_lines * LINE_BYTES,
        transactions=found[0].transactions if found else 0,
        full_transactions=found[0].full_transactions if found else 0,
        vector_instructions=counted.instructions["valu"] + counted.instructions["dot"],
        matrix_instructions=counted.instructions["matrix"],
        wave_size=wave_size,
    )
