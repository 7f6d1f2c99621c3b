"""AMD's own libraries over an emulated driver, and bundles to run on them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rocmforge.artifacts.errors import ToolchainError
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.compile import compile_model
from rocmforge.compiler.model import CompileOptions
from rocmforge.compiler.progress import PlainProgress
from rocmforge.library.compilation import make_golden
from rocmforge.tests.amd.runtime import FIGURES, Compiled, Runtime
from rocmforge.tests.support.once import made_once
from rocmforge.tests.support.programs import LEVELS, building_levels
from rocmforge.tools.debian.amd_runtime import describe, fetch_runtime
from rocmforge.tools.generate.architecture_models import write_architecture
from rocmforge.tools.generate.draft_models import agree, write_drafting
from rocmforge.tools.generate.fixtures import write_model
from rocmforge.tools.generate.vision_models import write_mmproj
from rocmforge.tools.generate.vision_oracle.pictures import compile_seeing

BOTH = ("gfx1100", "gfx942", "host")
ALWAYS = "trixie"  # Debian's stable suite: what must always be had where Debian is


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where several processes run the tests: tell the first."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["amd"] = list(FIGURES.lines())


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """What one of them told."""
    FIGURES.of_others += getattr(node, "workeroutput", {}).get("amd", [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Versions and figures."""
    lines = [*FIGURES.of_others, *FIGURES.lines()]
    if lines:
        terminalreporter.section("AMD's runtime")
        for line in lines:
            terminalreporter.line(line)


def runtime_of(suite: str) -> Runtime:
    """The libraries of a suite; where they are unavailable, Debian's stable ones fail the test on Debian, and
    others skip it."""
    try:
        root = fetch_runtime(suite)
    except ToolchainError as error:
        if suite == ALWAYS and os.path.exists("/etc/debian_version") and shutil.which("apt-get"):
            pytest.fail(f"AMD's libraries are unavailable: {error}")
        pytest.skip(f"AMD's libraries are unavailable: {error}")
    FIGURES.versions[suite] = describe(root)
    return Runtime(suite, root)


@pytest.fixture(scope="session")
def trixie() -> Runtime:
    """HIP 5.7.1, ROCr 6.1.2."""
    return runtime_of("trixie")


@pytest.fixture(scope="session")
def sid() -> Runtime:
    """HIP 6.4.3, or what sid has become."""
    return runtime_of("sid")


@pytest.fixture(scope="session")
def experimental() -> Runtime:
    """HIP 7.2.4, or what experimental has become."""
    return runtime_of("experimental")


@pytest.fixture(scope="session")
def compiled(build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """Compiles a model for some arches; for the host, as `building_levels` takes them, at its last level."""

    def make(
        model: Path,
        *arches: str,
        toolchain: str = "zig",
        name: str = "",
        goal: Path | None = None,
        levels: tuple[str, ...] = LEVELS[-1:],
        flags: Mapping[str, str] | None = None,
    ) -> Path:
        goal = goal or tmp_path_factory.mktemp("bundle") / f"{name or model.stem}.rfb"
        with PlainProgress() as progress, building_levels(levels, flags):
            options = CompileOptions(model, goal, arches, toolchain=toolchain)
            compile_model(options, build_cache, progress, make_golden)
        return goal

    return make


@pytest.fixture(scope="session")
def small_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two layers."""
    return write_model(tmp_path_factory.mktemp("small") / "small.gguf", context_length=1024)


@pytest.fixture(scope="session")
def small(compiled: Compiled, small_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It, for gfx1100 and gfx942."""

    def make(goal: Path) -> None:
        compiled(small_gguf, *BOTH, goal=goal)

    return made_once(tmp_path_factory, "gpu/small.rfb", make)


@pytest.fixture(scope="session")
def smollm2_gpu(compiled: Compiled, smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2 for the same."""

    def make(goal: Path) -> None:
        compiled(smollm2_gguf, *BOTH, goal=goal, levels=LEVELS, flags={})  # others have built those too

    return made_once(tmp_path_factory, "gpu/smollm2.rfb", make)


@pytest.fixture(scope="session")
def drafting(compiled: Compiled, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hybrid with a block that drafts what the model says itself, for the same."""

    def make(goal: Path) -> None:
        path = write_drafting(tmp_path_factory.mktemp("drafting") / "model.gguf", "qwen35", context=64)
        agree(path)
        compiled(path, *BOTH, goal=goal)

    return made_once(tmp_path_factory, "gpu/drafting.rfb", make)


@pytest.fixture(scope="session")
def seeing(build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose positions have several axes and whose pictures reach its first layers, with eyes; for the same."""

    def make(goal: Path) -> None:
        folder = tmp_path_factory.mktemp("seeing")
        text = write_architecture(folder / "model.gguf", "qwen3vl", whole=True, num_layers=3)
        eyes = write_mmproj(folder / "eyes.gguf", "qwen3vl_merger")
        with building_levels(LEVELS[-1:]):
            compile_seeing(text, eyes, goal, BOTH, build_cache)

    return made_once(tmp_path_factory, "gpu/seeing.rfb", make)
