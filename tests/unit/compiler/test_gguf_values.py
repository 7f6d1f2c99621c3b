"""Arrays of a GGUF file's metadata: checked when the file is read, made when they are asked for."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocmforge.artifacts.errors import GgufError
from rocmforge.compiler import ggml_types
from rocmforge.compiler.gguf_cursor import Cursor, opened
from rocmforge.compiler.gguf_reader import read_gguf
from rocmforge.compiler.gguf_values import FEW_NUMBERS, ValueType
from rocmforge.tools.generate.fixtures import write_model

# Lengths about where a length is no longer ASCII, one whose bytes are a character, and the lead of a longer one.
_TEXTS = st.one_of(
    st.binary(max_size=6),
    st.text(max_size=60).map(str.encode),
    st.sampled_from([126, 127, 128, 129, 0x80C3]).map(lambda n: b"a" * n),
    st.just(b"\xe3"),
)


def test_types_are_the_gguf_packages() -> None:
    assert {t.name: t.value for t in ValueType} == {t.name: t.value for t in gguf.GGUFValueType}
    theirs = {t.name: (t.value, *gguf.GGML_QUANT_SIZES[t]) for t in gguf.GGMLQuantizationType}
    ours = {t.name: (t.value, *ggml_types.BLOCKS[t]) for t in ggml_types.GgmlType}
    assert theirs.items() <= ours.items()


@pytest.mark.parametrize("at", range(1, 8))
def test_a_huge_length_among_many_short_ones_is_refused(tmp_path: Path, at: int) -> None:
    data = bytearray(600 * (struct.pack("<Q", 3) + b"abc"))
    data[11 * 50 + at] = 1
    path = tmp_path / "strings"
    path.write_bytes(data)
    with opened(path) as (fd, size), pytest.raises(GgufError, match=r"^.*k\[5[01]\]: expected "):
        Cursor(path, fd, size).skip_strings(600, "k")


@pytest.mark.slow
@settings(max_examples=200)
@given(
    texts=st.builds(list.__mul__, st.lists(_TEXTS, max_size=40), st.sampled_from([1, 20, 60])),
    cut=st.integers(0, 3),
    byte=st.integers(0, 255),
    at=st.integers(0, 2000) | st.integers(0, 50_000),
)
def test_going_past_strings_refuses_what_reading_them_does(
    tmp_path_factory: pytest.TempPathFactory, texts: list[bytes], cut: int, byte: int, at: int
) -> None:
    """Also where hundreds of short ones are gone past together."""
    data = bytearray(b"".join(struct.pack("<Q", len(text)) + text for text in texts))
    if at < len(data):
        data[at] = byte
    path = tmp_path_factory.mktemp("strings") / "strings"
    path.write_bytes(data[: len(data) - cut] + bytes(cut and 200))

    def outcome(skip: bool) -> tuple[int, str]:
        with opened(path) as (fd, size):
            cursor = Cursor(path, fd, size)
            try:
                (cursor.skip_strings if skip else cursor.strings)(len(texts), "k")
            except GgufError as error:
                return cursor.position, str(error)
        return cursor.position, ""

    assert outcome(True) == outcome(False)


@pytest.mark.parametrize("key", ["tokenizer.ggml.tokens", "tokenizer.ggml.token_type"])
def test_an_array_of_a_file_that_changed_is_not_read_F25(tmp_path: Path, key: str) -> None:
    path = write_model(tmp_path / "model.gguf")
    kept, late = read_gguf(path).metadata, read_gguf(path).metadata
    before = kept[key]
    os.utime(path, (0, 0))
    assert kept[key] is before
    assert key in late
    with pytest.raises(GgufError, match="it changed"):
        late[key]


def test_to_look_at_a_model_takes_neither_numpy_nor_its_vocabulary(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf")
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from rocmforge.compiler.gguf_values import Array\n"
        "from rocmforge.compiler.inspect import inspect_gguf\n"
        "Array.read = lambda self: sys.exit(self.field)\n"
        "print(inspect_gguf(Path(sys.argv[1]))['vocabulary'])\n"
        "print([m for m in ('numpy', 'gguf', 'tokenizers', 'safetensors', 'rocmforge.compiler.operations') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["320", "[]"]


_LISTS: dict[str, tuple[int | float | bool, ...]] = {
    "uint8": (0, 255),
    "int8": (-128, 127),
    "uint16": (0, 65535),
    "int16": (-32768, 32767),
    "uint32": (0, 2**32 - 1),
    "int32": (-(2**31), 2**31 - 1),
    "float32": (1.5, -0.25),
    "bool": (True, False, True),
    "uint64": (0, 2**64 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "float64": (0.1, -1e300),
}


def test_few_numbers_are_read_without_numpy(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for kind, values in _LISTS.items():
        writer.add_key_value(kind, values, gguf.GGUFValueType.ARRAY, gguf.GGUFValueType[kind.upper()])
    writer.add_key_value("many", bytes(FEW_NUMBERS + 1), gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.UINT8)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    source = read_gguf(path)
    for kind, values in _LISTS.items():
        assert source.get_numbers(kind) == (kind, values)
        assert [type(one) for one in (source.get_numbers(kind) or ("", ()))[1]] == [type(one) for one in values]
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from rocmforge.compiler.gguf_reader import read_gguf\n"
        "source = read_gguf(Path(sys.argv[1]))\n"
        "print(source.get_int_list('int16'), source.get_flags('bool', 2), 'numpy' in sys.modules)\n"
        "print(source.get_numbers('many')[0], 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["(-32768, 32767) (True, False) False", "uint8 True"]
    for kind in _LISTS:  # and once they were read as arrays
        before = source.get_numbers(kind)
        assert source.metadata[kind] is not None
        assert source.get_numbers(kind) == before
