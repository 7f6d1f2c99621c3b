"""What a ctypes caller passes: pointers by `byref`, `pointer`, arrays, c_void_p, bytes or plain integers."""

from __future__ import annotations

import ctypes
from typing import Any


def address_of(value: Any) -> int:
    """Address that an argument stands for; 0 for None.

    Raises:
        TypeError: it is nothing that ctypes would pass as a pointer.
    """
    if value is None or isinstance(value, int):
        found = value
    elif isinstance(value, bytearray):
        found = ctypes.addressof((ctypes.c_char * len(value)).from_buffer(value))
    elif hasattr(value, "_obj"):
        found = ctypes.addressof(value._obj)
    elif isinstance(value, (ctypes.Array, ctypes.Structure)):
        found = ctypes.addressof(value)
    elif isinstance(value, ctypes._SimpleCData) and not isinstance(value, ctypes.c_char_p):
        found = value.value
    else:
        found = ctypes.cast(value, ctypes.c_void_p).value
    return int(found or 0)


def write(out: Any, value: Any, kind: Any) -> None:
    """Store through an out parameter: `*out = value`, as the C type `kind`."""
    kind.from_address(address_of(out)).value = value


def length_of(value: Any, default: int) -> int:
    """Bytes behind an argument where Python knows, else the default."""
    if isinstance(value, (bytes, bytearray)):
        return len(value)
    if isinstance(value, (ctypes.Array, ctypes.Structure)):
        return ctypes.sizeof(value)
    return default
