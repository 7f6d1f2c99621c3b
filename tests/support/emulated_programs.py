"""Programs of small models on emulated GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rocmforge.artifacts.bundle import Bundle, open_bundle
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.compile import compile_model
from rocmforge.compiler.model import CompileOptions
from rocmforge.compiler.progress import PlainProgress
from rocmforge.library.compilation import make_golden
from rocmforge.runtime.device.batch import Program
from rocmforge.runtime.device.hip.open_program import load_hip_program
from rocmforge.runtime.device.hip.program import HipProgram
from rocmforge.runtime.device.memory import KvSize
from rocmforge.runtime.device.solo import Solo
from rocmforge.tests.support.programs import building_levels
from rocmforge.tools.emulator import HipEmulator

ARCHES = ("gfx1100", "gfx1201", "gfx942")


def ignore(_line: str) -> None:
    """Which device is taken is no news here."""


def compiled(
    path: Path,
    cache: BuildCache,
    goal: Path,
    archs: tuple[str, ...] = (*ARCHES, "host"),
    levels: tuple[str, ...] = ("portable",),
    flags: Mapping[str, str] | None = None,
) -> Bundle:
    """`levels` and `flags` of the host as `building_levels` takes them."""
    options = CompileOptions(path, goal, archs, toolchain="zig")
    with PlainProgress() as progress, building_levels(levels, flags):
        compile_model(options, cache, progress, make_golden)
    return open_bundle(goal)


def load(bundle: Bundle, arch: str, blocks: int = 64, checked: bool = True) -> HipProgram:
    return load_hip_program(
        bundle, HipEmulator(arch, check=checked, count=checked), KvSize(blocks, 64), nodes=None, report=ignore
    )


def greedy(program: Program, token_ids: list[int], count: int) -> list[int]:
    """`count` tokens that the program itself samples."""
    tokens, start, solo = list(token_ids), 0, Solo(program.layout)
    for _ in range(count):
        fresh = tokens[start:]
        batch = solo.batch(fresh, start, 4)
        start = len(tokens)
        tokens.append(int(program.step(batch)[0]))
    return tokens[len(token_ids) :]
