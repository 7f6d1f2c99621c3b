"""What is wrong with a layout is said, to the last value that is right."""

from __future__ import annotations

import dataclasses
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest

from rocmforge.artifacts.checker import Checker
from rocmforge.artifacts.errors import BundleError
from rocmforge.artifacts.layout import (
    GRID_ROWS,
    ITEM_BYTES,
    BufferEntry,
    FinalNorm,
    GridEntry,
    LaunchEntry,
    StateEntry,
    TensorEntry,
    kv_head_bytes,
)
from rocmforge.artifacts.layout_file import decode_layout, encode_layout
from rocmforge.tests.support.bundle import LAYOUT
from rocmforge.tests.support.layouts import buffers, changed, raw, sized, tensor

PATH = Path("model.rfb/layout.msgpack")
DATA = encode_layout(LAYOUT)
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
            "launches[0].grid.rows: expected one of tokens, logits, none, adapted_tokens, adapted_logits, sequences, "
            "found 'rows'",
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
        (
            changed(final_norm=FinalNorm("hidden", "norm", 0.5, "layer", "token_embd")),
            "final_norm.bias: expected a tensor f32 of 32 elements, found 'token_embd'",
        ),
        (
            changed(final_norm=FinalNorm("hidden", "norm", 0.5, "batch")),
            "final_norm.kind: expected one of rms, layer, none, found 'batch'",
        ),
        (
            changed(states=(StateEntry("a", 64),), launches=(raw("a", ("state:1",)),)),
            "launches[0].arguments[0]: expected a known state, found 'state:1'",
        ),
        (changed(states=(StateEntry("", 64),)), "states[0].name: expected 1 to 512 characters, found 0"),
        (changed(states=(StateEntry("a", 0),)), f"states[0].n_bytes: expected 64 to {2**36}, found 0"),
        (
            changed(states=(StateEntry("a", 2**36 + 64),)),
            f"states[0].n_bytes: expected 64 to {2**36}, found {2**36 + 64}",
        ),
        (
            changed(states=(StateEntry("a", 64), StateEntry("b", 96))),
            "states[1].n_bytes: expected a multiple of 64, found 96",
        ),
        (
            changed(states=(StateEntry("a", 64), StateEntry("a", 128))),
            "states[1].name: expected a unique name, found 'a' again",
        ),
        (
            changed(kv=dataclasses.replace(LAYOUT.kv, num_layers=0)),
            f"kv.num_layers: expected 1 to {2**12}, found 0",
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
        (lambda t: t["final_norm"].append(0), "final_norm: expected 3 or 5 elements, found 4"),
        (lambda t: t["final_norm"].pop(), "final_norm: expected 3 to 5 elements, found 2"),
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
    assert GRID_ROWS == ("tokens", "logits", "none", "adapted_tokens", "adapted_logits", "sequences")


def test_keys_and_values_of_8_bits() -> None:
    layout = dataclasses.replace(LAYOUT, kv=dataclasses.replace(LAYOUT.kv, dtype="q8_0"))
    assert decode_layout(PATH, encode_layout(layout), 2304) == layout
    assert [kv_head_bytes(dtype, 96) for dtype in ("f16", "q8_0")] == [192, 102]
