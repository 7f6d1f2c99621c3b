"""Fixtures of the end-to-end tests: a small model where SmolLM2 is not needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from rocmforge.tests.support.process import rfc
from rocmforge.tools.generate.fixtures import write_model


@pytest.fixture(scope="session")
def small_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated llama model."""
    return write_model(tmp_path_factory.mktemp("small") / "small.gguf")


@pytest.fixture(scope="session")
def small_bundle(small_gguf: Path) -> Path:
    """Its bundle, made by `rfc compile` with a cold cache."""
    goal = small_gguf.with_suffix(".rfb")
    done = rfc("compile", small_gguf, "--cache-dir", small_gguf.parent / "cache")
    assert done.returncode == 0, done.stderr
    return goal


@pytest.fixture(scope="session")
def small_cache(small_bundle: Path) -> Path:
    """The build cache after that: it holds what the small model needs, and nothing else."""
    return small_bundle.parent / "cache"
