"""The emulated GPU of `--device emulated`: a device of the extra `emulator`, found by its entry point."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from ..artifacts.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..artifacts.bundle import Bundle
    from ..runtime.device.hip.api import HipApi


def make_emulator(arch: str) -> HipApi:
    """An emulated GPU of an arch.

    Raises:
        RocmforgeError: the emulator is not installed, or it has no such arch.
    """
    return cast("HipApi", _load("rocmforge.devices", "emulated")(arch))


def roofline(bundle: Bundle, arch: str) -> Iterable[str]:
    """Lines that say what steps of a bundle cost on a GPU of an arch, counted on an emulated one.

    Raises:
        RocmforgeError: the emulator is not installed, or it has no such arch.
    """
    return cast("Iterable[str]", _load("rocmforge.reports", "roofline")(bundle, arch))


def _load(group: str, name: str) -> Any:
    from importlib.metadata import entry_points

    for found in entry_points(group=group, name=name):
        try:
            return found.load()
        except ImportError as error:
            raise DeviceError(f"the emulator needs {error.name}: pip install 'rocmforge[emulator]'") from None
    raise DeviceError("the emulator is not installed: pip install 'rocmforge[emulator]'")
