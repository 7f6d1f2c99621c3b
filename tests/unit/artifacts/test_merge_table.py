"""Tables of merges as a file: read as they were written, and refused by the field where they are something else."""

from __future__ import annotations

import re
import sys
from array import array
from pathlib import Path

import msgpack
import pytest

from rocmforge.artifacts.errors import BundleError
from rocmforge.artifacts.merge_table import AddedToken, MergeTable

PATH = Path("m.rfb/merges.bin")
ADDED = [AddedToken("<s>", 0, True, False, True)]
TABLE = MergeTable.of("{}", ADDED, {"<s>": 0, "a": 1, "é": 2, "aé": 4}, [("a", "é")])


def test_a_table_is_read_as_it_was_written_on_either_kind_of_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MergeTable.from_bytes(PATH, TABLE.to_bytes()) == TABLE
    assert [TABLE.token(i) for i in range(6)] == [b"<s>", b"a", "é".encode(), b"", "aé".encode(), b""]
    assert (TABLE.id_of("aé"), TABLE.id_of("c")) == (4, None)
    assert (TABLE.join(1, 2), TABLE.join(2, 1), TABLE.most_chars) == ((0, 4), None, 3)
    data = TABLE.to_bytes()
    monkeypatch.setattr(sys, "byteorder", "big")
    assert TABLE.to_bytes() != data
    assert MergeTable.from_bytes(PATH, TABLE.to_bytes()) == TABLE


@pytest.mark.parametrize(
    "data, found",
    [
        (b"", r"msgpack: expected a table of merges, found malformed data \(ValueError"),
        (b"\xff" * 20, r"msgpack: expected a table of merges, found malformed data \(ExtraData"),
        (b"\x93\x01\x02\x03", "msgpack: expected a table of merges, found list"),
        (b"\x81\x90\x01", r"msgpack: expected a table of merges, found malformed data \(ValueError"),
        (b"\x80", "added: expected an array, found NoneType"),
    ],
)
def test_another_file_is_refused(data: bytes, found: str) -> None:
    with pytest.raises(BundleError, match=f"^{PATH}: {found}"):
        MergeTable.from_bytes(PATH, data)


def numbers(kind: str, *found: int) -> bytes:
    return array(kind, found).tobytes()


@pytest.mark.parametrize(
    "field, value, problem",
    [
        ("rules", 5, "rules: expected a string, found int"),
        ("added", {}, "added: expected an array, found dict"),
        ("added", [5], "added[0]: expected an array, found int"),
        ("added", [["<s>", 0, True]], "added[0]: expected 5 to 5 elements, found 3"),
        ("added", [[b"<s>", 0, True, True, True]], "added[0]: expected a string, found bytes"),
        ("added", [["<s>", "0", True, True, True]], "added[0]: expected an integer, found str"),
        ("added", [["<s>", -1, True, True, True]], f"added[0]: expected 0 to {(1 << 32) - 1}, found -1"),
        ("added", [["<s>", 0, True, 1, True]], "added[0]: expected bool, found int"),
        ("whole_words", None, "whole_words: expected bool, found NoneType"),
        ("most_chars", 0, f"most_chars: expected 1 to {(1 << 63) - 1}, found 0"),
        ("most_chars", "3", "most_chars: expected an integer, found str"),
        ("texts", 5, "texts: expected bytes, found int"),
        ("texts", None, "texts: expected bytes, found NoneType"),
        ("texts", b"<s>a", "ends: expected ascending numbers, the last 4, found others"),
        ("texts", b"<s>a\xc3aa\xc3\xa9", "texts: expected UTF-8, found 'utf-8' codec"),
        ("ends", b"", "ends: expected ascending numbers, the last 9, found others"),
        ("ends", b"\1", "ends: expected a multiple of 4 bytes, found 1"),
        ("ends", numbers("I", 3, 6, 4, 6, 9), "ends: expected ascending numbers, the last 9, found others"),
        ("ends", numbers("I", 3, 4, 5, 6, 9), "ends: expected ends of characters, found one within a character"),
        ("order", b"", "order: expected ids of 4 tokens below 5, found 0, or higher ones"),
        ("order", "a", "order: expected bytes, found str"),
        ("order", numbers("I", 0, 1, 5, 2), "order: expected ids of 4 tokens below 5, found 4, or higher ones"),
        ("pairs", bytes(4), "pairs: expected a multiple of 8 bytes, found 4"),
        ("pairs", bytes(16), "pairs: expected ascending numbers, found others"),
        ("joins", b"", "joins: expected 1 with ids below 5, found 0, or higher ones"),
        ("joins", numbers("Q", 7 << 32 | 5), "joins: expected 1 with ids below 5, found 1, or higher ones"),
    ],
)
def test_what_is_no_table_is_refused_by_its_field(field: str, value: object, problem: str) -> None:
    fields = msgpack.unpackb(TABLE.to_bytes())
    with pytest.raises(BundleError, match=f"^{PATH}: {re.escape(problem)}") as caught:
        MergeTable.from_bytes(PATH, msgpack.packb(fields | {field: value}))
    assert "\n" not in str(caught.value)
    del fields[field]
    with pytest.raises(BundleError, match=f"^{PATH}: {field}: expected .*, found NoneType$"):
        MergeTable.from_bytes(PATH, msgpack.packb(fields))
