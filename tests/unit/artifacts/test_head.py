"""The head of a model that embeds or ranks, in a layout."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgpack
import pytest

from rocmforge.artifacts.errors import BundleError
from rocmforge.artifacts.head import Head, HeadLayer
from rocmforge.artifacts.layout import TensorEntry
from rocmforge.artifacts.layout_file import decode_layout, encode_layout
from rocmforge.tests.support.bundle import LAYOUT

END = LAYOUT.weights_bytes
HIDDEN = LAYOUT.hidden_size
SHAPES: dict[str, tuple[int, ...]] = {"dense": (3, HIDDEN), "dense_bias": (3,), "dense_norm": (3,), "out": (1, 3)}
LAYERS = (HeadLayer("dense", "dense_bias", "tanh", "dense_norm"), HeadLayer("out"))


def layout(head: Head | None) -> Any:
    tensors, offset = [], END
    for name, shape in SHAPES.items():
        size = 4 * shape[0] * (shape[1] if len(shape) == 2 else 1)
        offset = -(-offset // 64) * 64
        tensors.append(TensorEntry(name, "f32", shape, offset, size))
        offset += size
    return dataclasses.replace(LAYOUT, tensors=(*LAYOUT.tensors, *tensors), head=head)


def decoded(data: bytes) -> Any:
    return decode_layout("layout.msgpack", data, 1 << 20)


@pytest.mark.parametrize(
    "head",
    [
        None,
        Head("last"),
        Head("mean", (HeadLayer("dense"),)),
        Head("cls", LAYERS, "raw", 1e-12),
        Head("cls", LAYERS, "softmax"),
    ],
)
def test_it_comes_back(head: Head | None) -> None:
    made = layout(head)
    assert decoded(encode_layout(made)) == made


@pytest.mark.parametrize(
    ("head", "problem"),
    [
        (Head("middle"), "head.pooling: expected one of mean, cls, last, found 'middle'"),
        (Head("cls", LAYERS, "best"), "head.scores: expected one of none, raw, softmax, found 'best'"),
        (Head("cls", (), "raw"), "head.layers: expected layers that make scores, found none"),
        (Head("cls", LAYERS[1:]), f"head.layers[0].weight: expected a tensor f32 of {HIDDEN} columns, found 'out'"),
        (Head("cls", LAYERS[:1] * 2), "head.layers[1].weight: expected a tensor f32 of 3 columns, found 'dense'"),
        (
            Head("cls", (HeadLayer("none"),)),
            f"head.layers[0].weight: expected a tensor f32 of {HIDDEN} columns, found 'none'",
        ),
        (Head("cls", (HeadLayer("dense_bias"),)), "head.layers[0].weight: expected a tensor f32 of"),
        (
            Head("cls", (HeadLayer("dense", "out"),)),
            "head.layers[0].bias: expected a tensor f32 of 3 elements, found 'out'",
        ),
        (
            Head("cls", (HeadLayer("dense", norm="x"),)),
            "head.layers[0].norm: expected a tensor f32 of 3 elements, found 'x'",
        ),
        (
            Head("cls", (HeadLayer("dense", activation="relu"),)),
            "head.layers[0].activation: expected one of none, tanh, gelu",
        ),
        (Head("cls", LAYERS, "raw", float("nan")), "head.epsilon: expected a number from 0 to 1, found nan"),
        (Head("cls", (HeadLayer("dense"),) * 5), "head.layers: expected 0 to 4 elements, found 5"),
    ],
)
def test_refused(head: Head, problem: str) -> None:
    with pytest.raises(BundleError) as caught:
        decoded(encode_layout(layout(head)))
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        None,
        3,
        [],
        ["cls", [], "raw"],
        ["cls", [[]], "none", 0.0],
        ["cls", [[1, "", "none", ""]], "none", 0.0],
        ["cls", [], "none", 0],
    ],
)
def test_other_values(value: object) -> None:
    table = msgpack.unpackb(encode_layout(layout(Head("last"))))
    table["head"] = value
    with pytest.raises(BundleError, match=r"head"):
        decoded(msgpack.packb(table))
