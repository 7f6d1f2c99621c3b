"""What each kernel of a step takes on the host: launches run one by one, and each is timed."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from ..artifacts.arguments import BufferRef
from ..artifacts.dataclass import dataclass
from ..artifacts.layout import Layout
from .device.host import HostProgram
from .device.solo import Solo


@dataclass(frozen=True, slots=True)
class KernelTime:
    """What all launches of a kernel in a step take, medians over the rounds.

    Attributes:
        step: `decode` or `prefill`.
        kernel: its symbol.
        launches: of the step.
        milliseconds: of all of them.
        share: of all kernels' time.
        gigabytes: of weights a second, where it decodes.
        gigaoperations: with weights, a second.
        bandwidth_share: as `Figure` has it.
    """

    step: str
    kernel: str
    launches: int
    milliseconds: float
    share: float
    gigabytes: float | None
    gigaoperations: float
    bandwidth_share: float | None


def token_ids(count: int, vocab_size: int) -> list[int]:
    """Return token ids that repeat nothing."""
    return [(7919 * index) % vocab_size for index in range(count)]


def kernel_times(
    program: HostProgram, rows: Mapping[str, Mapping[str, Any]], prompt: int, rounds: int, bandwidth: float
) -> list[KernelTime]:
    """Return the times of a step that decodes one token, and of a prompt's, each the longest first.

    Args:
        program: that is to itself.
        rows: of the bundle's table of kernels, by symbol.
        prompt: tokens, of which a step takes as many as it holds.
        rounds: samples.
        bandwidth: bytes a second that memory gives; 0: not known.
    """
    layout = program.layout
    prefilled = min(prompt, layout.max_batch_tokens)
    decode = _step_times("decode", program, 1, rounds, rows, bandwidth)
    return decode + _step_times("prefill", program, prefilled, rounds, rows, 0.0)


def _step_times(
    step: str, program: HostProgram, count: int, rounds: int, rows: Mapping[str, Mapping[str, Any]], bandwidth: float
) -> list[KernelTime]:
    layout, samples = program.layout, defaultdict[str, list[float]](list)
    tokens = token_ids(count, layout.vocab_size)
    for _ in range(rounds + 1):
        seconds: list[float] = []
        program.step(Solo(layout).batch(tokens, 0, all_outputs=layout.both_ways), seconds)
        totals: dict[str, float] = defaultdict(float)
        for entry, one in zip(layout.launches, seconds, strict=True):
            totals[entry.kernel] += one
        for name, total in totals.items():
            samples[name].append(total)
    medians = {name: statistics.median(values[1:]) for name, values in samples.items()}  # the first touches pages
    whole, of_outputs = sum(medians.values()), kernels_of_outputs(layout, rows.values())
    found = []
    for name, median in sorted(medians.items(), key=lambda one: -one[1]):
        row = rows.get(name, {})
        n_bytes = int(row.get("weight_bytes_per_step", 0)) if count == 1 else 0
        operations = int(row.get("operations_per_token", 0)) * (1 if name in of_outputs else count)
        found.append(
            KernelTime(
                step,
                name,
                sum(entry.kernel == name for entry in layout.launches),
                1e3 * median,
                median / whole,
                n_bytes / median / 1e9 if n_bytes else None,
                operations / median / 1e9,
                n_bytes / median / bandwidth if n_bytes and bandwidth else None,
            )
        )
    return found


def kernels_of_outputs(layout: Layout, rows: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return those whose launches are for tokens of which outputs are read, of which these steps have one.

    Args:
        layout: of the program; of an encoder outputs of all tokens are.
        rows: of the bundle's table of kernels.
    """
    logits = BufferRef(layout.find_sampler().logits)
    of_logits = {entry.kernel for entry in layout.launches if logits in entry.arguments}
    if layout.both_ways:
        return of_logits
    return of_logits | {str(row["symbol"]) for row in rows if row["parameters"].get("at_output_rows")}
