"""What all processes of a session share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rocmforge.artifacts.locked import locked


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A bundle at a path of this name, made by the process that first needs it: it is there whole or not at all."""
    base = factory.getbasetemp()
    goal = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared" / name
    goal.parent.mkdir(parents=True, exist_ok=True)
    with locked(goal.with_suffix(".lock")):
        if not goal.exists():
            make(goal)
    return goal
