"""What ctypes passes as a pointer, and how much lies behind it."""

from __future__ import annotations

import ctypes

import pytest

from rocmforge.tools.emulator.pointers import address_of, length_of, write


class Pair(ctypes.Structure):
    """Eight bytes."""

    _fields_ = [("one", ctypes.c_uint32), ("two", ctypes.c_uint32)]


def test_addresses_of_what_ctypes_passes() -> None:
    number, array, pair, raw = ctypes.c_uint32(5), (ctypes.c_uint32 * 3)(), Pair(), bytearray(b"abc")
    text = ctypes.c_char_p(b"text")
    assert [address_of(value) for value in (None, 0, 77, ctypes.c_void_p(), ctypes.c_void_p(77))] == [0, 0, 77, 0, 77]
    assert address_of(ctypes.c_char_p()) == 0
    for value in (number, array, pair):
        at = ctypes.addressof(value)
        for passed in (ctypes.byref(value), ctypes.pointer(value), ctypes.cast(ctypes.byref(value), ctypes.c_void_p)):
            assert address_of(passed) == at
    assert (address_of(array), address_of(pair)) == (ctypes.addressof(array), ctypes.addressof(pair))
    assert ctypes.string_at(address_of(raw), 3) == b"abc"
    ctypes.memset(address_of(raw) + 2, ord("x"), 1)
    assert raw == b"abx"
    assert ctypes.string_at(address_of(b"bytes")) == b"bytes"
    assert ctypes.string_at(address_of(text)) == b"text"
    assert address_of(ctypes.c_uint64(1 << 40)) == 1 << 40


@pytest.mark.parametrize("value", [1.5, object()])
def test_what_is_no_pointer(value: object) -> None:
    with pytest.raises((TypeError, ctypes.ArgumentError)):
        address_of(value)


def test_numbers_are_stored_as_their_type() -> None:
    room = (ctypes.c_uint8 * 8)(*[0xEE] * 8)
    write(room, 0x0102, ctypes.c_uint16)
    assert list(room) == [2, 1, *[0xEE] * 6]
    write(ctypes.byref(room), None, ctypes.c_void_p)
    assert list(room) == [0] * 8


def test_lengths_are_known_of_bytes_and_arrays_alone() -> None:
    known = (b"abc", bytearray(5), (ctypes.c_uint32 * 3)(), Pair())
    assert [length_of(value, 99) for value in known] == [3, 5, 12, 8]
    assert [length_of(value, 99) for value in (None, 12345, ctypes.c_void_p(1), ctypes.c_char_p(b"abc"))] == [99] * 4
