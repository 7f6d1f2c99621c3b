"""Targets as a table: what the plan and the build must know of each backend, arch and ISA level."""

from __future__ import annotations

from dataclasses import dataclass

from ..artifacts.errors import UsageError
from ..artifacts.host import LEVEL_FEATURES


@dataclass(frozen=True, slots=True)
class CodeVariant:
    """One code object of a target.

    Attributes:
        level: name of the ISA level; also the file name, `code/<arch>-<level>.so`.
        flags: compiler flags that select it, never `-march=native`.
        cpu_features: names as in /proc/cpuinfo that a machine must have to run it.
    """

    level: str
    flags: tuple[str, ...]
    cpu_features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Target:
    """A place where a bundle's code can run.

    Attributes:
        arch: the name that `--arch` takes.
        backend: folder of its templates and kernels; which toolchain driver builds it.
        kv_block_size: positions in a page of the KV cache.
        max_batch_tokens: tokens of one step; bounds the arena.
        max_sequences: rows of logits of one step; bounds the arena.
        golden_tolerance: largest difference of a logit from the golden record, in logits.
        variants: code objects, best first.
    """

    arch: str
    backend: str
    kv_block_size: int
    max_batch_tokens: int
    max_sequences: int
    golden_tolerance: float
    variants: tuple[CodeVariant, ...]


TARGETS: dict[str, Target] = {
    target.arch: target
    for target in (
        Target(
            arch="host",
            backend="host",
            kv_block_size=16,
            max_batch_tokens=256,
            max_sequences=64,
            # Levels differ in the order of int8 roundings alone: a quantum here and there.
            golden_tolerance=0.5,
            variants=(
                CodeVariant("x86_64_v4", ("-march=x86-64-v4", "-mavx512vnni"), LEVEL_FEATURES["x86_64_v4"]),
                CodeVariant("x86_64_v3", ("-march=x86-64-v3",), LEVEL_FEATURES["x86_64_v3"]),
                CodeVariant("portable", (), LEVEL_FEATURES["portable"]),
            ),
        ),
    )
}


def find_target(arch: str) -> Target:
    """The row of `arch`.

    Raises:
        UsageError: there is none; the message lists those known.
    """
    target = TARGETS.get(arch)
    if target is None:
        raise UsageError(f"--arch {arch}: unknown target; known: {', '.join(TARGETS)}")
    return target
