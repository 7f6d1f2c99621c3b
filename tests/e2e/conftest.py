"""Fixtures of the end-to-end tests: a small model where SmolLM2 is not needed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rocmforge.tests.support.once import made_once
from rocmforge.tests.support.process import rfc
from rocmforge.tools.generate.fixtures import write_model


@pytest.fixture(scope="session")
def made_small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the next ones are copies of: made with a cold cache by the process that first needs it, for all to read."""

    def make(goal: Path) -> None:
        folder = goal.with_suffix(".partial")
        folder.mkdir()
        model = write_model(folder / "small.gguf")
        done = rfc("compile", model, "--cache-dir", folder / "cache")
        assert done.returncode == 0, done.stderr
        folder.rename(goal)

    return made_once(tmp_path_factory, "e2e", make)


@pytest.fixture(scope="session")
def small_folder(made_small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of it for the tests of this process."""
    return Path(shutil.copytree(made_small, tmp_path_factory.mktemp("small") / "model"))


@pytest.fixture(scope="session")
def small_gguf(small_folder: Path) -> Path:
    """A generated llama model."""
    return small_folder / "small.gguf"


@pytest.fixture(scope="session")
def small_bundle(small_folder: Path) -> Path:
    """Its bundle, made by `rfc compile`."""
    return small_folder / "small.rfb"


@pytest.fixture(scope="session")
def small_cache(small_folder: Path) -> Path:
    """The build cache after that: it holds what the small model needs, and what other tests have built in it."""
    return small_folder / "cache"
