"""Emulated GPUs for tests of kernels."""

from __future__ import annotations

import pytest

from rocmforge.compiler.build_cache import BuildCache
from rocmforge.tests.kernels.hip_harness import Gpus


@pytest.fixture(scope="module")
def gpus(build_cache: BuildCache) -> Gpus:
    """Those that a test asks for."""
    return Gpus(build_cache)
