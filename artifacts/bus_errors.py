"""Files that are cut while they are mapped, and disks that fail: zeros instead of a SIGBUS that ends the process.

To read a page of a mapping that its file no longer has is a SIGBUS, and so is a page that the disk does not give. Here
the whole mapping then becomes zeros, the reading goes on, and its guard knows that whatever came of it is void.

The handler is Python's, called by ctypes on the thread that read. That is sound for such a signal, which comes at a
load from the mapping and nowhere else: never inside an allocator, nor while a lock is held that the handler needs.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import platform
import signal
import weakref
from typing import Final

import numpy as np

# Source: Linux's uapi headers (asm-generic, x86, arm64), and glibc's struct sigaction of 64 bits, which is musl's too.
_MACHINES: Final = ("x86_64", "aarch64")
_SA_SIGINFO: Final = 4
_SI_ADDR_OFFSET: Final = 16
_MAP_FIXED: Final = 0x10
_HANDLER: Final = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class _SigAction(ctypes.Structure):
    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_uint64 * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


class BusErrorGuard:
    """Watches over a mapping for as long as that lives. The mapping must be weakly referable: mmap itself is not."""

    def __init__(self, mapping: mmap.mmap) -> None:
        self.broken = False
        """Whether a page could not be read; all of the mapping is zeros from then on."""
        self._address = int(np.frombuffer(mapping, np.uint8).ctypes.data)
        self._n_bytes = len(mapping)
        if _install():
            _guards[self._address] = self
            weakref.finalize(mapping, _guards.pop, self._address, None).atexit = False

    def covers(self, address: int) -> bool:
        """Whether the mapping has this address."""
        return self._address <= address < self._address + self._n_bytes

    def give_zeros(self) -> bool:
        """Put zeros in the place of the file; whether that was possible."""
        self.broken = True
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
        return bool(_libc().mmap(self._address, self._n_bytes, mmap.PROT_READ, flags, -1, 0) == self._address)


_guards: Final[dict[int, BusErrorGuard]] = {}  # by address
_kept: Final[list[object]] = []  # what C holds a pointer to


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64)
    return libc


@functools.cache
def _install() -> bool:
    """Handle SIGBUS in this process, once; whether this machine is one that is known here."""
    if platform.machine() not in _MACHINES:
        return False
    libc, before = _libc(), _SigAction()

    def handle(number: int, info: int, _context: int) -> None:
        handled = False
        try:
            address = ctypes.c_uint64.from_address(info + _SI_ADDR_OFFSET).value
            handled = any(guard.covers(address) and guard.give_zeros() for guard in list(_guards.values()))
        finally:
            if not handled:  # the load is tried again, and meets what was there before us
                libc.sigaction(number, ctypes.byref(before), None)

    handler = _HANDLER(handle)
    _kept.append(handler)
    action = _SigAction(ctypes.cast(handler, ctypes.c_void_p), flags=_SA_SIGINFO)
    return bool(libc.sigaction(signal.SIGBUS, ctypes.byref(action), ctypes.byref(before)) == 0)
