"""Calls of the system that never wait, made without letting go of the interpreter's lock.

Python's own let go of it, and to take it back is worth more than what these do: each time a thread that waits for it is
woken, mostly for nothing, and takes a processor from those that compute.
"""

from __future__ import annotations

import ctypes
import socket
from typing import Final

_SYSTEM: Final = ctypes.PyDLL(None)
_SYSTEM.send.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int)
_SYSTEM.send.restype = ctypes.c_ssize_t
_AT_ONCE: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


def send_at_once(descriptor: int, data: bytes) -> int:
    """Bytes that there was room for; 0 also where the socket is broken: what is sent next will tell."""
    return max(0, int(_SYSTEM.send(descriptor, data, len(data), _AT_ONCE)))
