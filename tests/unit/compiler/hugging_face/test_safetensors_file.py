"""The headers of safetensors files: what is wrong is refused in a line, what is not lies inside the file."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocmforge.artifacts.errors import InputError
from rocmforge.compiler.hugging_face.safetensors_file import read_safetensors
from rocmforge.tests.support.hugging_face import write_safetensors

HEADER_CASES: dict[str, tuple[object, bytes, str]] = {
    "overlap": (
        {
            "a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
            "b": {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]},
        },
        bytes(24),
        "the safetensors library refuses it",
    ),
    "gap": (
        {"a": {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]}},
        bytes(24),
        "the safetensors library refuses",
    ),
    "past the end": ({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, bytes(12), "library refuses it"),
    "more than named": ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, bytes(12), "library refuses it"),
    "shape": ({"a": {"dtype": "F32", "shape": [5], "data_offsets": [0, 16]}}, bytes(16), "library refuses it"),
    "overflow": ({"a": {"dtype": "F32", "shape": [1 << 62, 8], "data_offsets": [0, 0]}}, b"", "library refuses it"),
    "type": ({"a": {"dtype": "Q4", "shape": [4], "data_offsets": [0, 16]}}, bytes(16), "library refuses it"),
    "no object": ([1, 2], b"", "library refuses it"),
    "unprintable": ({"a\n": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4), "printable names"),
    "unnamed": ({"": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4), "printable names"),
}


@pytest.mark.parametrize("case", HEADER_CASES)
def test_headers_that_contradict_themselves_are_refused_in_a_line(tmp_path: Path, case: str) -> None:
    header, data, problem = HEADER_CASES[case]
    text = json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    with pytest.raises(InputError) as caught:
        read_safetensors(path)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data", [b"", b"short", bytes(8), struct.pack("<Q", 1 << 60) + b"{}", b"PK\x03\x04" + bytes(40)]
)
def test_files_that_are_no_safetensors(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"model\.safetensors: header: "):
        read_safetensors(path)


@settings(max_examples=200)
@given(place=st.integers(0, 400), byte=st.integers(0, 255))
def test_any_byte_of_a_header_may_be_wrong(tmp_path_factory: pytest.TempPathFactory, place: int, byte: int) -> None:
    """A file with a changed byte is refused in a line, or each of its tensors still lies inside it."""
    path = tmp_path_factory.getbasetemp() / "fuzzed.safetensors"
    write_safetensors(path, {name: ("F16", (3, 5), bytes(30)) for name in "abcd"})
    data = bytearray(path.read_bytes())
    data[place % len(data)] = byte
    path.write_bytes(data)
    try:
        found = read_safetensors(path)
    except InputError:
        return
    for name, tensor in found.tensors.items():
        assert tensor.offset + tensor.n_bytes <= len(data)
        assert found.read_rows(name, 0, tensor.rows).nbytes == tensor.n_bytes
