"""Commands in this process."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _loggers(loggers_restored: None) -> None:
    """Each command sets up its log."""
