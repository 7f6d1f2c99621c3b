"""The emulated GPU of `--device emulated`: a tool, which the runtime itself knows nothing of."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..runtime.device.hip.api import HipApi


def make_emulator(arch: str) -> HipApi:
    """An emulated GPU of an arch."""
    from ..tools.emulator import HipEmulator

    return HipEmulator(arch)
