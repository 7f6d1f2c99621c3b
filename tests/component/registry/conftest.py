"""A registry of Debian's for the tests of this folder, and small bundles."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from rocmforge.artifacts.writer import BundleWriter
from rocmforge.registry.cache import Cache
from rocmforge.tests.support.bundle import LAYOUT_DATA, MANIFEST, TARGET, WEIGHTS
from rocmforge.tests.support.registries import RunningRegistry, running_registry

ARCHES = ("host", "gfx1100", "gfx942")


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    """A registry that takes everything from everybody."""
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """An empty cache."""
    return Cache(tmp_path / "cache")


def make_bundle(goal: Path, weights: bytes = WEIGHTS, arches: tuple[str, ...] = ARCHES) -> Path:
    """A bundle with code for several arches."""
    targets = tuple(
        dataclasses.replace(TARGET, arch=arch, backend="host" if arch == "host" else "hip", file=f"code/{arch}.bin")
        for arch in arches
    )
    with BundleWriter(goal) as writer:
        for name, data in (("weights.bin", weights), ("layout.msgpack", LAYOUT_DATA), ("tokenizer.json", b"{}")):
            writer.add_bytes(name, data)
        for arch in arches:
            writer.add_bytes(f"code/{arch}.bin", f"\x7fELF code for {arch}".encode())
        writer.add_bytes("src/embed.c", b"int x;\n")
        writer.finish(dataclasses.replace(MANIFEST, targets=targets))
    return goal


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A bundle with code for three arches."""
    return make_bundle(tmp_path / "model.rfb")
