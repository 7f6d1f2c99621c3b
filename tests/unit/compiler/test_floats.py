"""Rows of any type as float32, to the bit of what the `gguf` package, or our reading of llama.cpp, makes of them."""

from __future__ import annotations

import numpy as np
import pytest

from rocmforge.compiler.floats import float_rows
from rocmforge.compiler.ggml_types import GgmlType
from rocmforge.tests.kernels.kernel_harness import WEIGHT_TYPES, random_rows
from rocmforge.tests.oracles.dequantize import dequantize


@pytest.mark.parametrize("kind", WEIGHT_TYPES)
def test_rows_of_any_type(kind: str) -> None:
    raw = random_rows(np.random.default_rng(1), kind, 3, 512)
    found, expected = float_rows(raw, GgmlType[kind]), dequantize(raw, kind)
    assert found.dtype == np.float32
    assert found.shape == (3, 512)
    assert np.array_equal(found.view(np.uint32), expected.view(np.uint32))
