"""Importance matrices of both kinds, and files that are none."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocmforge.artifacts.errors import InputError
from rocmforge.compiler.ggml_types import GgmlType
from rocmforge.compiler.model_source import TensorInfo
from rocmforge.compiler.quantizers.imatrix import read_importance
from rocmforge.tools.generate.gguf_writing import finish

SUMS = np.array([[4, 8, 0, 12]], np.float32)
WEIGHTS = [4 / 6, 8 / 6, 1e-6, 12 / 6]  # of their mean; none is left without any


def write_gguf(path: Path, tensors: dict[str, np.ndarray], kind: str = "imatrix") -> Path:
    writer = gguf.GGUFWriter(path, "")
    writer.add_type(kind)
    for name, data in tensors.items():
        writer.add_tensor(name, data)
    finish(writer)
    return path


def old(entries: dict[str, tuple[int, np.ndarray]]) -> bytes:
    data = struct.pack("<i", len(entries))
    for name, (calls, values) in entries.items():
        data += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", calls, values.size) + values.tobytes()
    return data + struct.pack("<ii", 10, 5) + b"a.txt"


def test_a_gguf(tmp_path: Path) -> None:
    two = np.concatenate([SUMS, np.zeros_like(SUMS)])
    tensors = {
        "blk.0.attn_q.weight.in_sum2": SUMS,
        "blk.0.attn_q.weight.counts": np.array([[2]], np.float32),
        "blk.0.ffn_up_exps.weight.in_sum2": two,
        "blk.0.ffn_up_exps.weight.counts": np.array([[3], [0]], np.float32),
    }
    path = write_gguf(tmp_path / "imatrix.gguf", tensors)
    found = read_importance(path, {})
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert list(found.columns) == ["blk.0.attn_q.weight", "blk.0.ffn_up_exps.weight"]
    np.testing.assert_allclose(found.columns["blk.0.attn_q.weight"], [WEIGHTS], rtol=1e-6)
    np.testing.assert_allclose(found.columns["blk.0.ffn_up_exps.weight"], np.array([WEIGHTS, [1.0] * 4]), rtol=1e-6)


def test_an_old_file(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.dat"
    path.write_bytes(old({"blk.0.attn_q.weight": (2, SUMS), "output.weight": (0, SUMS)}))
    found = read_importance(path, {})
    assert list(found.columns) == ["blk.0.attn_q.weight", "output.weight"]
    np.testing.assert_allclose(found.columns["output.weight"], [WEIGHTS], rtol=1e-6)


EXPERTS = "blk.0.ffn_up_exps.weight"
TENSORS = {EXPERTS: TensorInfo(EXPERTS, (3, 2, 4), GgmlType.F32), "a": TensorInfo("a", (2, 4), GgmlType.F32)}
OF_EXPERTS = np.concatenate([SUMS, 1000 * SUMS[:, ::-1], np.zeros_like(SUMS)]).reshape(1, -1)


@pytest.mark.parametrize("is_gguf", [False, True])
def test_a_row_of_all_experts(tmp_path: Path, is_gguf: bool) -> None:
    """As older files have it, and GGUF files that are made of them: each expert is compared with itself alone."""
    path = tmp_path / "imatrix"
    if is_gguf:
        write_gguf(path, {f"{EXPERTS}.in_sum2": OF_EXPERTS, "a.in_sum2": SUMS})
    else:
        path.write_bytes(old({EXPERTS: (2, OF_EXPERTS), "a": (2, SUMS)}))
    found = read_importance(path, TENSORS)
    assert found.columns[EXPERTS].dtype == np.float32
    np.testing.assert_allclose(found.columns[EXPERTS], [WEIGHTS, WEIGHTS[::-1], [1.0] * 4], rtol=1e-6)
    np.testing.assert_allclose(found.columns["a"], [WEIGHTS], rtol=1e-6)


@pytest.mark.parametrize("columns", [4, 8, 11, 16])
def test_a_row_that_is_not_of_all_experts_stays_one(tmp_path: Path, columns: int) -> None:
    path = tmp_path / "imatrix.dat"
    path.write_bytes(old({EXPERTS: (2, np.ones((1, columns), np.float32))}))
    assert read_importance(path, TENSORS).columns[EXPERTS].shape == (1, columns)


COUNT = np.array([[2]], np.float32)
CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a model": (lambda path: write_gguf(path, {"a": SUMS}, "model"), "general.type: expected imatrix, found model"),
    "no tensors": (
        lambda path: write_gguf(path, {"a": SUMS}),
        "expected an importance matrix, found one of no tensors",
    ),
    "type": (
        lambda path: write_gguf(path, {"a.in_sum2": SUMS.astype(np.float16)}),
        "a.in_sum2: expected sums in F32, found F16",
    ),
    "negative": (
        lambda path: write_gguf(path, {"a.in_sum2": -SUMS, "a.counts": COUNT}),
        "a: expected finite sums of squares, found others",
    ),
    "not a number": (
        lambda path: write_gguf(path, {"a.in_sum2": SUMS * np.float32("nan"), "a.counts": COUNT}),
        "a: expected finite sums of squares, found others",
    ),
    "empty": (lambda path: path.write_bytes(b""), "expected an importance matrix, found an end at 0"),
    "text": (lambda path: path.write_bytes(b"hello world"), "expected an importance matrix, found 1819043176 entries"),
    "cut": (
        lambda path: path.write_bytes(old({"a": (1, SUMS)})[:-30]),
        "expected an importance matrix, found an end at 16",
    ),
    "long name": (
        lambda path: path.write_bytes(struct.pack("<ii", 1, 1 << 30)),
        "name: expected an importance matrix, found a length of 1073741824",
    ),
    "negative length": (
        lambda path: path.write_bytes(struct.pack("<ii", 1, -5)),
        "name: expected an importance matrix, found a length of -5",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_none_is_refused_in_a_line(tmp_path: Path, case: str) -> None:
    make, problem = CASES[case]
    path = tmp_path / "imatrix"
    make(path)
    with pytest.raises(InputError) as caught:
        read_importance(path, {})
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(max_examples=100)
@given(data=st.binary(max_size=200), place=st.integers(0, 80), byte=st.integers(0, 255))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes, place: int, byte: int) -> None:
    path = tmp_path_factory.getbasetemp() / "any.dat"
    sound = bytearray(old({"a": (1, SUMS), "b": (1, SUMS)}))
    sound[place % len(sound)] = byte
    for content in (data, bytes(sound)):
        path.write_bytes(content)
        try:
            found = read_importance(path, {})
        except InputError:
            continue
        assert all(np.isfinite(values).all() for values in found.columns.values())
