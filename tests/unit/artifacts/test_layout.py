"""layout.msgpack: round trips, and bytes that nobody should trust."""

from __future__ import annotations

import dataclasses
import math
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocmforge.artifacts.arguments import Argument, BufferRef, KvRef, StepRef, TensorRef
from rocmforge.artifacts.checker import Checker
from rocmforge.artifacts.errors import BundleError
from rocmforge.artifacts.layout import (
    GRID_ROWS,
    ITEM_BYTES,
    BufferEntry,
    FinalNorm,
    GridEntry,
    LaunchEntry,
    Layout,
    TensorEntry,
    kv_head_bytes,
)
from rocmforge.artifacts.layout_file import decode_layout, encode_layout
from rocmforge.tests.support.bundle import LAYOUT

PATH = Path("model.rfb/layout.msgpack")

DATA = encode_layout(LAYOUT)


def changed(**fields: Any) -> bytes:
    return encode_layout(dataclasses.replace(LAYOUT, **fields))


def tensor(index: int, **fields: Any) -> tuple[TensorEntry, ...]:
    tensors = list(LAYOUT.tensors)
    tensors[index] = dataclasses.replace(tensors[index], **fields)
    return tuple(tensors)


def raw(kernel: str, texts: Any, grid: GridEntry | None = None) -> LaunchEntry:
    """A launch with texts for arguments, which need not be any."""
    return LaunchEntry(kernel, texts, grid)


def test_round_trip_and_sizes() -> None:
    assert decode_layout(PATH, DATA, 2304) == LAYOUT
    assert encode_layout(LAYOUT) == DATA
    assert LAYOUT.weights_bytes == 2304
    assert LAYOUT.arena_bytes() == 8 * 32 * 4 + 64
    assert LAYOUT.kv.bytes_per_block == 2 * 2 * 3 * 64 * 16 * 2
    # Each 32 elements of a head: a float16 and 32 int8, not 32 float16.
    assert dataclasses.replace(LAYOUT.kv, dtype="q8_0").bytes_per_block == 2 * 2 * 3 * 16 * (64 + 2 * 2)
    assert LAYOUT.buffers[0].n_bytes(3) == 384


def test_format_1_0_had_bytes_of_an_element() -> None:
    table = msgpack.unpackb(DATA)
    table["kv"][-1] = 2
    assert decode_layout(PATH, msgpack.packb(table), 2304) == LAYOUT


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    offset, tensors = 0, []
    for name in draw(st.lists(names, unique=True, max_size=6)):
        shape = tuple(draw(st.lists(st.integers(1, 9), max_size=4)))
        n_bytes = 4 * math.prod(shape)
        tensors.append(TensorEntry(name, "f32", shape, offset, n_bytes))
        offset += -(-n_bytes // 64) * 64
    buffers = [
        BufferEntry(name, draw(st.sampled_from(sorted(ITEM_BYTES))), draw(st.integers(0, 99)), 7)
        for name in draw(st.lists(names, unique=True, max_size=6))
    ]
    known: list[Argument] = [*(TensorRef(t.name) for t in tensors), *(BufferRef(b.name) for b in buffers)]
    arguments = st.lists(st.sampled_from([*known, None, KvRef(0, "key"), KvRef(1, "value")]), max_size=8)
    grid = st.builds(GridEntry, st.integers(1, 1024), st.integers(1, 99), st.sampled_from(GRID_ROWS), st.integers(1, 9))
    launch = st.builds(LaunchEntry, st.just("k_1"), arguments.map(tuple), st.none() | grid)
    launches = draw(st.lists(launch, max_size=6))
    return dataclasses.replace(
        LAYOUT, tensors=tuple(tensors), buffers=tuple(buffers), launches=tuple(launches), final_norm=None
    )


@given(layouts())
def test_any_layout_round_trips(layout: Layout) -> None:
    assert decode_layout(PATH, encode_layout(layout), layout.weights_bytes) == layout


@settings(max_examples=400)
@given(st.lists(st.tuples(st.integers(0, len(DATA) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_mutated_bytes_give_a_layout_or_a_bundle_error(changes: list[tuple[int, int]]) -> None:
    data = bytearray(DATA)
    for at, value in changes:
        data[at] = value
    try:
        decode_layout(PATH, bytes(data), 2304)
    except BundleError:
        return


@given(st.binary(max_size=200))
def test_foreign_bytes_give_a_bundle_error(data: bytes) -> None:
    with pytest.raises(BundleError):
        decode_layout(PATH, data, 2304)


@pytest.mark.parametrize("cut", range(len(DATA)))
def test_truncation_gives_a_bundle_error(cut: int) -> None:
    with pytest.raises(BundleError):
        decode_layout(PATH, DATA[:cut], 2304)


def hostile(body: bytes, key: bytes = b"tensors") -> bytes:
    return b"\x81" + bytes([0xA0 + len(key)]) + key + body


HUGE = struct.pack(">I", 0xFFFFFFFF)
MANY = struct.pack(">I", 20_000_000)


@pytest.mark.parametrize(
    "field, low, high",
    [("threads", 1, 1024), ("x", 1, 2**31 - 1), ("tile", 1, 2**20), ("split", 0, 2**30), ("at_least", 0, 2**31 - 1)],
)
def test_grids_to_the_last_that_hip_takes(field: str, low: int, high: int) -> None:
    def with_grid(value: int) -> Layout:
        grid = dataclasses.replace(GridEntry(64, 1, "tokens", 1), **{field: value})  # type: ignore[arg-type]
        launch = dataclasses.replace(LAYOUT.launches[0], grid=grid)
        return dataclasses.replace(LAYOUT, launches=(launch, *LAYOUT.launches[1:]))

    for value in (low, high):
        assert decode_layout(PATH, encode_layout(with_grid(value)), 2304) == with_grid(value)
    for value in (low - 1, high + 1):
        with pytest.raises(BundleError, match=f"{field}: expected {low} to {high}, found {value}"):
            decode_layout(PATH, encode_layout(with_grid(value)), 2304)


def test_arguments_by_which_host_and_gpu_speak_of_a_step() -> None:
    launches = tuple(
        LaunchEntry("a", (argument,), GridEntry(64, 1)) for argument in (StepRef("image"), StepRef("echo"))
    )
    layout = dataclasses.replace(LAYOUT, launches=launches)
    assert decode_layout(PATH, encode_layout(layout), 2304) == layout


@pytest.mark.parametrize("name", ["kv", "tensors", "vocab_size"])
def test_a_field_that_is_missing_is_named(name: str) -> None:
    fields = msgpack.unpackb(encode_layout(LAYOUT))
    del fields[name]
    with pytest.raises(BundleError, match=f"{name}: expected a value, found none"):
        decode_layout(PATH, msgpack.packb(fields), 2304)


@pytest.mark.parametrize("count", [4096, 4097])
def test_a_layout_has_4096_buffers_at_most(count: int) -> None:
    more = (BufferEntry(f"b{i}", "uint8", 1, 1) for i in range(count - len(LAYOUT.buffers)))
    layout = dataclasses.replace(LAYOUT, buffers=(*LAYOUT.buffers, *more))
    if count == 4096:
        assert decode_layout(PATH, encode_layout(layout), 2304) == layout
        return
    with pytest.raises(BundleError, match="4096"):
        decode_layout(PATH, encode_layout(layout), 2304)


@pytest.mark.parametrize("length", [0, 1, 512, 513])
def test_names_have_1_to_512_characters(length: int) -> None:
    layout = dataclasses.replace(LAYOUT, buffers=(*LAYOUT.buffers, BufferEntry("b" * length, "uint8", 1, 1)))
    if length in (1, 512):
        assert decode_layout(PATH, encode_layout(layout), 2304) == layout
        return
    with pytest.raises(BundleError, match=f"expected 1 to 512 characters, found {length}"):
        decode_layout(PATH, encode_layout(layout), 2304)


@pytest.mark.parametrize("field", ["kv", "tensors", "vocab_size"])
def test_a_field_comes_once(field: str) -> None:
    """The same value twice: nothing but the repetition is wrong."""
    fields = msgpack.unpackb(DATA)
    packed = [msgpack.packb(name) + msgpack.packb(value) for name, value in [*fields.items(), (field, fields[field])]]
    with pytest.raises(BundleError, match=f"{field}: expected once, found twice"):
        decode_layout(PATH, bytes([0x80 | len(packed)]) + b"".join(packed), 2304)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(hostile(b"\xdd" + HUGE), id="F36-array-count"),
        pytest.param(b"\xdf" + HUGE, id="F36-map-count"),
        pytest.param(hostile(b"\x91\xdd" + HUGE), id="F36-inner-array-count"),
        pytest.param(hostile(b"\x91\x95\xdb" + HUGE), id="F36-string-length"),
        pytest.param(hostile(b"\x91\xdf" + HUGE), id="F36-inner-map-count"),
        pytest.param(hostile(b"\x91" * 1_000_000), id="F37-nesting"),
        pytest.param(hostile(b"\xdd" + MANY + b"\xa0" * 20_000_000), id="F37-empty-strings"),
        pytest.param(hostile((b"\xdc\x00\x40" + b"\xa0" * 64) * 100_000), id="F37-arrays-of-empty-strings"),
        pytest.param(hostile(b"\x91\xc7\x04\x05abcd"), id="F37-ext"),
        pytest.param(hostile(b"\xd6\xff\x00\x00\x00\x00", b"kv"), id="F37-timestamp"),
        pytest.param(hostile(b"\x91\xc4\x01a"), id="F37-bin"),
        pytest.param(hostile(b"\x90") + b"\x00", id="trailing"),
        pytest.param(hostile(b"\x90", b"other"), id="unknown-field"),
        pytest.param(b"\x82" + hostile(b"\x90")[1:] * 2, id="field-twice"),
        pytest.param(hostile(b"\x90"), id="field-missing"),
        pytest.param(hostile(b"\x91\x95\xa1\xff\xa1a\x90\x00\x01"), id="bad-utf8"),
        pytest.param(b"", id="empty"),
    ],
)
def test_hostile_msgpack(data: bytes) -> None:
    tracemalloc.start()
    begin = time.perf_counter()
    with pytest.raises(BundleError):
        decode_layout(PATH, data, 2304)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.perf_counter() - begin < 2
    assert peak < (64 << 20) + 2 * len(data)


@pytest.mark.parametrize(
    "data, field",
    [
        pytest.param(changed(tensors=tensor(1, offset=2240)), "tensor norm.offset", id="F38-past-the-end"),
        pytest.param(changed(tensors=tensor(1, offset=1 << 62)), "tensor norm.offset", id="F38-far-away"),
        pytest.param(changed(tensors=tensor(1, offset=64)), "tensor norm.offset", id="F38-overlap"),
        pytest.param(changed(tensors=tensor(1, offset=2176 - 32)), "tensor norm.offset", id="F38-misaligned"),
        pytest.param(changed(tensors=tensor(1, offset=-64)), "tensors[1].offset", id="F38-negative"),
        pytest.param(changed(tensors=tensor(1, n_bytes=0)), "tensors[1].n_bytes", id="F39-no-bytes"),
        pytest.param(changed(tensors=tensor(1, shape=(1 << 40, 1 << 40))), "norm.shape", id="F39-overflow"),
        pytest.param(changed(tensors=tensor(1, shape=(1025,))), "norm.shape", id="F39-too-many"),
        pytest.param(changed(tensors=tensor(1, shape=(31,))), "norm.shape", id="F39-too-few"),
        pytest.param(changed(tensors=tensor(1, n_bytes=64)), "norm.shape", id="F39-bytes-too-few"),
        pytest.param(changed(tensors=tensor(0, shape=(65, 32))), "token_embd.shape", id="F39-a-tile-too-many"),
        pytest.param(changed(tensors=tensor(0, shape=(64, 33))), "token_embd.shape", id="F39-part-of-a-block"),
        pytest.param(changed(tensors=tensor(0, shape=(2048,))), "token_embd.shape", id="F39-no-matrix"),
        pytest.param(changed(tensors=tensor(0, packing="rows16_q9")), "token_embd.shape", id="F39-unknown-packing"),
        pytest.param(changed(tensors=tensor(1, shape=(0,))), "tensors[1].shape", id="F39-zero"),
        pytest.param(changed(tensors=tensor(1, shape=(True,))), "tensors[1].shape", id="F39-bool"),
        pytest.param(changed(tensors=tensor(1, name="token_embd")), "tensors[1].name", id="duplicate-tensor"),
        pytest.param(changed(buffers=LAYOUT.buffers[:1] * 2), "buffers[1].name", id="duplicate-buffer"),
        pytest.param(changed(buffers=(BufferEntry("hidden", "float64", 1, 1),)), "buffers[0].dtype", id="dtype"),
        pytest.param(
            changed(buffers=(*LAYOUT.buffers, BufferEntry("b", "int8", 1 << 40, 1 << 40))), "arena", id="huge"
        ),
        pytest.param(changed(launches=(LaunchEntry("a b", ()),)), "launches[0].kernel", id="symbol"),
        pytest.param(changed(launches=(raw("a", ("none",) * 9),)), "launches[0].arguments", id="arguments"),
        pytest.param(changed(launches=(raw("a", ("tensor:x",)),)), "arguments[0]", id="no-tensor"),
        pytest.param(changed(launches=(raw("a", ("buffer:x",)),)), "arguments[0]", id="no-buffer"),
        pytest.param(changed(launches=(raw("a", ("step:image",)),)), "arguments[0]", id="step-of-the-host"),
        pytest.param(
            changed(launches=(raw("a", ("step:masks",), GridEntry(1, 1)),)), "arguments[0]", id="no-part-of-it"
        ),
        pytest.param(changed(launches=(LaunchEntry("a", (), GridEntry(0, 1)),)), "grid.threads", id="no-threads"),
        pytest.param(changed(launches=(LaunchEntry("a", (), GridEntry(1, 1, "rows")),)), "grid.rows", id="rows"),
        pytest.param(changed(launches=(raw("a", ("kv:2:key",)),)), "arguments[0]", id="no-layer"),
        pytest.param(changed(launches=(raw("a", ("kv:01:key",)),)), "arguments[0]", id="bad-layer"),
        pytest.param(changed(max_batch_tokens=0), "max_batch_tokens", id="no-tokens"),
        pytest.param(changed(vocab_size=1 << 40), "vocab_size", id="vocab"),
        pytest.param(changed(hidden_size="32"), "hidden_size", id="type"),
        pytest.param(changed(kv=dataclasses.replace(LAYOUT.kv, head_dim=0)), "kv.head_dim", id="kv-head-dim"),
        pytest.param(changed(final_norm=FinalNorm("other", "norm", 0.0)), "final_norm.buffer", id="no-hidden"),
        pytest.param(changed(final_norm=FinalNorm("scratch", "norm", 0.0)), "final_norm.buffer", id="small-hidden"),
        pytest.param(changed(final_norm=FinalNorm("hidden", "other", 0.0)), "final_norm.tensor", id="no-norm"),
        pytest.param(changed(final_norm=FinalNorm("hidden", "token_embd", 0.0)), "final_norm.tensor", id="big-norm"),
        pytest.param(changed(final_norm=FinalNorm("hidden", "norm", math.nan)), "final_norm.epsilon", id="epsilon"),
        pytest.param(changed(final_norm=FinalNorm("hidden", "norm", 1)), "final_norm.epsilon", id="epsilon-type"),
        pytest.param(changed(hidden_size=64), "final_norm.buffer", id="F39-hidden-size"),
        pytest.param(changed(kv=dataclasses.replace(LAYOUT.kv, dtype="q4_0")), "kv.dtype", id="kv-dtype"),
        pytest.param(
            changed(kv=dataclasses.replace(LAYOUT.kv, dtype="q8_0", head_dim=80)), "kv.head_dim", id="kv-q8_0-of-80"
        ),
        pytest.param(msgpack.packb({1: 2}), "key", id="key-type"),
        pytest.param(bytes((64 << 20) + 1), "size", id="too-large"),
    ],
)
def test_bad_fields_are_named(data: bytes, field: str) -> None:
    with pytest.raises(BundleError) as caught:
        decode_layout(PATH, data, 2304)
    assert field in str(caught.value) or (field == "arena" and caught.value.field == "buffers")
    assert str(caught.value).startswith(f"{PATH}: {caught.value.field}: expected ")


def test_largest_count_of_entries_stays_small() -> None:
    tensors = tuple(TensorEntry(f"t{i}", "f32", (16,), 64 * i, 64) for i in range(10_000))
    layout = dataclasses.replace(LAYOUT, tensors=tensors, launches=(), final_norm=None)
    begin = time.perf_counter()
    assert decode_layout(PATH, encode_layout(layout), layout.weights_bytes) == layout
    assert time.perf_counter() - begin < 2


CHECK = Checker(PATH)


@pytest.mark.parametrize(
    "check, field, problem",
    [
        (lambda: CHECK.integer(True, "a"), "a", "expected an integer, found bool"),
        (lambda: CHECK.integer(1.0, "a"), "a", "expected an integer, found float"),
        (lambda: CHECK.integer(-1, "a"), "a", f"expected 0 to {2**63 - 1}, found -1"),
        (lambda: CHECK.integer(2**63, "a"), "a", f"expected 0 to {2**63 - 1}, found {2**63}"),
        (lambda: CHECK.integer(2, "a", 3, 4), "a", "expected 3 to 4, found 2"),
        (lambda: CHECK.integer(5, "a", 3, 4), "a", "expected 3 to 4, found 5"),
        (lambda: CHECK.text(b"x", "a"), "a", "expected a string, found bytes"),
        (lambda: CHECK.text("", "a"), "a", "expected 1 to 512 characters, found 0"),
        (lambda: CHECK.text("xyz", "a", 2, empty=True), "a", "expected 0 to 2 characters, found 3"),
        (lambda: CHECK.array((), "a"), "a", "expected an array, found tuple"),
        (lambda: CHECK.array([0] * 65, "a"), "a", "expected 0 to 64 elements, found 65"),
        (lambda: CHECK.array([0], "a", 2, 3), "a", "expected 2 to 3 elements, found 1"),
        (lambda: CHECK.array([0] * 4, "a", 2, 3), "a", "expected 2 to 3 elements, found 4"),
        (lambda: CHECK.fail("a", "expected more"), "a", "expected more"),
    ],
)
def test_what_is_checked_of_a_value_and_what_is_said(check: Callable[[], object], field: str, problem: str) -> None:
    with pytest.raises(BundleError) as caught:
        check()
    assert (caught.value.field, str(caught.value)) == (field, f"{PATH}: {field}: {problem}")


def test_values_that_pass_are_given_back() -> None:
    assert [CHECK.integer(value, "a") for value in (0, 2**63 - 1)] == [0, 2**63 - 1]
    assert [CHECK.integer(value, "a", 3, 4) for value in (3, 4)] == [3, 4]
    assert [CHECK.text(value, "a", 2, empty=True) for value in ("", "xy")] == ["", "xy"]
    assert [CHECK.array(value, "a", 2, 3) for value in ([0] * 2, [0] * 3)] == [[0] * 2, [0] * 3]
    assert [len(CHECK.array([0] * n, "a")) for n in (0, 64)] == [0, 64]


def sized(**fields: int) -> Layout:
    """A layout of nothing but these figures."""
    kv: dict[str, Any] = {name: value for name, value in fields.items() if hasattr(LAYOUT.kv, name)}
    rest: dict[str, Any] = {name: value for name, value in fields.items() if name not in kv}
    bare = dataclasses.replace(LAYOUT, tensors=(), buffers=(), launches=(), final_norm=None, **rest)
    return dataclasses.replace(bare, kv=dataclasses.replace(LAYOUT.kv, **kv))


@pytest.mark.parametrize(
    "field, high",
    [
        ("max_batch_tokens", 2**20),
        ("max_sequences", 2**20),
        ("vocab_size", 2**31 - 1),
        ("hidden_size", 2**24),
        ("max_seq_len", 2**31 - 1),
        ("num_layers", 2**12),
        ("num_kv_heads", 2**16),
        ("head_dim", 2**16),
        ("block_size", 2**16),
    ],
)
def test_figures_from_1_to_the_largest(field: str, high: int) -> None:
    name = f"kv.{field}" if hasattr(LAYOUT.kv, field) else field
    for value in (1, high):
        layout = sized(**{field: value})
        assert decode_layout(PATH, encode_layout(layout), 0) == layout
    for value in (0, high + 1):
        with pytest.raises(BundleError) as caught:
            decode_layout(PATH, encode_layout(sized(**{field: value})), 0)
        assert str(caught.value) == f"{PATH}: {name}: expected 1 to {high}, found {value}"


def buffers(*entries: BufferEntry) -> Layout:
    return dataclasses.replace(sized(max_batch_tokens=1), buffers=entries)


def test_buffers_to_the_last_that_a_device_could_have() -> None:
    for entry in (BufferEntry("b", "uint8", 2**40, 0), BufferEntry("b", "uint8", 0, 2**40)):
        assert decode_layout(PATH, encode_layout(buffers(entry)), 0).buffers == (entry,)
    for field in ("elements_per_token", "elements_fixed"):
        for value in (-1, 2**40 + 1):
            entry = dataclasses.replace(BufferEntry("b", "uint8", 0, 0), **{field: value})  # type: ignore[arg-type]
            problem = rf"buffers\[0\]\.{field}: expected 0 to {2**40}, found {value}$"
            with pytest.raises(BundleError, match=problem):
                decode_layout(PATH, encode_layout(buffers(entry)), 0)
    whole = BufferEntry("b", "float32", 2**40, 0)
    assert decode_layout(PATH, encode_layout(buffers(whole)), 0).arena_bytes() == 2**42
    more = encode_layout(buffers(whole, BufferEntry("c", "uint8", 0, 1)))
    with pytest.raises(BundleError, match=f": buffers: expected at most {2**42} bytes, found {2**42 + 64}$"):
        decode_layout(PATH, more, 0)


def test_bytes_of_a_buffer_by_its_dtype() -> None:
    found = {dtype: BufferEntry("b", dtype, 3, 5).n_bytes(7) for dtype in ITEM_BYTES}
    assert found == {"float32": 104, "int8": 26, "int32": 104, "uint16": 52, "uint8": 26}
    # Each begins at a multiple of 64 bytes.
    sizes = [BufferEntry(str(n), "uint8", 0, n) for n in (0, 1, 63, 64, 65)]
    assert buffers(*sizes).arena_bytes() == 0 + 64 + 64 + 64 + 128


@pytest.mark.parametrize("shape", [(), (1,) * 8, (2**40,), (2**20, 2**20)])
def test_shapes_of_tensors(shape: tuple[int, ...]) -> None:
    entry = TensorEntry("t", "f32", shape, 0, 4 * math.prod(shape))
    layout = dataclasses.replace(sized(), tensors=(entry,))
    assert decode_layout(PATH, encode_layout(layout), entry.n_bytes) == layout
    assert layout.weights_bytes == entry.n_bytes
    assert sized().weights_bytes == 0
    problem = rf"tensor t\.offset: expected an end within {entry.n_bytes - 1} bytes, found 0 \+ {entry.n_bytes}$"
    with pytest.raises(BundleError, match=problem):
        decode_layout(PATH, encode_layout(layout), entry.n_bytes - 1)


@pytest.mark.parametrize(
    "data, problem",
    [
        (changed(tensors=tensor(1, shape=(1,) * 9)), "tensors[1].shape: expected 0 to 8 elements, found 9"),
        (changed(tensors=tensor(1, shape=(2**48 + 1,))), f"tensors[1].shape: expected 1 to {2**48}, found {2**48 + 1}"),
        (changed(tensors=tensor(1, shape=(0,))), f"tensors[1].shape: expected 1 to {2**48}, found 0"),
        (changed(tensors=tensor(1, n_bytes=0)), f"tensors[1].n_bytes: expected 1 to {2**63 - 1}, found 0"),
        (changed(tensors=tensor(1, n_bytes=1)), "tensor norm.shape: expected 128 bytes for 'f32' of (32,), found 1"),
        (changed(tensors=tensor(1, packing="")), "tensors[1].packing: expected 1 to 512 characters, found 0"),
        (
            changed(tensors=tensor(1, packing="q9")),
            "tensor norm.shape: expected a known packing, found 'q9' of (32,)",
        ),
        (
            changed(tensors=tensor(1, offset=2112)),
            "tensor norm.offset: expected at least 2176, the end of 'token_embd', found 2112",
        ),
        (
            changed(tensors=tensor(1, offset=2208)),
            "tensor norm.offset: expected a multiple of 64, found 2208",
        ),
        (
            changed(tensors=tensor(1, name="token_embd")),
            "tensors[1].name: expected a unique name, found 'token_embd' again",
        ),
        (
            changed(buffers=(BufferEntry("hidden", "float64", 1, 1),)),
            "buffers[0].dtype: expected one of float32, int8, int32, uint16, uint8, found 'float64'",
        ),
        (changed(launches=(LaunchEntry("9", ()),)), "launches[0].kernel: expected a symbol, found '9'"),
        (
            changed(launches=(LaunchEntry("a" * 256, ()),)),
            f"launches[0].kernel: expected a symbol, found '{'a' * 256}'",
        ),
        (
            changed(launches=(raw("a", ("none",) * 9),)),
            "launches[0].arguments: expected 0 to 8 elements, found 9",
        ),
        (
            changed(launches=(raw("a", ("",)),)),
            "launches[0].arguments[0]: expected 1 to 512 characters, found 0",
        ),
        (
            changed(launches=(raw("a", ("none", "tensor:x")),)),
            "launches[0].arguments[1]: expected a known tensor, buffer or layer, found 'tensor:x'",
        ),
        (
            changed(launches=(LaunchEntry("a", ()), raw("a", ("kv:2:value",)))),
            "launches[1].arguments[0]: expected a known tensor, buffer or layer, found 'kv:2:value'",
        ),
        (
            changed(launches=(LaunchEntry("a", (), GridEntry(1, 1, "rows")),)),
            "launches[0].grid.rows: expected one of tokens, logits, none, found 'rows'",
        ),
        (
            changed(kv=dataclasses.replace(LAYOUT.kv, dtype="q4_0")),
            "kv.dtype: expected one of f16, q8_0, found 'q4_0'",
        ),
        (
            changed(kv=dataclasses.replace(LAYOUT.kv, dtype="q8_0", head_dim=80)),
            "kv.head_dim: expected a multiple of 32 for q8_0, found 80",
        ),
        (
            changed(final_norm=FinalNorm("hidden", "norm", 1.0)),
            "final_norm.epsilon: expected a number from 0 to 1, found 1.0",
        ),
        (
            changed(final_norm=FinalNorm("hidden", "norm", -1e-9)),
            "final_norm.epsilon: expected a number from 0 to 1, found -1e-09",
        ),
        (
            changed(final_norm=FinalNorm("scratch", "norm", 0.5)),
            "final_norm.buffer: expected a buffer of 32 float32 a token, found 'scratch'",
        ),
        (
            changed(final_norm=FinalNorm("hidden", "token_embd", 0.5)),
            "final_norm.tensor: expected a tensor f32 of 32 elements, found 'token_embd'",
        ),
        (DATA + b"\0", f"msgpack: expected {len(DATA)} bytes, found {len(DATA) + 1}"),
        (bytes((64 << 20) + 1), f"size: expected at most {64 << 20} bytes, found {(64 << 20) + 1}"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_layout_is_said(data: bytes, problem: str) -> None:
    with pytest.raises(BundleError) as caught:
        decode_layout(PATH, data, 2304)
    assert str(caught.value) == f"{PATH}: {problem}"


def altered(change: Callable[[dict[str, Any]], object]) -> bytes:
    table = msgpack.unpackb(DATA)
    change(table)
    encoded: bytes = msgpack.packb(table)
    return encoded


@pytest.mark.parametrize(
    "change, problem",
    [
        (lambda t: t.update(other=1), "other: expected no such field"),
        (lambda t: t["tensors"][0].append(0), r"tensors\[0\]: expected 5 to 5 elements, found 6"),
        (lambda t: t["tensors"][0].pop(), r"tensors\[0\]: expected 5 to 5 elements, found 4"),
        (lambda t: t["buffers"][0].append(0), r"buffers\[0\]: expected 4 to 4 elements, found 5"),
        (lambda t: t["buffers"][0].pop(), r"buffers\[0\]: expected 4 to 4 elements, found 3"),
        (lambda t: t["launches"][1].append(0), r"launches\[1\]: expected 3 to 3 elements, found 4"),
        (lambda t: t["launches"][1].pop(), r"launches\[1\]: expected 3 to 3 elements, found 2"),
        (lambda t: t["launches"][1][2].append(0), r"launches\[1\]\.grid: expected 0 to 7 elements, found 8"),
        (lambda t: t["launches"][1][2].pop(), r"launches\[1\]\.grid: expected 7 elements, found 6"),
        (lambda t: t["kv"].append(0), "kv: expected 5 to 5 elements, found 6"),
        (lambda t: t["kv"].pop(), "kv: expected 5 to 5 elements, found 4"),
        (lambda t: t["kv"].__setitem__(4, 3), r"kv\.dtype: expected a string, found int"),
        (lambda t: t["final_norm"].append(0), "final_norm: expected 3 to 3 elements, found 4"),
        (lambda t: t["final_norm"].pop(), "final_norm: expected 3 to 3 elements, found 2"),
        (lambda t: t.update(tensors={}), "msgpack: expected a layout, found malformed data"),
        (lambda t: t["tensors"][0].__setitem__(0, "n" * 2049), "msgpack: expected a layout, found malformed data"),
    ],
)
def test_entries_of_another_form_are_refused(change: Callable[[dict[str, Any]], object], problem: str) -> None:
    with pytest.raises(BundleError, match=f": {problem}"):
        decode_layout(PATH, altered(change), 2304)


def test_names_may_take_four_bytes_a_character_and_symbols_have_255() -> None:
    launches = (LaunchEntry("_" + "z" * 254, ()), LaunchEntry("Z9", (None,) * 8))
    layout = dataclasses.replace(
        LAYOUT, buffers=(*LAYOUT.buffers, BufferEntry("😀" * 512, "uint8", 1, 1)), launches=launches
    )
    assert decode_layout(PATH, encode_layout(layout), 2304) == layout


@pytest.mark.parametrize("key", ["tensors", "kv", "final_norm"])
@pytest.mark.parametrize("last, refused", [(54, False), (55, True)])
def test_the_arrays_of_one_entry_have_256_elements_at_most(key: str, last: int, refused: bool) -> None:
    """However they are nested, each array counting as one more; what stood before does not count."""
    entry = [[0] * 64, [0] * 64, [0] * 64, [0] * last, 0]
    before = {"buffers": [["b", "uint8", 1, 1]]}
    data = msgpack.packb(before | {key: [entry] if key == "tensors" else entry})
    with pytest.raises(BundleError) as caught:
        decode_layout(PATH, data, 2304)
    assert ("too many elements in one entry" in str(caught.value)) == refused
    assert (caught.value.field == "msgpack") == refused


def test_a_layout_of_64_mib_is_looked_at() -> None:
    with pytest.raises(BundleError) as caught:
        decode_layout(PATH, bytes(64 << 20), 2304)
    assert caught.value.field == "msgpack"


@pytest.mark.parametrize(("table", "high"), [("tensors", 2**16), ("buffers", 2**12), ("launches", 2**16)])
def test_tables_that_promise_too_much_are_refused_by_their_count(table: str, high: int) -> None:
    for count, problem in ((high, "msgpack: "), (high + 1, f"{table}: expected 0 to {high}, found {high + 1}")):
        data = b"\x81" + msgpack.packb(table) + b"\xdd" + struct.pack(">I", count)
        with pytest.raises(BundleError, match=f": {problem}"):
            decode_layout(PATH, data, 2304)


def test_defaults_of_a_grid() -> None:
    assert GridEntry(64, 3) == GridEntry(64, 3, "none", 1, 0, 1, 2**31 - 1)
    assert GRID_ROWS == ("tokens", "logits", "none")


def test_keys_and_values_of_8_bits() -> None:
    layout = dataclasses.replace(LAYOUT, kv=dataclasses.replace(LAYOUT.kv, dtype="q8_0"))
    assert decode_layout(PATH, encode_layout(layout), 2304) == layout
    assert [kv_head_bytes(dtype, 96) for dtype in ("f16", "q8_0")] == [192, 102]
