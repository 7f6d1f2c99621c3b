"""layout.msgpack: round trips, and bytes that nobody should trust."""

from __future__ import annotations

import dataclasses
import math
import struct
import time
import tracemalloc
from pathlib import Path

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocmforge.artifacts.arguments import Argument, BufferRef, KvRef, StateRef, StepRef, TensorRef
from rocmforge.artifacts.errors import BundleError
from rocmforge.artifacts.layout import (
    GRID_ROWS,
    ITEM_BYTES,
    BufferEntry,
    FinalNorm,
    GridEntry,
    KvCache,
    KvLayout,
    LaunchEntry,
    Layout,
    StateEntry,
    TensorEntry,
)
from rocmforge.artifacts.layout_file import decode_layout, encode_layout
from rocmforge.tests.support.bundle import LAYOUT
from rocmforge.tests.support.layouts import changed, raw, tensor

PATH = Path("model.rfb/layout.msgpack")

DATA = encode_layout(LAYOUT)


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


@pytest.mark.slow
@given(layouts())
def test_any_layout_round_trips(layout: Layout) -> None:
    assert decode_layout(PATH, encode_layout(layout), layout.weights_bytes) == layout


@pytest.mark.slow
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


UNLIKE = KvLayout.of([KvCache(2, 32, 64), KvCache(1, 64, 64), KvCache(2, 32, 32)], 16, "f16")


@pytest.mark.parametrize("dtype, sizes", [("f16", (64, 128, 128, 128, 64, 64)), ("q8_0", (34, 68, 68, 68, 34, 34))])
def test_caches_that_are_not_alike(dtype: str, sizes: tuple[int, ...]) -> None:
    """Bytes of a key and of a value in each of three layers; heads are 2, 1, 2."""
    kv = dataclasses.replace(UNLIKE, dtype=dtype)
    layout = dataclasses.replace(LAYOUT, kv=kv, both_ways=True)
    assert decode_layout(PATH, encode_layout(layout), 2304) == layout
    assert (kv.num_layers, kv.num_kv_heads, kv.head_dim) == (3, 2, 64)
    counts = [heads * size for heads, size in zip((2, 2, 1, 1, 2, 2), sizes, strict=True)]
    assert kv.bytes_per_block == 16 * sum(counts)
    places = [kv.offset(layer, values, 5) for layer in range(3) for values in (False, True)]
    assert places == [5 * 16 * sum(counts[:n]) for n in range(6)]


def test_state_of_sequences_beside_no_cache_at_all() -> None:
    kv = KvLayout.of([], 16, "f16")
    states = (StateEntry("layers.0.conv", 192), StateEntry("layers.0.scan", 2**36))
    launch = dataclasses.replace(LAYOUT.launches[0], arguments=(StateRef(1), None, StateRef(0)))
    layout = dataclasses.replace(LAYOUT, kv=kv, states=states, launches=(launch,))
    assert decode_layout(PATH, encode_layout(layout), 2304) == layout
    assert (kv.bytes_per_block, kv.caches, layout.bytes_per_slot) == (0, (), 192 + 2**36)
    assert LAYOUT.bytes_per_slot == 0
    assert "states" not in msgpack.unpackb(DATA)


def test_rows_from_outside() -> None:
    layout = dataclasses.replace(LAYOUT, input_width=2**24)
    assert decode_layout(PATH, encode_layout(layout), 2304) == layout
    assert LAYOUT.input_width == 0
    assert "input_width" not in msgpack.unpackb(DATA)
    for width in (0, 2**24 + 1):
        data = msgpack.packb(msgpack.unpackb(DATA) | {"input_width": width})
        with pytest.raises(BundleError, match=f"input_width: expected 1 to {2**24}, found {width}"):
            decode_layout(PATH, data, 2304)


def test_caches_that_are_alike_are_said_once() -> None:
    kv = KvLayout.of([KvCache(3, 64, 64)] * 2, 16, "f16")
    assert kv == LAYOUT.kv
    assert kv.caches == (KvCache(3, 64, 64),) * 2
    assert "kv_caches" not in msgpack.unpackb(DATA)


@pytest.mark.parametrize(
    "key, value, problem",
    [
        ("kv_caches", [[2, 32, 64], [1, 64, 64]], "kv_caches: expected caches that are not alike, as many"),
        ("kv_caches", [[2, 64, 64]] * 3, "kv_caches: expected caches that are not alike, as many"),
        ("kv_caches", [[2, 32, 128], [1, 64, 64], [2, 32, 32]], "kv_caches: expected caches that are not alike, as"),
        ("kv_caches", [[2, 32], [1, 64, 64], [2, 32, 32]], r"kv_caches\[0\]: expected 3 to 3 elements, found 2"),
        ("kv_caches", [[2, 0, 32], [1, 64, 64], [2, 32, 32]], r"kv_caches\[0\]: expected 1 to 65536, found 0"),
        ("kv_caches", [], "kv_caches: expected 1 to 4096 elements, found 0"),
        ("kv", [3, 2, 64, 16, "q8_0"], r"kv_caches\[1\]: expected multiples of 32 for q8_0, found 64 and 16"),
        ("both_ways", 0, "both_ways: expected 1 to 1, found 0"),
        ("both_ways", True, "both_ways: expected an integer"),
    ],
)
def test_caches_that_cannot_be(key: str, value: object, problem: str) -> None:
    last = [2, 32, 64], [1, 64, 16], [2, 32, 32]
    table = msgpack.unpackb(encode_layout(dataclasses.replace(LAYOUT, kv=UNLIKE)))
    with pytest.raises(BundleError, match=f": {problem}"):
        decode_layout(PATH, msgpack.packb(table | ({"kv_caches": last} if key == "kv" else {}) | {key: value}), 2304)
