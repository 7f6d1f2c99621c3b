"""The bundle of the fake GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rocmforge.artifacts.bundle import Bundle
from rocmforge.tests.support.hip_bundle import hip_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundle]:
    """With code for gfx1100."""
    with hip_bundle(tmp_path_factory.mktemp("hip")) as opened:
        yield opened
