"""Good GGUF files: what was written is what is read."""

from __future__ import annotations

import gc
import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocmforge.artifacts.errors import GgufError
from rocmforge.compiler.gguf_reader import read_gguf
from rocmforge.tools.generate.fixtures import write_model
from rocmforge.tools.generate.gguf_writing import finish

Kind = gguf.GGUFValueType

_RANGES = {
    Kind.UINT8: (0, 2**8 - 1),
    Kind.INT8: (-(2**7), 2**7 - 1),
    Kind.UINT16: (0, 2**16 - 1),
    Kind.INT16: (-(2**15), 2**15 - 1),
    Kind.UINT32: (0, 2**32 - 1),
    Kind.INT32: (-(2**31), 2**31 - 1),
    Kind.UINT64: (0, 2**64 - 1),
    Kind.INT64: (-(2**63), 2**63 - 1),
}
_STRINGS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_SCALARS = [
    *(st.tuples(st.just(kind), st.integers(*bounds)) for kind, bounds in _RANGES.items()),
    st.tuples(st.just(Kind.FLOAT32), st.floats(width=32, allow_nan=False)),
    st.tuples(st.just(Kind.FLOAT64), st.floats(allow_nan=False)),
    st.tuples(st.just(Kind.BOOL), st.booleans()),
    st.tuples(st.just(Kind.STRING), _STRINGS),
]
_ARRAYS = [
    st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=5),
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=5),
    st.lists(st.booleans(), min_size=1, max_size=5),
    st.lists(_STRINGS, min_size=1, max_size=5),
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=3), min_size=1, max_size=3),
]
_KEYS = st.text("abcdefghijklmnopqrstuvwxyz_.", min_size=1, max_size=20).map(lambda key: f"x.{key}")
_METADATA = st.dictionaries(
    _KEYS, st.one_of(*_SCALARS, *(st.tuples(st.just(Kind.ARRAY), array) for array in _ARRAYS)), max_size=8
)


def write(path: Path, pairs: Mapping[str, tuple[Kind, object]], alignment: int = 32) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    if alignment != 32:
        writer.add_custom_alignment(alignment)
    for key, (kind, value) in pairs.items():
        writer.add_key_value(key, value, kind)
    writer.add_tensor("a", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.add_tensor("b", np.arange(3, dtype=np.float16))
    finish(writer)
    return path


def plain(value: object) -> object:
    """Return a metadata value with arrays as lists."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return [plain(item) for item in value] if isinstance(value, tuple) else value


@pytest.mark.slow
@settings(max_examples=150)
@given(pairs=_METADATA)
def test_metadata_reads_back_equal(
    tmp_path_factory: pytest.TempPathFactory, pairs: dict[str, tuple[Kind, object]]
) -> None:
    path = write(tmp_path_factory.mktemp("metadata") / "model.gguf", pairs)
    metadata = read_gguf(path).metadata
    assert list(metadata) == ["general.architecture", *pairs]
    for key, (_, expected) in pairs.items():
        found = plain(metadata[key])
        assert found == expected
        assert type(found) is type(expected)


@pytest.mark.parametrize("alignment", [8, 32, 4096])
def test_tensors_read_back_equal(tmp_path: Path, alignment: int) -> None:
    gguf_file = read_gguf(write(tmp_path / "model.gguf", {}, alignment))
    a, b = gguf_file.tensors["a"], gguf_file.tensors["b"]
    assert gguf_file.alignment == alignment
    assert (a.shape, a.ggml_type.name, a.n_bytes) == ((2, 3), "F32", 24)
    assert (b.shape, b.ggml_type.name, b.n_bytes) == ((3,), "F16", 6)
    assert gguf_file.tensor_bytes("a").view("<f4").tolist() == [0, 1, 2, 3, 4, 5]
    assert gguf_file.read_tensor("b").view("<f2").tolist() == [0, 1, 2]


def test_a_mapped_tensor_is_read_only(tmp_path: Path) -> None:
    data = read_gguf(write(tmp_path / "model.gguf", {})).tensor_bytes("a")
    with pytest.raises(ValueError, match="read-only"):
        data[0] = 1


@pytest.mark.parametrize("most", [1, 7, 4096])
def test_F60_short_reads_of_a_tensor_go_on_where_they_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """Linux reads at most 2 GiB at once, and any file system may give less."""
    path = write_model(tmp_path / "model.gguf", num_layers=1, vocab_size=300)
    gguf_file, preadv = read_gguf(path), os.preadv
    name = "token_embd.weight" if most > 1 else "output_norm.weight"
    whole = gguf_file.tensor_bytes(name)
    assert len(np.unique(whole)) > 1
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, at: preadv(fd, [buffers[0][:most]], at))
    assert np.array_equal(gguf_file.read_tensor(name), whole)


def test_tensors_may_lie_in_any_order(tmp_path: Path) -> None:
    """The header's order is not the data's: offsets decide."""
    header = b"GGUF" + struct.pack("<IQQ", 3, 3, 0)
    for name, offset in (("a", 64), ("b", 0), ("c", 32)):
        header += (
            struct.pack("<Q", 1)
            + name.encode()
            + struct.pack("<IQIQ", 1, 8, int(gguf.GGMLQuantizationType.F32), offset)
        )
    data = np.repeat(np.array([2, 3, 1], np.float32), 8).tobytes()
    path = tmp_path / "model.gguf"
    path.write_bytes(header + bytes(-len(header) % 32) + data)
    gguf_file = read_gguf(path)
    assert list(gguf_file.tensors) == ["a", "b", "c"]
    for name, value in (("a", 1.0), ("b", 2.0), ("c", 3.0)):
        assert gguf_file.read_tensor(name).view("<f4").tolist() == [value] * 8


def test_version_2_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf", {"k": (Kind.UINT8, 7)})
    raw = bytearray(path.read_bytes())
    raw[4] = 2
    path.write_bytes(raw)
    gguf_file = read_gguf(path)
    assert gguf_file.version == 2
    assert gguf_file.metadata["k"] == 7


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf", {})
    gc.collect()  # what other tests left behind
    before = set(os.listdir("/proc/self/fd"))
    read_gguf(path).read_tensor("a")
    path.write_bytes(b"GGUF")
    with pytest.raises(GgufError):
        read_gguf(path)
    assert set(os.listdir("/proc/self/fd")) <= before


def test_typed_getters(tmp_path: Path) -> None:
    pairs: dict[str, tuple[Kind, object]] = {
        "int": (Kind.UINT32, 7),
        "float": (Kind.FLOAT32, 0.5),
        "bool": (Kind.BOOL, True),
        "str": (Kind.STRING, "text"),
        "strs": (Kind.ARRAY, ["a", "b"]),
        "ints": (Kind.ARRAY, [1, -2]),
    }
    gguf_file = read_gguf(write(tmp_path / "model.gguf", pairs))
    assert gguf_file.get_int("int", minimum=7, maximum=7) == 7
    assert gguf_file.get_int("absent", 3) == 3
    assert gguf_file.get_float("float") == 0.5
    assert gguf_file.get_float("int") == 7.0
    assert gguf_file.get_bool("bool") is True
    assert gguf_file.get_str("str") == "text"
    assert gguf_file.get_str_list("strs") == ("a", "b")
    assert gguf_file.get_int_list("ints") == (1, -2)
    assert gguf_file.get_int_list("absent", ()) == ()


@pytest.mark.parametrize(
    "getter,key,arguments,problem",
    [
        ("get_int", "absent", {}, "absent: expected an integer, found nothing"),
        ("get_int", "bool", {}, "bool: expected an integer, found bool True"),
        ("get_int", "int", {"minimum": 8}, "int: expected at least 8, found 7"),
        ("get_int", "int", {"maximum": 6}, "int: expected at most 6, found 7"),
        ("get_int", "int", {"minimum": 1, "maximum": 6}, "int: expected 1 to 6, found 7"),
        ("get_float", "str", {}, "str: expected a finite number, found str 'text'"),
        ("get_float", "infinite", {}, "infinite: expected a finite number, found float inf"),
        ("get_bool", "int", {}, "int: expected a boolean, found int 7"),
        ("get_str", "strs", {}, "strs: expected a string, found an array of 1 str values"),
        ("get_str_list", "ints", {}, "ints: expected an array of strings, found an array of 1 int32 values"),
        ("get_int_list", "strs", {}, "strs: expected an array of integers, found an array of 1 str values"),
    ],
)
def test_typed_getters_F11(tmp_path: Path, getter: str, key: str, arguments: dict[str, int], problem: str) -> None:
    pairs: dict[str, tuple[Kind, object]] = {
        "int": (Kind.UINT32, 7),
        "bool": (Kind.BOOL, True),
        "infinite": (Kind.FLOAT32, float("inf")),
        "str": (Kind.STRING, "text"),
        "strs": (Kind.ARRAY, ["a"]),
        "ints": (Kind.ARRAY, [1]),
    }
    gguf_file = read_gguf(write(tmp_path / "model.gguf", pairs))
    with pytest.raises(GgufError) as caught:
        getattr(gguf_file, getter)(key, **arguments)
    assert str(caught.value).endswith(problem)


def assert_equal_to_the_gguf_package(path: Path) -> None:
    ours, theirs = read_gguf(path), gguf.GGUFReader(path)
    fields = {name: f for name, f in theirs.fields.items() if not name.startswith("GGUF.")}
    assert list(ours.metadata) == list(fields)
    for key, found in fields.items():
        assert plain(ours.metadata[key]) == found.contents(), key
    assert (ours.alignment, ours.data_offset) == (theirs.alignment, theirs.data_offset)
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        info = ours.tensors[tensor.name]
        assert info.shape == tuple(int(size) for size in reversed(tensor.shape))
        assert (int(info.ggml_type), info.offset) == (int(tensor.tensor_type), tensor.data_offset)
        expected = np.ascontiguousarray(tensor.data).view(np.uint8).reshape(-1)
        assert np.array_equal(ours.tensor_bytes(tensor.name), expected)


def test_a_fixture_equals_what_the_gguf_package_reads(tmp_path: Path) -> None:
    assert_equal_to_the_gguf_package(write_model(tmp_path / "model.gguf", "qwen3", "Q6_K"))


def test_a_real_model_equals_what_the_gguf_package_reads(smollm2_gguf: Path) -> None:
    assert_equal_to_the_gguf_package(smollm2_gguf)


def test_a_real_model_is_read_in_a_quarter_second(smollm2_gguf: Path) -> None:
    seconds = []
    for _ in range(3):
        start = time.process_time()
        read_gguf(smollm2_gguf)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.25
