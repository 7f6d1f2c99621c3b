"""What goes wrong with a registry."""

from __future__ import annotations

from ..artifacts.errors import RocmforgeError


class RegistryError(RocmforgeError):
    """A registry cannot be reached, or does not do what it is asked for."""
