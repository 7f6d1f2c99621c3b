"""What a step costs on a GPU, counted on the emulator, and the time that follows for named cards: a model.

Nothing is measured. For each kernel: bytes are 128-byte lines fetched once a launch, over the card's bandwidth;
instructions are vector instructions of all lanes over the card's rate, plus matrix operations over its int8 peak; the
larger of the two is the kernel's time. What it leaves out: gaps between launches, caches that hold weights, clocks that
fall, waves too few to fill the card.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from rocmforge.artifacts.bundle import Bundle, open_bundle
from rocmforge.artifacts.errors import UsageError
from rocmforge.compiler.cards import Card, cards_of
from rocmforge.compiler.target import TARGETS
from rocmforge.runtime.device.hip.open_program import load_hip_program
from rocmforge.runtime.device.hip.program import HipProgram
from rocmforge.runtime.device.memory import KvSize
from rocmforge.runtime.device.solo import Solo
from rocmforge.tools.emulator import HipEmulator, KernelCounters

LINE_BYTES = 128
PREFILL_TOKENS = 512
WEIGHTS = "weights"
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


def _step(program: HipProgram, solo: Solo, start: int, count: int) -> None:
    ids = [(7919 * index) % program.layout.vocab_size for index in range(count)]
    program.step(solo.batch(ids, start, program.num_blocks))


def count_steps(bundle: Bundle, arch: str, prefill_tokens: int = PREFILL_TOKENS) -> tuple[StepCost, StepCost]:
    """A prefill of `prefill_tokens`, then one decoded token, on an emulated device.

    Returns:
        the costs of both, prefill first.
    Raises:
        UsageError: the emulator has no such arch.
    """
    features = TARGETS[arch].gpu if arch in TARGETS else None
    if features is None:
        raise UsageError(f"--arch {arch}: expected a GPU")
    emulator = HipEmulator(arch, check=False)
    layout = next(bundle.layout_of(target) for target in bundle.manifest.targets if target.arch == arch)
    tokens = min(prefill_tokens, layout.max_batch_tokens, layout.max_seq_len - 1)
    blocks = -(-(tokens + 1) // layout.kv.block_size)
    program = load_hip_program(bundle, emulator, KvSize(blocks, tokens + 1), nodes=None, report=str)
    try:
        emulator.label(program.allocations()["weights"], WEIGHTS)
        weights = sum(entry.n_bytes for entry in layout.tensors if entry.packing != "rope_table")
        kv_per_token = layout.kv.bytes_per_block // layout.kv.block_size
        emulator.reset_counters()
        solo = Solo(program.layout)
        _step(program, solo, 0, tokens)
        prefill = step_cost(emulator.counters(), tokens, weights + tokens * kv_per_token, features.wave_size, WEIGHTS)
        emulator.reset_counters()
        _step(program, solo, tokens, 1)
        least = weights + (tokens + 1) * kv_per_token
        return prefill, step_cost(emulator.counters(), 1, least, features.wave_size, WEIGHTS)
    finally:
        program.close()


def roofline(bundle: Bundle, arch: str, prefill_tokens: int = PREFILL_TOKENS) -> Iterator[str]:
    """Lines for people: `count_steps`, and the time that follows on named cards."""
    prefill, decode = count_steps(bundle, arch, prefill_tokens)
    yield f"{arch}, counted on the emulator, a decoded token after {prefill.tokens}:"
    ratio = decode.loaded / decode.least_bytes
    yield (
        f"  reads {decode.loaded / 1e6:.1f} MB, {ratio:.3f} times the least possible; "
        f"{decode.full_share:.1%} of weight transactions full"
    )
    for kernel in sorted(decode.kernels, key=lambda kernel: -kernel.loaded)[:8]:
        lanes = kernel.vector_instructions * kernel.wave_size / max(kernel.loaded, 1)
        size = f"{kernel.loaded / 1e6:>8.3f} MB, {lanes:.2f} lane operations a byte"
        yield f"  {kernel.launches:>4} x {kernel.name:<40} {size}"
    yield "modelled, not measured: no launch gaps, every wave slot filled"
    for card in cards_of(arch):
        bound = "memory" if decode.memory_bound(card) else "compute"
        yield (
            f"  {card.name}: decode {1 / decode.seconds(card):,.0f} tokens/s ({bound}-bound), "
            f"prefill {prefill.tokens / prefill.seconds(card):,.0f} tokens/s"
        )


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.option("--arch", default="gfx1100", show_default=True)
@click.option("--tokens", default=PREFILL_TOKENS, show_default=True, help="Of the prefill.")
def main(bundle: Path, arch: str, tokens: int) -> None:
    """Print the roofline of a bundle's code for one arch."""
    with open_bundle(bundle) as opened:
        for line in roofline(opened, arch, tokens):
            click.echo(line)


if __name__ == "__main__":
    main()
