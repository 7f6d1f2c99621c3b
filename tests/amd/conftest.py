"""AMD's own libraries over an emulated driver, and bundles to run on them."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rocmforge.artifacts.errors import ToolchainError
from rocmforge.cli.compile import make_golden
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.compile import compile_model
from rocmforge.compiler.model import CompileOptions
from rocmforge.compiler.progress import PlainProgress
from rocmforge.tests.support.process import environment
from rocmforge.tools.bench.server_process import ServerProcess, free_port
from rocmforge.tools.debian.amd_runtime import describe, fetch_runtime, launch
from rocmforge.tools.debian.root import Root
from rocmforge.tools.generate.fixtures import write_model

SECONDS = 300.0  # after which a program is taken to hang
ALWAYS = "trixie"  # Debian's stable suite: what must always be had where Debian is


@dataclass(frozen=True, slots=True)
class Runtime:
    """AMD's libraries of one suite."""

    suite: str
    root: Root

    def popen(self, gpus: str, *command: object, **changes: str) -> tuple[list[str], dict[str, str]]:
        """Command line and environment of a program on these libraries."""
        started = launch(self.root, gpus.split(","), [str(part) for part in command])
        added = {name: value for name, value in started.environment.items() if os.environ.get(name) != value}
        return list(started.command), environment() | added | {"ROCMFORGE_KFD_LOG": str(FIGURES.log)} | changes

    def run(
        self, gpus: str, *command: object, seconds: float = SECONDS, **changes: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end."""
        words, variables = self.popen(gpus, *command, **changes)
        return subprocess.run(
            words, env=variables, capture_output=True, text=True, timeout=seconds, stdin=subprocess.DEVNULL, check=False
        )

    @contextlib.contextmanager
    def serving(self, gpus: str, *arguments: object, **changes: str) -> Iterator[ServerProcess]:
        """`rfc serve` on these libraries, for a while; it must end with 0 and without a traceback."""
        port = free_port()
        words, variables = self.popen(gpus, "rfc", "serve", *arguments, "--addr", f"127.0.0.1:{port}", **changes)
        with ServerProcess(words, port, environment=variables) as server:
            yield server
            assert server.stop() == 0, server.log()[-3000:]
            assert "Traceback" not in server.log(), server.log()[-3000:]


class Figures:
    """What ran in this session, for the end of pytest's report."""

    def __init__(self) -> None:
        self.versions: dict[str, str] = {}
        self.calls: Counter[str] = Counter()
        self.of_others: list[str] = []
        self._folder = tempfile.TemporaryDirectory()
        self.log = Path(self._folder.name, "kernels")  # the emulated driver writes a line for each

    def lines(self) -> Iterator[str]:
        """For people."""
        yield from (f"{suite}: {versions}" for suite, versions in self.versions.items())
        if self.log.exists():
            rows = [line.rsplit(maxsplit=1)[-1] for line in self.log.read_text("utf-8").splitlines()]
            yield f"{len(rows)} kernels dispatched, {sum(map(float, rows)):.1f} s in them"
        if self.calls:
            yield "HIP calls of the scenarios: " + ", ".join(f"{n} {name}" for name, n in self.calls.most_common())


FIGURES = Figures()


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
    """The libraries of a suite; where they are not to be had, Debian's stable ones fail the test on Debian, and
    others skip it."""
    try:
        root = fetch_runtime(suite)
    except ToolchainError as error:
        if suite == ALWAYS and os.path.exists("/etc/debian_version") and shutil.which("apt-get"):
            pytest.fail(f"AMD's libraries are not to be had: {error}")
        pytest.skip(f"AMD's libraries are not to be had: {error}")
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


Compiled = Callable[..., Path]


@pytest.fixture(scope="session")
def compiled(build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """Compiles a model for some arches."""

    def make(model: Path, *arches: str, toolchain: str = "zig", name: str = "") -> Path:
        goal = tmp_path_factory.mktemp("bundle") / f"{name or model.stem}.rfb"
        with PlainProgress() as progress:
            options = CompileOptions(model, goal, arches, toolchain=toolchain)
            compile_model(options, build_cache, progress, make_golden)
        return goal

    return make


@pytest.fixture(scope="session")
def small_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two layers."""
    return write_model(tmp_path_factory.mktemp("small") / "small.gguf", context_length=1024)


@pytest.fixture(scope="session")
def small(compiled: Compiled, small_gguf: Path) -> Path:
    """It, for gfx1100 and gfx942."""
    return compiled(small_gguf, "gfx1100", "gfx942", "host")


@pytest.fixture(scope="session")
def smollm2_gpu(compiled: Compiled, smollm2_gguf: Path) -> Path:
    """SmolLM2 for the same."""
    return compiled(smollm2_gguf, "gfx1100", "gfx942", "host", name="smollm2")
