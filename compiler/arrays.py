"""NumPy, imported when something of it is first used: what only looks at a model seldom needs it, and it is slow."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any, TypeGuard

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
else:

    class _Module:
        """A module that is imported when something of it is first asked for."""

        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, name: str) -> object:
            return getattr(importlib.import_module(self._name), name)

    np = _Module("numpy")

__all__ = ["is_array", "np"]


def is_array(value: object) -> TypeGuard[npt.NDArray[Any]]:
    """Tell whether a value is a NumPy array; there is none where NumPy was never imported."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)
