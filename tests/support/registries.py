"""Debian's programs of registries, for tests: skipped without them, but in CI."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from rocmforge.tools.debian.registry import RunningRegistry
from rocmforge.tools.debian.registry import running_registry as registry_of_debian

__all__ = ["RunningRegistry", "program", "running_registry"]


def program(name: str) -> str:
    """The path of a program of Debian's; without it a test is skipped, and in CI fails."""
    path = shutil.which(name)
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{name} is not installed: apt-get install {name}")
    return path


@contextlib.contextmanager
def running_registry(folder: Path, passwords: bool = False) -> Iterator[RunningRegistry]:
    """A registry for a while, with its storage below `folder`."""
    program("docker-registry")
    with registry_of_debian(folder, passwords) as running:
        yield running
