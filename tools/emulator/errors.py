"""What stops the emulator."""

from __future__ import annotations

from ...artifacts.errors import DeviceError


class UnknownInstruction(DeviceError):
    """An instruction, or a use of one, that the emulator does not have: named, with its address and bytes."""


class BadCodeObject(DeviceError):
    """A code object that no driver would load."""
