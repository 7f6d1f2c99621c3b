"""Bad GGUF files: each is refused in one line, quickly, and at no cost in memory."""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rocmforge.artifacts.errors import GgufError
from rocmforge.compiler.gguf_file import GgufFile
from rocmforge.compiler.gguf_reader import read_gguf
from rocmforge.compiler.inspect import inspect_gguf
from rocmforge.compiler.read_config import read_config
from rocmforge.tools.generate.fixtures import write_model

RECORDED = Path(__file__).parents[2] / "data" / "refusals_gguf.txt"
U8, I32, F32, BOOL, STRING, ARRAY, U32 = 0, 5, 6, 7, 8, 9, 4
MAX_COUNT = 2**64 - 1


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return u64(len(raw)) + raw


def pair(key: str | bytes, kind: int, payload: bytes) -> bytes:
    return text(key) + u32(kind) + payload


def array(kind: int, count: int, payload: bytes = b"") -> bytes:
    return u32(kind) + u64(count) + payload


def tensor(
    name: str | bytes = "t",
    dims: tuple[int, ...] = (8,),
    kind: int = 0,
    offset: int = 0,
    n_dims: int | None = None,
) -> bytes:
    sizes = b"".join(map(u64, dims))
    return text(name) + u32(len(dims) if n_dims is None else n_dims) + sizes + u32(kind) + u64(offset)


@dataclass
class Raw:
    """A GGUF file by its parts, each of which may lie."""

    magic: bytes = b"GGUF"
    version: bytes = field(default_factory=lambda: u32(3))
    pairs: tuple[bytes, ...] = ()
    tensors: tuple[bytes, ...] = ()
    data: bytes = b""
    n_pairs: int | None = None
    n_tensors: int | None = None

    def build(self) -> bytes:
        n_tensors = len(self.tensors) if self.n_tensors is None else self.n_tensors
        n_pairs = len(self.pairs) if self.n_pairs is None else self.n_pairs
        head = self.magic + self.version + u64(n_tensors) + u64(n_pairs)
        head += b"".join(self.pairs) + b"".join(self.tensors)
        return head + bytes(-len(head) % 32) + self.data


def nested(depth: int) -> bytes:
    return array(ARRAY, 1) * (depth - 1) + array(U8, 1, b"\7")


def keys(*names: str | bytes) -> Raw:
    return Raw(pairs=tuple(pair(name, U8, b"\1") for name in names))


FILLER = bytes(256)


def holding(*tensors: bytes) -> Raw:
    return Raw(tensors=tensors, data=FILLER)


def valued(kind: int, payload: bytes, key: str = "k") -> Raw:
    return Raw(pairs=(pair(key, kind, payload),))


def listing(kind: int, count: int, payload: bytes = FILLER) -> Raw:
    return valued(ARRAY, array(kind, count, payload))


UNHOLDABLE = "expected a count that the file can hold"
BAD: dict[str, tuple[Raw | bytes, str]] = {
    "F01-empty": (b"", "magic: expected GGUF magic"),
    "F01-magic-only": (b"GGUF", "version: expected uint32"),
    "F02-bad-magic": (Raw(magic=b"GGML"), "magic: expected b'GGUF', found b'GGML' @0"),
    "F03-version-0": (Raw(version=u32(0)), "expected version 2 or 3, found 0 @4"),
    "F03-version-1": (Raw(version=u32(1)), "expected version 2 or 3, found 1 @4"),
    "F03-version-future": (Raw(version=u32(4)), "expected version 2 or 3, found 4 @4"),
    "F03-byte-swapped": (Raw(version=u32(3)[::-1]), "found big-endian version 3 @4"),
    "F04-tensor-count": (Raw(n_tensors=MAX_COUNT), f"tensor count: {UNHOLDABLE}, found {MAX_COUNT}"),
    "F04-tensor-count-large": (Raw(n_tensors=10**12), "tensor count: expected 1000000000000 tensors"),
    "F05-key-count": (Raw(n_pairs=MAX_COUNT), f"key count: {UNHOLDABLE}, found {MAX_COUNT}"),
    "F05-key-count-large": (Raw(n_pairs=10**12), "key count: expected 1000000000000 keys"),
    "F06-key-past-end": (Raw(pairs=(u64(60000) + b"key" + FILLER,)), "key 0: expected text (60000 bytes"),
    "F06-key-overlong": (
        Raw(pairs=(u64(MAX_COUNT) + FILLER,)),
        "key 0: expected at most 65535 bytes of text",
    ),
    "F06-string-past-end": (valued(STRING, u64(10**6) + FILLER), "k: expected text (1000000 bytes"),
    "F06-string-huge": (valued(STRING, u64(2**63) + FILLER), "k: expected at most 4194304 bytes of text"),
    "F07-numbers-past-end": (listing(F32, 1000, FILLER), "k: expected 1000 of FLOAT32 (4000 bytes"),
    "F07-numbers-overflow": (listing(F32, 2**62 + 1, FILLER), f"k: {UNHOLDABLE}"),
    "F07-strings-past-end": (listing(STRING, 10**9, FILLER), "k: expected 1000000000 strings"),
    "F07-string-item-past-end": (
        listing(STRING, 2, text("a") + u64(999) + FILLER),
        "k[1]: expected text (999 bytes",
    ),
    "F07-arrays-past-end": (listing(ARRAY, 10**9, FILLER), "k: expected 1000000000 arrays"),
    "F08-nested-5": (valued(ARRAY, nested(5)), "k: expected arrays nested at most 4 deep"),
    "F08-nested-100000": (valued(ARRAY, nested(100_000)), "k: expected arrays nested at most 4 deep"),
    "F09-empty-key": (keys(""), "key 0: expected a printable name, found ''"),
    "F09-duplicate-key": (keys("k", "k"), "k: expected each key once, found it twice"),
    "F10-value-type": (valued(13, FILLER), "12 FLOAT64), found 13"),
    "F10-array-item-type": (listing(99, 1, FILLER), "found 99"),
    "F10-tensor-type": (holding(tensor(kind=4)), "t: expected a tensor type (0 F32, 1 F16"),
    "F10-bool-2": (valued(BOOL, b"\2"), "k: expected booleans (0 or 1), found 2"),
    "F11-alignment-string": (
        valued(STRING, text("32"), "general.alignment"),
        "general.alignment: expected an integer, found str '32'",
    ),
    "F12-alignment-0": (
        valued(U32, u32(0), "general.alignment"),
        "general.alignment: expected 8 to 1048576, found 0",
    ),
    "F12-alignment-13": (
        valued(U32, u32(13), "general.alignment"),
        "general.alignment: expected a power of two, found 13",
    ),
    "F12-alignment-2^31": (
        valued(U32, u32(2**31), "general.alignment"),
        "general.alignment: expected 8 to 1048576, found 2147483648",
    ),
    "F13-n-dims-0": (holding(tensor(n_dims=0)), "t: expected 1 to 4 dimensions, found 0"),
    "F13-n-dims-5": (holding(tensor(dims=(1,) * 5)), "t: expected 1 to 4 dimensions, found 5"),
    "F13-n-dims-2^32-1": (holding(tensor(n_dims=2**32 - 1)), "found 4294967295"),
    "F14-zero-dimension": (
        holding(tensor(dims=(8, 0))),
        "t: expected dimensions of at least 1, found [8, 0]",
    ),
    "F15-product-overflow": (holding(tensor(dims=(2**32, 2**32))), f"t: {UNHOLDABLE}"),
    "F15-product-wraps-to-0": (holding(tensor(dims=(2**16,) * 4)), f"t: {UNHOLDABLE}"),
    "F15-bytes-overflow": (holding(tensor(dims=(2**62,))), f"t: {UNHOLDABLE}"),
    "F16-partial-block": (
        holding(tensor(dims=(33,), kind=8)),
        "t: expected rows of a multiple of 32 elements (Q8_0), found 33",
    ),
    "F17-duplicate-tensor": (
        holding(tensor(), tensor(offset=32)),
        "t: expected each tensor once, found it twice",
    ),
    "F17-tensor-name-64": (holding(tensor("n" * 64)), "expected at most 63 bytes of text, found 64"),
    "F17-tensor-name-empty": (holding(tensor("")), "tensor 0 name: expected a printable name, found ''"),
    "F18-misaligned": (holding(tensor(offset=8)), "t: expected an offset aligned to 32, found 8"),
    "F18-overlapping": (
        holding(tensor("a", (16,)), tensor("b", offset=32)),
        "b: expected tensors apart, found an overlap with a",
    ),
    "F18-past-end": (holding(tensor(offset=1024)), "t: expected 32 bytes at 1088, found a file of 320"),
    "F18-offset-2^64": (holding(tensor(offset=2**64 - 32)), "t: expected 32 bytes at 18446744073709551648"),
    "F19-one-byte-short": (
        Raw(tensors=(tensor(),), data=bytes(31)),
        "t: expected 32 bytes at 64, found a file of 95 bytes",
    ),
    "F21-token-utf8": (
        valued(ARRAY, array(STRING, 2, text("a") + text(b"b\xff")), "tokenizer.ggml.tokens"),
        r"tokenizer.ggml.tokens[1]: expected UTF-8, found b'b\xff'",
    ),
    "F21-token-utf8-far-in": (
        valued(ARRAY, array(STRING, 1, text(b"0123456789" * 3 + b"\xffabcdefghij")), "tokenizer.ggml.tokens"),
        r"tokenizer.ggml.tokens[0]: expected UTF-8, found b'23456789\xffabcdefg'",
    ),
    "F21-key-utf8": (keys(b"\xc3"), r"key 0: expected UTF-8, found b'\xc3'"),
    "F21-surrogate": (valued(STRING, text(b"\xed\xa0\x80")), "k: expected UTF-8"),
    "F24-key-nul": (keys("a\0b"), "expected a printable name, found 'a"),
    "F24-key-newline": (keys("a\nb"), "expected a printable name, found 'a"),
    "F24-key-escape-code": (keys("\x1b[31mred"), "expected a printable name, found '"),
    "F24-tensor-escape-code": (holding(tensor("\x1b]0;x\7")), "tensor 0 name: expected a printable"),
    "F24-parent-folder": (
        holding(tensor("../../etc/passwd", offset=8)),
        "../../etc/passwd: expected an offset",
    ),
}


def refused(path: Path, action: Callable[[Path], object] = read_gguf) -> str:
    """Check the contract of a refusal; returns its message."""
    start = time.process_time()
    with pytest.raises(GgufError) as caught:
        action(path)
    seconds = time.process_time() - start
    tracemalloc.start()
    with pytest.raises(GgufError):
        action(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    size = path.stat().st_size if path.is_file() else 0
    message = str(caught.value)
    assert seconds < 2
    assert peak < (64 << 20) + 2 * size
    assert message.isprintable()
    assert message.startswith(f"{path}: ")
    assert caught.value.exit_code == 3
    return message


@pytest.mark.parametrize("raw,problem", BAD.values(), ids=BAD.keys())
def test_refused(tmp_path: Path, raw: Raw | bytes, problem: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(raw if isinstance(raw, bytes) else raw.build())
    assert problem in refused(path)


def refusals(folder: Path) -> list[str]:
    """What is said of each bad file, whole, and where in it."""
    found, path = [], folder / "bad.gguf"
    for name, (raw, _) in BAD.items():
        path.write_bytes(raw if isinstance(raw, bytes) else raw.build())
        with pytest.raises(GgufError) as caught:
            read_gguf(path)
        found.append(f"{name}: {str(caught.value).removeprefix(f'{path}: ')}")
    return found


def test_each_refusal_is_the_recorded_one(tmp_path: Path) -> None:
    """After a change that is meant: `python -m rocmforge.tests.unit.compiler.test_gguf_faults` records anew."""
    assert refusals(tmp_path) == RECORDED.read_text("utf-8").splitlines()


def test_the_builder_builds_good_files(tmp_path: Path) -> None:
    path = tmp_path / "good.gguf"
    value = pair("k", ARRAY, nested(4))
    path.write_bytes(Raw(pairs=(value,), tensors=(tensor("../x"),), data=FILLER).build())
    assert read_gguf(path).tensors["../x"].shape == (8,)


def test_an_array_without_values_is_an_array_of_strings_too(tmp_path: Path) -> None:
    """A tokenizer of single bytes has no merges; a file says so by an array whose kind is all that it tells."""
    path = tmp_path / "model.gguf"
    path.write_bytes(valued(ARRAY, array(STRING, 0), "merges").build())
    assert read_gguf(path).get_str_list("merges") == ()


@pytest.mark.slow
@pytest.mark.parametrize("count", [70_000], ids=["F05-many-keys"])
def test_a_file_of_tiny_keys_takes_little_memory(tmp_path: Path, count: int) -> None:
    path = tmp_path / "keys.gguf"
    path.write_bytes(Raw(pairs=tuple(pair(str(i), U8, b"\1") for i in range(count))).build())
    assert "expected metadata of at most" in refused(path)


@pytest.mark.slow
def test_strings_that_grow_when_decoded_take_little_memory_F07(tmp_path: Path) -> None:
    # One character past the basic plane makes Python store each of the others in four bytes.
    path = tmp_path / "strings.gguf"
    item = text("a" * 1000 + "\N{GRINNING FACE}")
    path.write_bytes(listing(STRING, 30_000, item * 30_000).build())
    assert "expected metadata of at most" in refused(path, lambda p: read_gguf(p).metadata["k"])


# In a process of its own, at full speed: tracing a million allocations takes a minute.
PEAK = """
import numpy  # which numbers are read into
import re, sys
from pathlib import Path
from rocmforge.artifacts.errors import GgufError
from rocmforge.compiler.gguf_reader import read_gguf

def most():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) << 10

before = most()
try:
    values = list(read_gguf(Path(sys.argv[1])).metadata.values())
    print("read")
except GgufError as error:
    print(error)
print(most() - before)
"""


def read_elsewhere(path: Path) -> tuple[str, int]:
    """What is said of a file whose metadata is read, all of it, and the most memory that it took, in bytes."""
    done = subprocess.run([sys.executable, "-c", PEAK, path], capture_output=True, text=True, timeout=120, check=True)
    said, peak = done.stdout.splitlines()
    return said, int(peak)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind,count,size",
    [(STRING, 1_200_000, 0), (STRING, 900_000, 4), (STRING, 12, 4 << 20), (U8, 40 << 20, 1)],
    ids=["F81-empty-strings", "F81-short-strings", "F81-long-strings", "F81-numbers"],
)
def test_memory_stays_bounded_however_it_is_taken(tmp_path: Path, kind: int, count: int, size: int) -> None:
    """Close to what values may take, or past it: what is refused is refused before it has taken more."""
    item = b"x" if kind == U8 else text("x" * (size - 4) + "\N{GRINNING FACE}" if size else "")
    path = tmp_path / "large.gguf"
    path.write_bytes(Raw(pairs=(pair("k", ARRAY, array(kind, count, item * count)),)).build())
    said, peak = read_elsewhere(path)
    assert said == "read" or said.startswith(f"{path}: k: expected metadata of at most")
    assert 8 << 20 < peak < (64 << 20) + 2 * path.stat().st_size


def large_vocabulary(tokens: int = 262_144, merges: int = 514_906) -> Raw:
    """A vocabulary only, of the shape of Gemma 4's: so many tokens and merges, and about as many bytes of each."""
    words = [f"\u2581{index:x}" if index % 3 else f"\u0430{index:05x}" for index in range(tokens)]
    joined = [f"{words[index % tokens]} {index // 7:05x}" for index in range(merges)]
    return Raw(
        pairs=(
            pair("general.architecture", STRING, text("gemma4-vision")),
            pair("tokenizer.ggml.model", STRING, text("gemma4")),
            pair("tokenizer.ggml.tokens", ARRAY, array(STRING, tokens, b"".join(map(text, words)))),
            pair("tokenizer.ggml.scores", ARRAY, array(F32, tokens, bytes(4 * tokens))),
            pair("tokenizer.ggml.token_type", ARRAY, array(I32, tokens, bytes(4 * tokens))),
            pair("tokenizer.ggml.merges", ARRAY, array(STRING, merges, b"".join(map(text, joined)))),
        )
    )


@pytest.mark.slow
def test_the_largest_vocabulary_in_use_is_read(tmp_path: Path) -> None:
    path = tmp_path / "gemma4.gguf"
    path.write_bytes(large_vocabulary().build())
    metadata = read_gguf(path).metadata
    tokens, merges = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.merges"]
    assert isinstance(tokens, tuple)
    assert isinstance(merges, tuple)
    assert (len(tokens), len(merges)) == (262_144, 514_906)
    assert (tokens[-2], merges[-1]) == ("\u25813fffe", f"{tokens[514_905 % 262_144]} {514_905 // 7:05x}")
    said, peak = read_elsewhere(path)
    assert said == "read"
    assert 60 << 20 < peak < (64 << 20) + 2 * path.stat().st_size
    facts = inspect_gguf(path)
    assert (facts["vocabulary"], facts["merges"], facts["tensors"]) == (262_144, 514_906, "none")
    assert "gemma4-vision, which cannot be compiled" in str(facts["architecture"])


def test_a_sparse_file_is_not_read_F07(tmp_path: Path) -> None:
    path = tmp_path / "sparse.gguf"
    with path.open("wb") as file:
        file.write(Raw(pairs=(pair("k", ARRAY, array(U8, 1 << 39)),)).build())
        file.truncate(1 << 40)
    assert "expected a header of at most" in refused(path)


@pytest.mark.parametrize(
    "key,kind,payload,problem",
    [
        ("llama.block_count", U32, u32(10**9), "expected 1 to 1024, found 1000000000"),
        ("llama.attention.head_count", U32, u32(0), "expected 1 to 1024, found 0"),
        ("llama.attention.head_count", U32, u32(3), "expected a divisor of the hidden size 64, found 3"),
        ("llama.attention.head_count_kv", U32, u32(3), "expected a divisor of the 4 heads, found 3"),
        ("llama.attention.head_count_kv", U32, u32(0), "expected 1 to 4, found 0"),
        ("llama.block_count", STRING, text("two"), "expected an integer, found str 'two'"),
        ("llama.block_count", ARRAY, array(I32, 1, u32(2)), "expected an integer, found an array of 1 int32"),
        ("llama.attention.layer_norm_rms_epsilon", F32, struct.pack("<f", float("nan")), "finite number"),
    ],
    ids=[
        "F20-block-count-1e9",
        "F20-head-count-0",
        "F20-heads-do-not-divide",
        "F20-kv-heads-do-not-divide",
        "F20-kv-heads-0",
        "F11-string-for-integer",
        "F11-array-for-integer",
        "F11-nan",
    ],
)  # fmt: skip
def test_a_bad_hyperparameter(tmp_path: Path, key: str, kind: int, payload: bytes, problem: str) -> None:
    path = tmp_path / "bad.gguf"
    values = {
        "general.architecture": (STRING, text("llama")),
        "llama.embedding_length": (U32, u32(64)),
        "llama.block_count": (U32, u32(2)),
        "llama.feed_forward_length": (U32, u32(128)),
        "llama.context_length": (U32, u32(256)),
        "llama.attention.head_count": (U32, u32(4)),
        "llama.attention.head_count_kv": (U32, u32(2)),
        "llama.attention.layer_norm_rms_epsilon": (F32, struct.pack("<f", 1e-5)),
    } | {key: (kind, payload)}
    pairs = tuple(pair(name, *value) for name, value in values.items())
    path.write_bytes(Raw(pairs=pairs, tensors=(tensor("token_embd.weight", (64, 2)),), data=bytes(512)).build())
    message = refused(path, lambda p: read_config(read_gguf(p)))
    assert f"{key}: " in message
    assert problem in message


@pytest.mark.parametrize("copy", [False, True], ids=["F25-mapped", "F25-copied"])
def test_a_file_that_was_cut(tmp_path: Path, copy: bool) -> None:
    path = write_model(tmp_path / "model.gguf")
    gguf_file = read_gguf(path)
    os.truncate(path, gguf_file.data_offset + 1)
    access = GgufFile.read_tensor if copy else GgufFile.tensor_bytes
    assert "it changed" in refused(path, lambda _: access(gguf_file, "token_embd.weight"))


def test_a_disk_that_fails_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    path = tmp_path / "model.gguf"
    path.write_bytes(Raw().build())
    monkeypatch.setattr(os, "pread", fails)
    assert refused(path) == f"{path}: file: expected a readable file, found: Input/output error"


def test_a_file_cut_while_its_header_is_read_F25(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_model(tmp_path / "model.gguf")
    monkeypatch.setattr(os, "pread", lambda fd, n, at: b"")
    assert "it was cut" in refused(path)


def test_a_file_cut_while_a_tensor_is_copied_F25(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_model(tmp_path / "model.gguf")
    gguf_file = read_gguf(path)
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, at: 0)
    assert "the file was cut" in refused(path, lambda _: gguf_file.read_tensor("token_embd.weight"))


@pytest.mark.parametrize(
    "make,found",
    [
        (os.mkfifo, "a FIFO"),
        (os.mkdir, "a directory"),
        (lambda path: os.symlink("/dev/zero", path), "a device"),
        (lambda path: None, "No such file"),
        (lambda path: os.symlink(path, path), "symbolic links"),
    ],
    ids=["F26-fifo", "F26-directory", "F26-dev-zero", "F26-missing", "F26-link-loop"],
)
def test_not_a_regular_file(tmp_path: Path, make: Callable[[Path], None], found: str) -> None:
    path = tmp_path / "model.gguf"
    make(path)
    assert found in refused(path)


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("mutations")
    return write_model(folder / "model.gguf", num_layers=1, vocab_size=260).read_bytes()


@pytest.mark.slow
@settings(max_examples=300, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_mutated_file_is_read_or_refused(small_model: bytes, tmp_path: Path, data: st.DataObject) -> None:
    mutated = bytearray(small_model)
    # Past the vocabulary the header names tensors; both ends of it are worth hitting, the weights are not.
    positions = st.one_of(st.integers(0, 1200), st.integers(0, len(mutated) - 1))
    pieces = st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([b"\xff" * 8, bytes(8)]))
    for at, piece in data.draw(st.lists(st.tuples(positions, pieces), min_size=1, max_size=4)):
        mutated[at : at + len(piece)] = piece
    if data.draw(st.booleans()):
        del mutated[data.draw(st.integers(0, len(mutated))) :]
    path = tmp_path / "mutated.gguf"
    path.write_bytes(mutated)
    with contextlib.suppress(GgufError):
        gguf_file = read_gguf(path)
        read_config(gguf_file)
        for name, info in gguf_file.tensors.items():
            assert len(gguf_file.tensor_bytes(name)) == info.n_bytes


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        RECORDED.write_text("".join(f"{line}\n" for line in refusals(Path(place))), "utf-8")
