"""Fixtures of the tests of clients."""

from __future__ import annotations

from pathlib import Path

import pytest

from rocmforge.tests.clients.node_packages import install_packages


@pytest.fixture(scope="session")
def node_folder() -> Path:
    """The folder of Node's packages and our scripts."""
    return install_packages()
