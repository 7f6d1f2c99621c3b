"""Fixtures for all tests: the real model, and its bundle, compiled once."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import rocmforge.compiler.build as build_module
from rocmforge.artifacts.bundle import Bundle, open_bundle
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.compile import compile_model
from rocmforge.compiler.model import CompileOptions
from rocmforge.compiler.progress import PlainProgress
from rocmforge.library.compilation import make_golden
from rocmforge.tests.support.once import made_once
from rocmforge.tests.support.process import Server, serving

# An environment that was made with it: see the extra `test` in pyproject.toml.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]

# No example of a property test fails because others used the machine. All else is as Hypothesis has it, here or in CI.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


def pytest_configure() -> None:
    """Take Ctrl-C: a shell has its background jobs ignore it, and so would each command that a test interrupts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect without searches for garbage: all that is collected is kept, and they take a tenth of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs the real model; skip what takes too long for each run, unless it is asked for."""
    items[:] = _long_ones_first(items)
    for item in items:
        if "smollm2_gguf" in getattr(item, "fixturenames", ()):
            item.add_marker("model")
        if item.get_closest_marker("nightly") and not os.environ.get("ROCMFORGE_NIGHTLY"):
            item.add_marker(pytest.mark.skip(reason="only tools/nightly runs it"))


# Of the last folder, which of several processes come to last, what takes longest: a minute, where others take seconds.
_LAST = "tests/clients/"
_LONG = tuple(f"{_LAST}test_{name}.py" for name in ("python_programs", "pictures", "opencode", "qwen_code"))


def _long_ones_first(items: list[pytest.Item]) -> list[pytest.Item]:
    """The last folder's long files before its others, so that no process is left with one when all else is done."""
    last = [item for item in items if item.nodeid.startswith(_LAST)]
    last.sort(key=lambda item: not item.nodeid.startswith(_LONG))
    return [item for item in items if not item.nodeid.startswith(_LAST)] + last


def pytest_collection_finish() -> None:
    """Leave what was collected out of further searches for garbage: ten thousand tests and all their modules."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def loggers_restored() -> Iterator[None]:
    """The loggers, after what a command makes of them, as they were."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    known = {name: one.level for name, one in root.manager.loggerDict.items() if isinstance(one, logging.Logger)}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, one in root.manager.loggerDict.items():
        if isinstance(one, logging.Logger):
            one.setLevel(known.get(name, logging.NOTSET))


@contextlib.contextmanager
def _unwatched(prefix: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=prefix) as folder:
        yield Path(folder)


@pytest.fixture(scope="session", autouse=True)
def builds_unwatched() -> Iterator[None]:
    """Builds of the tests' own processes, a thousand of them, each without a process that watches over its folder:
    commands, which are what tests kill, have theirs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build_module, "guarded_folder", _unwatched)
        yield


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct Q4_1, as `tools/test` fetches it."""
    path = os.environ.get("ROCFORGE_TEST_MODEL")
    if not path:
        pytest.fail("ROCFORGE_TEST_MODEL is not set: run the tests with tools/test")
    return Path(path)


@pytest.fixture(scope="session")
def build_cache(tmp_path_factory: pytest.TempPathFactory) -> BuildCache:
    """A build cache that all tests of the session share; $ROCMFORGE_TEST_CACHE is one that many sessions do."""
    kept = os.environ.get("ROCMFORGE_TEST_CACHE")
    if not kept and "PYTEST_XDIST_WORKER" in os.environ:  # this process is one of several, whose folders are neighbours
        kept = str(tmp_path_factory.getbasetemp().parent / "cache")
    return BuildCache(Path(kept) if kept else tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def smollm2_path(smollm2_gguf: Path, build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2's bundle, on disk."""

    def make(goal: Path) -> None:
        with PlainProgress() as progress:
            compile_model(CompileOptions(smollm2_gguf, goal), build_cache, progress, make_golden)

    return made_once(tmp_path_factory, "smollm2.rfb", make)


@pytest.fixture(scope="session")
def smollm2(smollm2_path: Path) -> Iterator[Bundle]:
    """SmolLM2's bundle, open."""
    with open_bundle(smollm2_path) as bundle:
        yield bundle


@pytest.fixture(scope="module")
def server(smollm2_path: Path) -> Iterator[Server]:
    """`rfc serve` of SmolLM2, one for all tests of a module."""
    with serving(smollm2_path) as running:
        yield running
