"""GGUF models of several files: the same model as in one, and one line for each way in which the files disagree."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from rocmforge.artifacts.errors import GgufError
from rocmforge.compiler.bundle_cache import _identity
from rocmforge.compiler.describe import digest_of
from rocmforge.compiler.gguf_file import GgufFile
from rocmforge.compiler.gguf_reader import read_gguf
from rocmforge.compiler.gguf_split import SplitGguf, open_gguf, part_paths
from rocmforge.compiler.inspect import inspect_gguf
from rocmforge.compiler.read_config import read_config
from rocmforge.runtime.inspect import find_models
from rocmforge.tools.generate.fixtures import write_model
from rocmforge.tools.generate.gguf_writing import finish


def split(whole: Path, folder: Path, tensors: int = 8, first_without_tensors: bool = False) -> list[Path]:
    """Write a GGUF again as the `gguf` package splits it."""
    model = read_gguf(whole)
    writer = gguf.GGUFWriter(
        folder / "m.gguf", "llama", split_max_tensors=tensors, small_first_shard=first_without_tensors
    )
    for field in gguf.GGUFReader(whole).fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            kinds = field.types
            writer.add_key_value(field.name, field.contents(), kinds[0], kinds[-1] if len(kinds) > 1 else None)
    for name, tensor in model.tensors.items():
        data = model.read_rows(name, 0, tensor.rows)
        writer.add_tensor(
            name,
            data.reshape(-1) if len(tensor.shape) == 1 else data,
            raw_dtype=gguf.GGMLQuantizationType(tensor.ggml_type),
        )
    finish(writer)
    return sorted(folder.glob("m-*.gguf"))


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return write_model(tmp_path / "whole.gguf", types={"ffn_down": "Q8_0"})


@pytest.fixture
def parts(whole: Path, tmp_path: Path) -> list[Path]:
    return split(whole, tmp_path)


def test_the_parts_are_the_model(whole: Path, parts: list[Path]) -> None:
    assert len(parts) == 3
    one, several = read_gguf(whole), open_gguf(parts[0])
    assert isinstance(several, SplitGguf)
    assert list(several.tensors) == list(one.tensors)
    for name, tensor in one.tensors.items():
        found = several.tensors[name]
        assert (found.shape, found.ggml_type, found.n_bytes) == (tensor.shape, tensor.ggml_type, tensor.n_bytes)
        assert np.array_equal(several.read_tensor(name), one.read_tensor(name))
    assert read_config(several) == read_config(one)
    assert np.array_equal(several.read_rows("output_norm.weight", 0, 1), one.read_rows("output_norm.weight", 0, 1))
    last = several.tensors["token_embd.weight"].rows - 3
    assert np.array_equal(
        several.read_rows("token_embd.weight", last, 3).reshape(-1),
        one.read_tensor("token_embd.weight")[last * one.tensors["token_embd.weight"].row_bytes :],
    )


def test_a_first_part_without_tensors(whole: Path, tmp_path: Path) -> None:
    several = open_gguf(split(whole, tmp_path, 20, first_without_tensors=True)[0])
    assert isinstance(several, SplitGguf)
    assert not several.parts[0].tensors
    assert list(several.tensors) == list(read_gguf(whole).tensors)


def test_one_file_is_itself(whole: Path) -> None:
    assert isinstance(open_gguf(whole), GgufFile)
    assert part_paths(whole) == (whole,)


def test_the_digest_is_that_of_all_bytes_in_order(parts: list[Path]) -> None:
    expected = hashlib.sha256(b"".join(path.read_bytes() for path in parts)).hexdigest()
    assert digest_of(open_gguf(parts[0]).files()) == expected


def test_what_inspect_and_models_say(whole: Path, parts: list[Path], tmp_path: Path) -> None:
    one, several = inspect_gguf(whole), inspect_gguf(parts[0])
    assert several == one | {"file": str(parts[0]), "parts": 3}
    rows = find_models(tmp_path)
    assert [(row["path"], row["size_bytes"], row["about"]) for row in rows] == [
        (str(parts[0]), sum(path.stat().st_size for path in parts), "3 of 3 parts"),
        (str(whole), whole.stat().st_size, ""),
    ]


def test_any_part_decides_a_bundle_of_the_cache(parts: list[Path]) -> None:
    before = _identity(parts[0])
    parts[2].write_bytes(parts[2].read_bytes() + bytes(32))
    assert _identity(parts[0]) != before


def rewritten(path: Path, key: str, value: int) -> None:
    """Change an integer of a file's metadata where it lies."""
    reader = gguf.GGUFReader(path, "r+")
    reader.fields[key].parts[-1][0] = value
    reader.data.flush()


CASES: dict[str, tuple[Callable[[list[Path]], object], int, str]] = {
    "missing": (
        lambda parts: parts[1].unlink(),
        0,
        "m-00002-of-00003.gguf: file: expected part 2 of 3, found no such file",
    ),
    "not the first": (
        lambda parts: None,
        1,
        "split.no: expected the first part of the model, m-00001-of-00003.gguf, found part 2 of 3",
    ),
    "renamed": (
        lambda parts: parts[0].rename(parts[0].with_name("other.gguf")),
        -1,
        "file: expected a name that ends in -00001-of-00003.gguf, by which the other parts are found, found other.gguf",
    ),
    "misnumbered": (
        lambda parts: (parts[1].rename(parts[1].with_name("x")), parts[2].rename(parts[1])),
        0,
        "m-00002-of-00003.gguf: split.no: expected 1, as the file's name says, found 2",
    ),
    "of another count": (
        lambda parts: rewritten(parts[2], "split.count", 4),
        0,
        "m-00003-of-00003.gguf: split.count: expected 3, as the file's name says, found 4",
    ),
    "count that the name denies": (
        lambda parts: rewritten(parts[0], "split.count", 2),
        0,
        "file: expected a name that ends in -00001-of-00002.gguf, by which the other parts are found, found m-00001",
    ),
    "tensor count": (
        lambda parts: rewritten(parts[0], "split.tensors.count", 19),
        0,
        "split.tensors.count: expected the 20 tensors of all parts, found 19",
    ),
    "cut": (
        lambda parts: parts[2].write_bytes(parts[2].read_bytes()[:-64]),
        0,
        "m-00003-of-00003.gguf: ",
    ),
    "not a GGUF": (
        lambda parts: parts[1].write_bytes(b"hello"),
        0,
        "m-00002-of-00003.gguf: magic: expected b'GGUF', found b'hell'",
    ),
    "no number": (
        lambda parts: rewritten(parts[1], "split.no", 65535),
        0,
        "m-00002-of-00003.gguf: split.no: expected 1, as the file's name says, found 65535",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_files_that_disagree_are_refused_in_a_line(parts: list[Path], case: str) -> None:
    change, given, problem = CASES[case]
    change(parts)
    path = parts[0].with_name("other.gguf") if given < 0 else parts[given]
    with pytest.raises(GgufError) as caught:
        open_gguf(path)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tensor_in_two_parts_is_refused(whole: Path, parts: list[Path]) -> None:
    data = bytearray(parts[2].read_bytes())
    name = b"blk.1.ffn_up.weight"
    assert data.count(name) == 1
    other = b"blk.0.ffn_up.weight"
    data[:] = data.replace(name, other)
    parts[2].write_bytes(data)
    with pytest.raises(GgufError, match=r"00003-of-00003.*blk\.0\.ffn_up\.weight: expected each tensor in one part"):
        open_gguf(parts[0])


def test_a_count_of_parts_that_no_name_can_hold(whole: Path, tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "big-00001-of-00003.gguf", "llama")
    writer.add_key_value("split.count", 1 << 40, gguf.GGUFValueType.UINT64)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(GgufError, match=r"split\.count: expected 0 to 99999, found 1099511627776"):
        open_gguf(tmp_path / "big-00001-of-00003.gguf")
