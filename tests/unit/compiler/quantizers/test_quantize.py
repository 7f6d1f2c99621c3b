"""Weights rounded to each type: what the `gguf` package reads back, and how far it is from what was given."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rocmforge.compiler.ggml_types import BLOCKS
from rocmforge.compiler.ggml_types import GgmlType as Quant
from rocmforge.compiler.quantizers import quantize
from rocmforge.compiler.quantizers.quantize import QUANTIZERS, quantize_rows

# Root mean square error over the standard deviation of Gaussian weights, of the files that `llama-quantize --pure` of
# llama.cpp 11434 writes without an importance matrix: 15 matrices of `write_model(quantization="F32", hidden_size=512,
# intermediate_size=1024)`. Half a percent is for weights that are others than those.
LLAMA_CPP = {
    "Q3_K": 0.15095,
    "IQ4_NL": 0.07613,
    "IQ4_XS": 0.07672,
    "Q4_K": 0.07135,
    "Q5_K": 0.03612,
    "Q6_K": 0.01773,
    "Q4_0": 0.08593,
    "Q4_1": 0.07821,
    "Q5_0": 0.04269,
    "Q5_1": 0.03786,
    "Q8_0": 0.005354,
}
SEARCHED = ["Q2_K", *(name for name in LLAMA_CPP if name != "Q8_0")]


def gaussian(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((rows, columns)) * 0.02).astype(np.float32)


def read_back(raw: np.ndarray, kind: Quant) -> np.ndarray:
    return gguf.quants.dequantize(raw, gguf.GGMLQuantizationType(kind))


@pytest.mark.parametrize("name", LLAMA_CPP)
def test_no_further_from_the_weights_than_llama_cpp(name: str) -> None:
    x, kind = gaussian(256, 1024), Quant[name]
    error = np.sqrt(np.mean((read_back(quantize_rows(x, kind), kind) - x) ** 2)) / x.std()
    assert error <= LLAMA_CPP[name] * 1.005


def test_two_bits_are_nearer_than_the_best_four_levels() -> None:
    """Q2_K, for which llama.cpp asks for an importance matrix: the best four levels for all of a Gaussian leave 0.3428
    of its deviation (J. Max, 1960), and levels of their own for 16 weights less."""
    x = gaussian(256, 1024)
    error = np.sqrt(np.mean((read_back(quantize_rows(x, Quant.Q2_K), Quant.Q2_K) - x) ** 2)) / x.std()
    assert error < 0.3428


@pytest.mark.parametrize("name", ["Q8_0", "MXFP4", "BF16", "F32"])
def test_types_that_are_simply_rounded_are_the_packages(name: str) -> None:
    x, kind = gaussian(8, 256), Quant[name]
    expected = np.asarray(gguf.quants.quantize(x, gguf.GGMLQuantizationType(kind))).view(np.uint8)
    assert np.array_equal(quantize_rows(x, kind), expected.reshape(8, -1))


def test_f16() -> None:
    x = gaussian(4, 32)
    assert np.array_equal(quantize_rows(x, Quant.F16).view(np.float16), x.astype(np.float16))


@pytest.mark.parametrize("name", SEARCHED)
def test_what_a_type_holds_exactly_comes_back(name: str) -> None:
    """Weights that a type gave once: nearest to them are they themselves, but for what scales of 6 bits lose."""
    kind = Quant[name]
    once = read_back(quantize_rows(gaussian(4, 512), kind), kind)
    twice = read_back(quantize_rows(once, kind), kind)
    step = 2.0 ** -(BLOCKS[kind][1] * 8 // BLOCKS[kind][0])
    assert np.sqrt(np.mean((twice - once) ** 2)) <= step / 2 * once.std()


@pytest.mark.parametrize("name", [kind.name for kind in QUANTIZERS])
def test_rows_do_not_depend_on_each_other(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, kind = gaussian(37, 512), Quant[name]
    whole = quantize_rows(x, kind)
    assert np.array_equal(quantize_rows(x[5:6], kind), whole[5:6])
    monkeypatch.setattr(quantize, "ELEMENTS_AT_ONCE", 2000)
    assert np.array_equal(quantize_rows(x, kind), whole)


@pytest.mark.parametrize("name", SEARCHED)
def test_important_columns_are_closer(name: str) -> None:
    x, kind = gaussian(64, 512), Quant[name]
    importance = np.where(np.arange(512) % 8 == 0, 100.0, 1.0).astype(np.float32)
    plain = (read_back(quantize_rows(x, kind), kind) - x) ** 2
    weighed = (read_back(quantize_rows(x, kind, importance), kind) - x) ** 2
    assert (weighed * importance).sum() < 0.9 * (plain * importance).sum()
    assert weighed[:, ::8].mean() < plain[:, ::8].mean()


EDGES = {
    "zeros": np.zeros((2, 256), np.float32),
    "ones": np.ones((2, 256), np.float32),
    "minus ones": -np.ones((2, 256), np.float32),
    "one": np.eye(2, 256, 7, dtype=np.float32),
    "tiny": gaussian(2, 256) * np.float32(1e-30),
    "denormal": gaussian(2, 256) * np.float32(1e-42),
    "huge": gaussian(2, 256) * np.float32(1e30),
    "a zero block": np.concatenate([np.zeros((2, 128), np.float32), gaussian(2, 128)], axis=1),
}


@pytest.mark.parametrize("name", SEARCHED)
@pytest.mark.parametrize("edge", EDGES)
def test_edges_give_numbers(name: str, edge: str) -> None:
    x, kind = EDGES[edge], Quant[name]
    found = read_back(quantize_rows(x, kind), kind)
    assert np.isfinite(found).all()
    if edge in {"zeros", "tiny", "denormal"}:
        assert not found.any()
    elif edge in {"ones", "minus ones"}:
        assert np.abs(found - x).max() <= 2.0**-6  # scales of 6 bits; float16 has more
    elif edge == "a zero block":
        assert not found[:, :128].any()


@pytest.mark.slow
@settings(max_examples=60)
@given(
    data=st.lists(st.floats(-1e4, 1e4, width=32), min_size=256, max_size=256), name=st.sampled_from(sorted(LLAMA_CPP))
)
@example(data=[*[0.0] * 255, 2.0**-24], name="IQ4_NL")
def test_any_weights_stay_within_their_range(data: list[float], name: str) -> None:
    """No weight leaves the interval that zero and its neighbours span by more than a step of the type."""
    x, kind = np.array([data], np.float32), Quant[name]
    found = read_back(quantize_rows(x, kind), kind)
    width = max(x.max(), 0) - min(x.min(), 0)
    bits = 3 if kind is Quant.Q3_K else 4
    assert np.isfinite(found).all()
    smallest = 128 * 2.0**-25  # a scale is a float16, which below 2^-14 is off by 2^-25; quants are below 128
    assert np.abs(found - x).max() <= width * 2.0 ** (1 - bits) + 1e-6 * width + smallest
