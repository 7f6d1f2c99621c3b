"""The shared object of a bundle's host code: checked before the loader maps it, then bound."""

from __future__ import annotations

import _ctypes
import ctypes
import itertools
import os
import platform
import struct

from ...artifacts.abi import HOST_ABI_VERSION, OLDEST_HOST_ABI_VERSION
from ...artifacts.errors import DeviceError
from .panels import panels_problem

_ELF_MACHINES = {"x86_64": 62, "aarch64": 183}
_ELF_HEADER = struct.Struct("<4sBB10xHHIQQQIHHHHHH")  # ELF-64 Object File Format, "ELF Header"
_ELF_SEGMENT = struct.Struct("<IIQQQQQQ")  # "Program Header"
_ELF_SECTION_BYTES = 64


class LevelError(DeviceError):
    """The CPU says that it can run code of a level, and cannot."""


_load_numbers = itertools.count(1)


def _unique_path(descriptor: int) -> str:
    """A path of an open file that no load before has used: glibc takes an equal path for the library that it
    already has, though the descriptor's number may long stand for another file."""
    detour = "".join("../fd/" if bit == "1" else "./" for bit in f"{next(_load_numbers):b}")
    return f"/proc/self/fd/{detour}{descriptor}"


def check_elf(descriptor: int, name: str) -> None:
    """Refuse what is no shared object for this machine, or not whole: the loader itself would map a file that is cut
    short, and die of SIGBUS (FAULTS 41).

    Raises:
        DeviceError: what was expected and what was found.
    """
    size = os.fstat(descriptor).st_size
    header = os.pread(descriptor, _ELF_HEADER.size, 0)
    if len(header) < _ELF_HEADER.size or header[:6] != b"\x7fELF\x02\x01":
        raise DeviceError(f"{name}: expected a 64-bit little-endian ELF file, found {size} bytes of something else")
    _, _, _, kind, machine, _, _, segments, sections, _, _, segment_bytes, count, _, num_sections, _ = (
        _ELF_HEADER.unpack(header)
    )
    if kind != 3 or machine != _ELF_MACHINES.get(platform.machine()):
        raise DeviceError(
            f"{name}: expected an ELF shared object for {platform.machine()}, found type {kind}, machine {machine}"
        )
    table = os.pread(descriptor, count * _ELF_SEGMENT.size, segments) if segments < size else b""
    if segment_bytes != _ELF_SEGMENT.size or len(table) < count * _ELF_SEGMENT.size or not count:
        raise DeviceError(f"{name}: expected {count} program headers @{segments}, found {size} bytes in all")
    end = sections + num_sections * _ELF_SECTION_BYTES
    for _, _, offset, _, _, in_file, _, _ in _ELF_SEGMENT.iter_unpack(table):
        end = max(end, offset + in_file)
    if end > size:
        raise DeviceError(f"{name}: expected at least {end} bytes, found {size}: the code object is cut short")


class Library:
    """A loaded shared object; the descriptor that was checked is the one that is loaded, and it is owned."""

    def __init__(self, descriptor: int, name: str) -> None:
        self.descriptor = descriptor
        try:
            check_elf(descriptor, name)
            self.handle = ctypes.CDLL(_unique_path(descriptor))
        except OSError as error:
            os.close(descriptor)
            raise DeviceError(f"{name}: cannot be loaded: {error}") from None
        except DeviceError:
            os.close(descriptor)
            raise
        try:
            self._bind(name)
        except DeviceError:
            self.close()
            raise

    def _bind(self, name: str) -> None:
        try:
            self.abi_version = self.handle.rfc_abi_version
            self.create = self.handle.rfc_program_create
            self.step = self.handle.rfc_program_step
            self.destroy = self.handle.rfc_program_destroy
        except AttributeError as error:
            raise DeviceError(f"{name}: expected a program of rocmforge, found none: {error}") from None
        self.create.restype = ctypes.c_void_p
        self.create.argtypes = (ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32)
        self.step.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32)
        self.destroy.argtypes = (ctypes.c_void_p,)
        check_abi(self.abi_version(), name)
        if problem := panels_problem(self.handle):
            raise LevelError(f"{name}: {problem}")

    def kernel(self, symbol: str) -> int:
        """Return a kernel's address.

        Raises:
            DeviceError: there is none of that name.
        """
        try:
            return ctypes.addressof(ctypes.c_char.in_dll(self.handle, symbol))
        except ValueError:
            raise DeviceError(f"code object lacks kernel {symbol}") from None

    def close(self) -> None:
        """Unload it."""
        _ctypes.dlclose(self.handle._handle)
        os.close(self.descriptor)


def check_abi(version: int, name: str) -> None:
    """Refuse code that another version of this program was written for.

    Raises:
        DeviceError: it is such.
    """
    if not OLDEST_HOST_ABI_VERSION <= version <= HOST_ABI_VERSION:
        expected = f"{OLDEST_HOST_ABI_VERSION} or {HOST_ABI_VERSION}"
        raise DeviceError(f"{name}: expected ABI version {expected}, found {version}: compile the model again")
