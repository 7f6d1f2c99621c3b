"""layout.msgpack: a layout as a file.

The file is one msgpack map. Its three tables (tensors, buffers, launches) are arrays of small positional
arrays, `kv`, `final_norm`, `sampler` and `tap` are such arrays, and everything else is an integer. It is decoded entry
by entry, never as one object, so that a few bytes that promise four billion elements cost nothing (FAULTS 36, 37).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any, Final, NoReturn

import msgpack

from .arguments import Argument, argument_text, parse_argument
from .checker import MAX_CHARS, MAX_ITEMS, Checker
from .errors import BundleError
from .head import encode_head, read_head
from .layout import (
    ADAPTER_NAME,
    GRID_ROWS,
    ITEM_BYTES,
    KV_DTYPES,
    KV_GROUP,
    MAX_ADAPTERS,
    MAX_ARGUMENTS,
    NORM_KINDS,
    STATE_ALIGNMENT,
    BufferEntry,
    FinalNorm,
    GridEntry,
    KvCache,
    KvLayout,
    LaunchEntry,
    Layout,
    Sampler,
    StateEntry,
    Tap,
    TensorEntry,
)
from .layout_checks import KNOWN, check_layout

MAX_LAYOUT_BYTES: Final = 64 << 20

_MAX_ENTRIES: Final = {"tensors": 1 << 16, "buffers": 1 << 12, "launches": 1 << 16}
_MAX_DIMS: Final = 8
_SYMBOL: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}", re.ASCII)
_GRID_FIELDS: Final = {
    "threads": (1, 1024),
    "x": (1, (1 << 31) - 1),
    "tile": (1, 1 << 20),
    "split": (0, 1 << 30),
    "at_least": (0, (1 << 31) - 1),
    "at_most": (1, (1 << 31) - 1),
}

_MAX_STATES: Final = 1 << 13
_MAX_STATE_BYTES: Final = 1 << 36
_MAX_INPUT_WIDTH: Final = 1 << 24

_Entry = TensorEntry | BufferEntry | LaunchEntry

# The integers of the file and their largest values; 1 is the smallest.
_SCALARS: Final = {
    "max_batch_tokens": 1 << 20,
    "max_sequences": 1 << 20,
    "vocab_size": (1 << 31) - 1,
    "hidden_size": 1 << 24,
    "max_seq_len": (1 << 31) - 1,
}
_KV_FIELDS: Final = {
    "num_layers": 1 << 12,
    "num_kv_heads": 1 << 16,
    "head_dim": 1 << 16,
    "block_size": 1 << 16,
}


def encode_layout(layout: Layout) -> bytes:
    """Encode a layout; equal layouts give equal bytes."""
    table: dict[str, object] = {
        "tensors": [[t.name, t.packing, list(t.shape), t.offset, t.n_bytes] for t in layout.tensors],
        "buffers": [[b.name, b.dtype, b.elements_per_token, b.elements_fixed] for b in layout.buffers],
        "launches": [
            [entry.kernel, list(map(argument_text, entry.arguments)), _encode_grid(entry.grid)]
            for entry in layout.launches
        ],
        "kv": [*(getattr(layout.kv, name) for name in _KV_FIELDS), layout.kv.dtype],
    }
    table.update({name: getattr(layout, name) for name in _SCALARS})
    if layout.kv.unlike:
        table["kv_caches"] = [list(astuple(cache)) for cache in layout.kv.unlike]
    if layout.final_norm is not None:
        norm = layout.final_norm
        table["final_norm"] = [norm.buffer, norm.tensor, norm.epsilon]
        if (norm.kind, norm.bias) != ("rms", ""):
            table["final_norm"] = [norm.buffer, norm.tensor, norm.epsilon, norm.kind, norm.bias]
    if layout.sampler is not None:
        table["sampler"] = [layout.sampler.launch, layout.sampler.logits]
    if layout.both_ways:
        table["both_ways"] = 1
    if layout.adapters:
        table["adapters"] = list(layout.adapters)
    if layout.states:
        table["states"] = [[entry.name, entry.n_bytes] for entry in layout.states]
    if layout.input_width:
        table["input_width"] = layout.input_width
    if layout.tap is not None:
        table["tap"] = [layout.tap.buffer, layout.tap.columns]
    if layout.head is not None:
        table["head"] = encode_head(layout.head)
    encoded: bytes = msgpack.packb(table)
    return encoded


def _encode_grid(grid: GridEntry | None) -> list[object]:
    return [] if grid is None else [grid.rows, *(getattr(grid, name) for name in _GRID_FIELDS)]


def decode_layout(path: Path | str, data: bytes, weights_bytes: int) -> Layout:
    """Decode and check the `data` of the file `path`; tensors must lie inside `weights_bytes` bytes.

    Raises:
        BundleError: anything wrong at all, with the field named.
    """
    check = Checker(path)
    if len(data) > MAX_LAYOUT_BYTES:
        check.fail("size", f"expected at most {MAX_LAYOUT_BYTES} bytes, found {len(data)}")
    try:
        layout = _read(check, data)
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise BundleError(path, "msgpack", f"expected a layout, found malformed data ({error!r})") from error
    check_layout(check, layout, weights_bytes)
    return layout


class _Budget:
    """Bounds the elements of all arrays in one entry, however they are nested."""

    def __init__(self) -> None:
        self.spent = 0

    def spend(self, items: list[object]) -> list[object]:
        self.spent += len(items) + 1
        if self.spent > 4 * MAX_ITEMS:
            raise ValueError("too many elements in one entry")
        return items


def _refuse_extension(code: int, data: bytes) -> NoReturn:
    raise ValueError(f"extension type {code}")


def _read(check: Checker, data: bytes) -> Layout:
    """Read the map key by key; the tables' own counts are checked here, since msgpack bounds no header."""
    budget = _Budget()
    unpacker = msgpack.Unpacker(
        list_hook=budget.spend,
        ext_hook=_refuse_extension,
        max_buffer_size=max(len(data), 1),
        max_str_len=min(len(data), 4 * MAX_CHARS),
        max_array_len=min(len(data), MAX_ITEMS),
        **dict.fromkeys(("max_bin_len", "max_map_len", "max_ext_len"), 0),
    )
    unpacker.feed(data)
    fields: dict[str, Any] = {}
    for _ in range(unpacker.read_map_header()):
        key = check.text(unpacker.unpack(), "key")
        if key in fields:
            check.fail(key, "expected once, found twice")
        if key in _MAX_ENTRIES:
            fields[key] = tuple(_read_table(check, unpacker, budget, key))
        elif key in _PARTS:
            budget.spent = 0
            fields[key] = _PARTS[key](check, unpacker.unpack())
        elif key in _SCALARS:
            fields[key] = check.integer(unpacker.unpack(), key, 1, _SCALARS[key])
        else:
            check.fail(key, "expected no such field")
    if unpacker.tell() != len(data):
        check.fail("msgpack", f"expected {unpacker.tell()} bytes, found {len(data)}")
    for key in (*_MAX_ENTRIES, "kv", *_SCALARS):
        if key not in fields:
            check.fail(key, "expected a value, found none")
    fields["kv"] = replace(fields["kv"], unlike=fields.pop("kv_caches", ()))
    return Layout(**fields)


def _kv(check: Checker, value: object) -> KvLayout:
    *numbers, dtype = check.array(value, "kv", len(_KV_FIELDS) + 1, len(_KV_FIELDS) + 1)
    pairs = zip(_KV_FIELDS.items(), numbers, strict=True)
    low = 0 if numbers[:3] == [0, 0, 0] and numbers[3] else 1  # no layer has a cache
    integers = (check.integer(number, f"kv.{name}", low, high) for (name, high), number in pairs)
    num_layers, num_kv_heads, head_dim, block_size = integers
    if dtype == 2:  # format 1.0 had bytes of an element here, always those of float16
        dtype = "f16"
    kind = check.text(dtype, "kv.dtype")
    if kind not in KV_DTYPES:
        check.fail("kv.dtype", f"expected one of {', '.join(KV_DTYPES)}, found {kind!r}")
    if kind == "q8_0" and head_dim % KV_GROUP:
        check.fail("kv.head_dim", f"expected a multiple of {KV_GROUP} for q8_0, found {head_dim}")
    return KvLayout(num_layers, num_kv_heads, head_dim, block_size, kind)


def _kv_caches(check: Checker, value: object) -> tuple[KvCache, ...]:
    """Return each layer's cache, where they are not alike."""
    rows = check.array(value, "kv_caches", 1, _KV_FIELDS["num_layers"])
    highest = [_KV_FIELDS[name] for name in ("num_kv_heads", "head_dim", "head_dim")]
    caches = []
    for index, row in enumerate(rows):
        numbers = zip(check.array(row, f"kv_caches[{index}]", 3, 3), highest, strict=True)
        lowest = (1, 1, 0)  # values may lie in their keys
        limits = zip(numbers, lowest, strict=True)
        caches.append(KvCache(*(check.integer(one, f"kv_caches[{index}]", low, high) for (one, high), low in limits)))
    return tuple(caches)


def _read_table(check: Checker, unpacker: Any, budget: _Budget, table: str) -> Iterator[_Entry]:
    """Yield the entries of one table; duplicate tensor and buffer names are refused."""
    count = check.integer(unpacker.read_array_header(), table, 0, _MAX_ENTRIES[table])
    decode = _DECODERS[table]
    seen: set[str] = set()
    for index in range(count):
        budget.spent = 0
        at = f"{table}[{index}]"
        entry = decode(check, unpacker.unpack(), at)
        if not isinstance(entry, LaunchEntry):
            if entry.name in seen:
                check.fail(f"{at}.name", f"expected a unique name, found {entry.name!r} again")
            seen.add(entry.name)
        yield entry


def _tensor(check: Checker, value: object, at: str) -> TensorEntry:
    name, packing, dims, offset, n_bytes = check.array(value, at, 5, 5)
    shape = tuple(check.integer(d, f"{at}.shape", 1, 1 << 48) for d in check.array(dims, f"{at}.shape", 0, _MAX_DIMS))
    return TensorEntry(
        name=check.text(name, f"{at}.name"),
        packing=check.text(packing, f"{at}.packing"),
        shape=shape,
        offset=check.integer(offset, f"{at}.offset"),
        n_bytes=check.integer(n_bytes, f"{at}.n_bytes", 1),
    )


def _buffer(check: Checker, value: object, at: str) -> BufferEntry:
    name, dtype, per_token, fixed = check.array(value, at, 4, 4)
    kind = check.text(dtype, f"{at}.dtype")
    if kind not in ITEM_BYTES:
        check.fail(f"{at}.dtype", f"expected one of {', '.join(ITEM_BYTES)}, found {kind!r}")
    return BufferEntry(
        name=check.text(name, f"{at}.name"),
        dtype=kind,
        elements_per_token=check.integer(per_token, f"{at}.elements_per_token", 0, 1 << 40),
        elements_fixed=check.integer(fixed, f"{at}.elements_fixed", 0, 1 << 40),
    )


def _launch(check: Checker, value: object, at: str) -> LaunchEntry:
    kernel, arguments, grid = check.array(value, at, 3, 3)
    symbol = check.text(kernel, f"{at}.kernel")
    if not _SYMBOL.fullmatch(symbol):
        check.fail(f"{at}.kernel", f"expected a symbol, found {symbol!r}")
    texts = check.array(arguments, f"{at}.arguments", 0, MAX_ARGUMENTS)
    parsed = tuple(_argument(check, text, f"{at}.arguments[{i}]") for i, text in enumerate(texts))
    return LaunchEntry(symbol, parsed, _grid(check, grid, f"{at}.grid"))


def _argument(check: Checker, value: object, at: str) -> Argument:
    text = check.text(value, at)
    try:
        return parse_argument(text)
    except ValueError:
        check.fail(at, f"{KNOWN}, found {text!r}")


def _grid(check: Checker, value: object, at: str) -> GridEntry | None:
    fields = check.array(value, at, 0, 1 + len(_GRID_FIELDS))
    if not fields:
        return None
    if len(fields) != 1 + len(_GRID_FIELDS):
        check.fail(at, f"expected {1 + len(_GRID_FIELDS)} elements, found {len(fields)}")
    rows = check.text(fields[0], f"{at}.rows")
    if rows not in GRID_ROWS:
        check.fail(f"{at}.rows", f"expected one of {', '.join(GRID_ROWS)}, found {rows!r}")
    limits = zip(_GRID_FIELDS.items(), fields[1:], strict=True)
    return GridEntry(
        rows=rows, **{name: check.integer(v, f"{at}.{name}", low, high) for (name, (low, high)), v in limits}
    )


def _final_norm(check: Checker, value: object) -> FinalNorm:
    buffer, tensor, epsilon, *rest = check.array(value, "final_norm", 3, 5)
    if not isinstance(epsilon, float) or not 0.0 <= epsilon < 1.0:  # spelled so that a NaN fails
        check.fail("final_norm.epsilon", f"expected a number from 0 to 1, found {epsilon!r}")
    norm = FinalNorm(
        check.text(buffer, "final_norm.buffer"), check.text(tensor, "final_norm.tensor", empty=True), epsilon
    )
    if not rest:
        return norm
    if len(rest) == 1:
        check.fail("final_norm", "expected 3 or 5 elements, found 4")
    kind, bias = rest
    if kind not in NORM_KINDS:
        check.fail("final_norm.kind", f"expected one of {', '.join(NORM_KINDS)}, found {kind!r}")
    return replace(norm, kind=str(kind), bias=check.text(bias, "final_norm.bias", empty=True))


def _sampler(check: Checker, value: object) -> Sampler:
    launch, logits = check.array(value, "sampler", 2, 2)
    return Sampler(check.integer(launch, "sampler.launch"), check.text(logits, "sampler.logits"))


def _tap(check: Checker, value: object) -> Tap:
    buffer, columns = check.array(value, "tap", 2, 2)
    return Tap(check.text(buffer, "tap.buffer"), check.integer(columns, "tap.columns", 1, _MAX_INPUT_WIDTH))


def _adapters(check: Checker, value: object) -> tuple[str, ...]:
    names = check.array(value, "adapters", 1, MAX_ADAPTERS)
    found = tuple(check.text(name, f"adapters[{index}]") for index, name in enumerate(names))
    for index, name in enumerate(found):
        if not ADAPTER_NAME.fullmatch(name) or name in found[:index]:
            check.fail(f"adapters[{index}]", f"expected the name of an adapter, once, found {name!r}")
    return found


def _states(check: Checker, value: object) -> tuple[StateEntry, ...]:
    rows = check.array(value, "states", 1, _MAX_STATES)
    entries: dict[str, StateEntry] = {}
    for index, row in enumerate(rows):
        name, n_bytes = check.array(row, f"states[{index}]", 2, 2)
        entry = StateEntry(
            check.text(name, f"states[{index}].name"),
            check.integer(n_bytes, f"states[{index}].n_bytes", STATE_ALIGNMENT, _MAX_STATE_BYTES),
        )
        if entry.n_bytes % STATE_ALIGNMENT:
            found = f"expected a multiple of {STATE_ALIGNMENT}, found {entry.n_bytes}"
            check.fail(f"states[{index}].n_bytes", found)
        if entry.name in entries:
            check.fail(f"states[{index}].name", f"expected a unique name, found {entry.name!r} again")
        entries[entry.name] = entry
    return tuple(entries.values())


_PARTS: Final[dict[str, Callable[[Checker, object], object]]] = {
    "kv": _kv,
    "kv_caches": _kv_caches,
    "final_norm": _final_norm,
    "sampler": _sampler,
    "tap": _tap,
    "head": read_head,
    "adapters": _adapters,
    "states": _states,
    "both_ways": lambda check, value: check.integer(value, "both_ways", 1, 1) == 1,
    "input_width": lambda check, value: check.integer(value, "input_width", 1, _MAX_INPUT_WIDTH),
}
_Decoder = Callable[[Checker, object, str], _Entry]
_DECODERS: Final[dict[str, _Decoder]] = {"tensors": _tensor, "buffers": _buffer, "launches": _launch}
