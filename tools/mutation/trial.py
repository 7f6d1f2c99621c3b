"""Runs tests on a copy of the tree, whole or with one mutation in it."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NoReturn

import pytest

from .mutation import Mutation

_NO_COMPILE: Final = re.compile(
    r"ToolchainError: .*(failed \(\d+\)|its own C does not compile)|UndefinedError|TemplateSyntaxError"
)
_BROKEN: Final = 100
_SOUND_SECONDS: Final = 1800.0
_LIBRARIES: Final = (
    *("falcon.testing", "gguf", "hypothesis", "jinja2", "llguidance", "msgpack", "msgspec", "numpy"),
    *("opentelemetry.sdk.trace", "prometheus_client", "regex", "requests", "rich.progress", "tokenizers", "waitress"),
)
_BUILDS: Final = re.compile(r"compiler/(build|toolchain|host_tool|hip_tool|guarded_folder)|tools/emulator/library")
_DERIVED: Final = ("golden", "bundles")  # made by running what may be mutated
_FAILED: Final = re.compile(r"^(?:FAILED|ERROR) (tests/[^\s\[]+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How tests went.

    Attributes:
        kind: survived, killed, timeout, or no compile.
        seconds: of processors that they took.
        by: the test that failed first.
    """

    kind: str
    seconds: float
    by: str = ""


class Copy:
    """The tree's files in a folder of their own, by the package's name: there `import rocmforge` finds them first."""

    def __init__(self, root: Path, folder: Path, cache: Path) -> None:
        """Copy what git knows or would know.

        Args:
            root: the tree.
            folder: for the copy, empty.
            cache: of what compilers have made, kept: its keys hold all that decides it, save what builds it.
        """
        command = ("git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard")
        for library in _LIBRARIES:
            importlib.import_module(library)
        names = subprocess.run(command, capture_output=True, check=True).stdout.decode().split("\0")
        self._folder, self._cache, self.root = folder, cache, folder / "rocmforge"
        self._sound: dict[str, bool] = {}
        for name in filter(None, names):
            if (root / name).is_file():
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / name, self.root / name)

    def passes(self, test: str) -> bool:
        """Whether a test passes without a mutation, or a file of tests can be read."""
        if test not in self._sound:
            reading = () if "::" in test else ("--collect-only",)
            self._sound[test] = self._run([test, *reading], _SOUND_SECONDS, math.inf, self._cache).kind == "survived"
        return self._sound[test]

    def try_out(self, mutation: Mutation, tests: Sequence[str], timeout: float, budget: float) -> Outcome:
        """Run tests in the copy with a mutation, which is gone afterwards.

        Args:
            mutation: of a file of the tree.
            tests: files, or tests of a file, in order.
            timeout: seconds after which they count as hung.
            budget: seconds of processors after which no other test is begun.
        """
        path = self.root / mutation.path
        cache = self._folder / "cache" if _BUILDS.match(mutation.path) else self._cache
        source = path.read_bytes()
        try:
            path.write_bytes(mutation.apply(source))
            _forget_compiled(path)
            outcome = self._run(tests, timeout, budget, cache)
            return replace(outcome, kind="killed") if path.suffix == ".py" and outcome.kind == "no compile" else outcome
        finally:
            path.write_bytes(source)
            _forget_compiled(path)
            shutil.rmtree(self._folder / "cache", ignore_errors=True)
            for kind in _DERIVED:
                shutil.rmtree(self._cache / "tests" / kind, ignore_errors=True)
                shutil.rmtree(self._cache / "rocmforge" / kind, ignore_errors=True)

    def _run(self, tests: Sequence[str], timeout: float, budget: float, cache: Path) -> Outcome:
        temporary, log = self._folder / "tmp", self._folder / "log"
        temporary.mkdir(exist_ok=True)
        environment = {
            **{"PYTHONPATH": str(self._folder), "CI": "true", "TMPDIR": str(temporary)},
            **{"XDG_CACHE_HOME": str(cache), "ROCMFORGE_TEST_CACHE": str(cache / "tests")},
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        }
        command = ["-x", "-q", "-rfE", "--tb=line", "-p", "no:cacheprovider", *tests]
        # A fork of this process has the libraries loaded already: most of what a few tests take otherwise.
        child = os.fork()
        if not child:
            _be_pytest(self.root, environment, log, command, budget)
        code, seconds = _wait(child, timeout)
        output = log.read_text(errors="replace")
        shutil.rmtree(temporary, ignore_errors=True)
        return Outcome(_kind(code, output), seconds, "".join(_FAILED.findall(output)[:1]))


class _Budget:
    """Ends a session that has had its seconds of processors, as if no test were left."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def pytest_runtest_logfinish(self) -> None:
        if sum(os.times()[:4]) > self._seconds:
            sys.stdout.flush()
            os._exit(0)


def _be_pytest(root: Path, environment: Mapping[str, str], log: Path, command: list[str], budget: float) -> NoReturn:
    """Run tests and end: the rest of a fork's life."""
    code = _BROKEN
    try:
        os.setsid()  # so that what a test leaves behind ends with it
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for descriptor in (1, 2):
            os.dup2(output, descriptor)
        sys.stdout = sys.stderr = os.fdopen(output, "w")
        os.environ.update(environment)
        os.chdir(root)
        for name in [name for name in sys.modules if name.partition(".")[0] == "rocmforge"]:
            del sys.modules[name]
        sys.path.insert(0, str(root.parent))
        tempfile.tempdir = None
        code = pytest.main(command, [_Budget(budget)])
        sys.stdout.flush()
    finally:
        os._exit(code)


def _wait(child: int, timeout: float) -> tuple[int | None, float]:
    """The exit code of a fork, None where it has to be ended, and the seconds of processors that it took."""
    deadline = time.monotonic() + timeout
    try:
        while True:
            done, status, usage = os.wait4(child, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime
            if time.monotonic() > deadline:
                return None, timeout
            time.sleep(0.05)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)


def _forget_compiled(path: Path) -> None:
    """Python believes a compiled file by the time and the size of its source, and a mutation may change neither."""
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
        compiled.unlink()


def _kind(code: int | None, output: str) -> str:
    if code is None:
        return "timeout"
    if code == 0:
        return "survived"
    return "no compile" if _NO_COMPILE.search(output) else "killed"
