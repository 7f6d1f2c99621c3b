"""Targets as a table: what the plan and the build must know of each backend, arch and ISA level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from ..artifacts.dataclass import dataclass
from ..artifacts.errors import UsageError, printable
from ..artifacts.host import HOST_LEVELS
from ..artifacts.targets import GPU_ARCHES, GpuFeatures

GOLDEN_TOLERANCE: Final = 1.0
"""Targets and levels differ in roundings to int8 alone; how far that goes is derived in docs/gpu.md."""


@dataclass(frozen=True, slots=True)
class CodeVariant:
    """One code object of a target.

    Attributes:
        level: name of the ISA level; empty where the arch says it all.
        flags: compiler flags that select it, never `-march=native`.
        cpu_features: names as in /proc/cpuinfo that a machine must have to run it.
        file: name of the code object in the bundle.
        plain_flags: those of sources without `panels`, whose objects are another level's; None: they have `flags` too.
    """

    level: str
    flags: tuple[str, ...]
    cpu_features: tuple[str, ...]
    file: str
    plain_flags: tuple[str, ...] | None = None


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
        gpu: None for the host.
    """

    arch: str
    backend: str
    kv_block_size: int
    max_batch_tokens: int
    max_sequences: int
    golden_tolerance: float
    variants: tuple[CodeVariant, ...]
    gpu: GpuFeatures | None = None


_V4_FLAGS: Final = ("-march=x86-64-v4", "-mavx512vnni")
# clang calls libgcc for atomics of ARMv8.0 where it finds one on the machine that compiles, and nothing is linked.
_HOST_FLAGS: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "host": {
        "x86_64_amx": (*_V4_FLAGS, "-mamx-tile", "-mamx-int8"),
        "x86_64_v4": _V4_FLAGS,
        "x86_64_v3": ("-march=x86-64-v3",),
        "portable": (),
    },
    "aarch64": {
        level: ("--target=aarch64-linux-gnu", f"-march={march}", "-mno-outline-atomics")
        for level, march in (
            ("aarch64_i8mm", "armv8.2-a+dotprod+i8mm"),
            ("aarch64_dotprod", "armv8.2-a+dotprod"),
            ("aarch64", "armv8-a"),
        )
    },
}
"""Of each host target the compiler flags of its levels, best first."""

_PLAIN_FLAGS: Final = {"x86_64_amx": _V4_FLAGS}


def _host(arch: str) -> Target:
    return Target(
        arch=arch,
        backend="host",
        kv_block_size=16,
        max_batch_tokens=256,
        max_sequences=64,
        golden_tolerance=GOLDEN_TOLERANCE,
        variants=tuple(
            CodeVariant(level, flags, HOST_LEVELS[arch][level], f"code/host-{level}.so", _PLAIN_FLAGS.get(level))
            for level, flags in _HOST_FLAGS[arch].items()
        ),
    )


def _gpu(arch: str, features: GpuFeatures) -> Target:
    # Version 4 is what ROCm 5.7 and all later load; generic arches exist from version 6 on.
    version = 6 if arch.endswith("-generic") else 4
    flags = (f"--offload-arch={arch}", f"-mcode-object-version={version}")
    return Target(
        arch=arch,
        backend="hip",
        kv_block_size=16,
        max_batch_tokens=512,
        max_sequences=64,
        golden_tolerance=GOLDEN_TOLERANCE,
        variants=(CodeVariant("", flags, (), f"code/{arch}.hsaco"),),
        gpu=features,
    )


TARGETS: dict[str, Target] = {
    **{arch: _host(arch) for arch in _HOST_FLAGS},
    **{row.name: _gpu(row.name, row.features) for row in GPU_ARCHES.values() if row.features is not None},
}


def find_targets(archs: Sequence[str]) -> tuple[Target, ...]:
    """Return the rows of `archs`, each once, in their order.

    Raises:
        UsageError: one is unknown; the message lists those known.
    """
    for arch in archs:
        if arch not in TARGETS:
            raise UsageError(f"--arch {printable(arch)}: unknown target; known: {', '.join(TARGETS)}")
    return tuple(TARGETS[arch] for arch in dict.fromkeys(archs))
