"""A head's arithmetic, against the same formulas written out; and what is made of hidden states with it."""

from __future__ import annotations

import dataclasses
import mmap
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest

from rocmforge.artifacts.head import Head, HeadLayer
from rocmforge.artifacts.layout import TensorEntry
from rocmforge.runtime.device.head import EmbeddingHead
from rocmforge.runtime.engine.embedding_sequence import EmbeddingSequence
from rocmforge.runtime.engine.embeddings import EmbeddingRequest, Pooling
from rocmforge.runtime.engine.scheduler import Chunk
from rocmforge.tests.support.bundle import LAYOUT

SIZE, INNER = 8, 5
RANDOM = np.random.default_rng(3)
WEIGHTS = {
    "dense": RANDOM.normal(size=(INNER, SIZE)).astype(np.float32),
    "bias": RANDOM.normal(size=INNER).astype(np.float32),
    "norm": RANDOM.normal(size=INNER).astype(np.float32),
    "out": RANDOM.normal(size=(2, INNER)).astype(np.float32),
    "out_bias": RANDOM.normal(size=2).astype(np.float32),
}
STATES = RANDOM.normal(size=(7, SIZE)).astype(np.float32)
OUT = HeadLayer("out", "out_bias")


def head_of(head: Head) -> EmbeddingHead:
    tensors, data = [], b""
    for name, array in WEIGHTS.items():
        data += b"\0" * (-len(data) % 64)
        tensors.append(TensorEntry(name, "f32", array.shape, len(data), array.nbytes))
        data += array.tobytes()
    mapped = mmap.mmap(-1, len(data))
    mapped.write(data)
    return EmbeddingHead(head, dataclasses.replace(LAYOUT, tensors=tuple(tensors), hidden_size=SIZE), mapped)


def dense(x: Any, activation: str) -> Any:
    y = WEIGHTS["dense"].astype(np.float64) @ x + WEIGHTS["bias"]
    if activation == "gelu":
        return y * 0.5 * (1 + np.tanh(0.7978845608028654 * (y + 0.044715 * y**3)))
    return np.tanh(y) if activation == "tanh" else y


@pytest.mark.parametrize("activation", ["none", "tanh", "gelu"])
@pytest.mark.parametrize("scores", ["none", "raw", "softmax"])
def test_layers(activation: str, scores: str) -> None:
    x = STATES[0].astype(np.float64)
    found = head_of(Head("cls", (HeadLayer("dense", "bias", activation), OUT), scores)).apply(x)
    wanted = WEIGHTS["out"].astype(np.float64) @ dense(x, activation) + WEIGHTS["out_bias"]
    if scores == "softmax":
        wanted = np.exp(wanted) / np.exp(wanted).sum()
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_a_norm_of_a_layer() -> None:
    x = STATES[0].astype(np.float64)
    found = head_of(Head("cls", (HeadLayer("dense", "bias", "gelu", "norm"),), epsilon=0.25)).apply(x)
    y = dense(x, "gelu")
    np.testing.assert_allclose(found, (y - y.mean()) / np.sqrt(y.var() + 0.25) * WEIGHTS["norm"], rtol=1e-12)


def embed(head: EmbeddingHead | None, pooling: Pooling | None, rank: bool, cuts: Sequence[int]) -> Any:
    """The states of 7 tokens in chunks that end at these; each chunk gives as many rows as are asked for."""
    request = EmbeddingRequest(tuple(range(7)), pooling, rank=rank)
    sequence = EmbeddingSequence(1, request, cast("Any", None), head)
    start = 0
    for end in cuts:
        chunk = Chunk(sequence, start, end - start)
        rows = sequence.rows_of(chunk)
        if rows:
            sequence.take(chunk, STATES[end - rows : end])
        start = end
    return sequence.result(0)


@pytest.mark.parametrize("cuts", [(7,), (1, 7), (3, 5, 7), (6, 7), tuple(range(1, 8))])
@pytest.mark.parametrize("pooling", ["mean", "last", "cls"])
def test_pooling_does_not_depend_on_chunks(pooling: Pooling, cuts: Sequence[int]) -> None:
    pooled = {"mean": STATES.astype(np.float64).mean(0), "last": STATES[-1], "cls": STATES[0]}[pooling]
    unit = pooled / np.linalg.norm(pooled)
    plain = embed(None, pooling, False, cuts)
    np.testing.assert_allclose(plain, unit, atol=1e-7)
    assert plain.tobytes() == embed(None, pooling, False, (7,)).tobytes()
    ranking = head_of(Head(pooling, (HeadLayer("dense", "bias", "tanh"), OUT), "raw"))
    wanted = WEIGHTS["out"] @ dense(pooled, "tanh") + WEIGHTS["out_bias"]
    np.testing.assert_allclose(embed(ranking, None, True, cuts), wanted, rtol=1e-6)
    np.testing.assert_allclose(embed(ranking, None, False, cuts), unit, atol=1e-7)  # a vector of a model that ranks
    dense_head = head_of(Head(pooling, (HeadLayer("dense", "bias"),)))
    vector = dense(pooled, "none")
    np.testing.assert_allclose(embed(dense_head, None, False, cuts), vector / np.linalg.norm(vector), atol=1e-7)
    np.testing.assert_allclose(
        embed(dense_head, "last", False, cuts), STATES[-1] / np.linalg.norm(STATES[-1]), atol=1e-7
    )


def test_without_a_head_it_is_the_mean() -> None:
    assert embed(None, None, False, (7,)).tobytes() == embed(None, "mean", False, (7,)).tobytes()
