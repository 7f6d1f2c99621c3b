"""Programs on AMD's own libraries, and what ran on them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rocmforge.tests.support.process import environment
from rocmforge.tools.bench.server_process import ServerProcess, free_port
from rocmforge.tools.debian.amd_runtime import launch
from rocmforge.tools.debian.root import Root

SECONDS = 300.0  # after which a program is taken to hang


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
Compiled = Callable[..., Path]
