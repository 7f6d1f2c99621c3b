"""Hidden states through the norm that ends a model, of every kind."""

from __future__ import annotations

import dataclasses
import mmap

import numpy as np
import pytest

from rocmforge.artifacts.layout import FinalNorm, Layout, TensorEntry
from rocmforge.artifacts.layout_file import decode_layout, encode_layout
from rocmforge.runtime.device.hidden import HiddenStates
from rocmforge.tests.support.bundle import LAYOUT

TENSORS = (TensorEntry("norm", "f32", (32,), 0, 128), TensorEntry("norm_bias", "f32", (32,), 128, 128))


def with_norm(norm: FinalNorm) -> Layout:
    return dataclasses.replace(LAYOUT, tensors=TENSORS, launches=(), final_norm=norm)


@pytest.mark.parametrize("kind", ["rms", "layer", "none"])
@pytest.mark.parametrize("tensor, bias", [("norm", ""), ("norm", "norm_bias"), ("", "")])
def test_hidden_states_are_normed_as_the_layout_says(kind: str, tensor: str, bias: str) -> None:
    layout = with_norm(FinalNorm("hidden", tensor, 1e-5, kind, bias))
    assert decode_layout("layout.msgpack", encode_layout(layout), 256) == layout
    random = np.random.default_rng(3)
    numbers, rows = random.normal(1, 1, (2, 32)).astype(np.float32), random.normal(2, 1, (3, 32)).astype(np.float32)
    memory = mmap.mmap(-1, 256)
    memory.write(numbers.tobytes())
    found = HiddenStates(layout, memory).normed(rows.tobytes())
    x = rows.astype(np.float64)
    if kind != "none":
        x = x - x.mean(axis=1, keepdims=True) if kind == "layer" else x
        x = x / np.sqrt((x * x).mean(axis=1, keepdims=True) + 1e-5)
        x = (x * numbers[0] if tensor else x) + (numbers[1] if bias else 0)
    np.testing.assert_allclose(found, x, rtol=2e-7, atol=1e-9)
