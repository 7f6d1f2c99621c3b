"""Ranges that AMD's profilers show beside the kernels: steps and their graphs. Without the library nothing is done."""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Sequence
from typing import Any, Final

LIBRARIES: Final = (
    "librocprofiler-sdk-roctx.so.1",
    "/opt/rocm/lib/librocprofiler-sdk-roctx.so.1",
    "libroctx64.so.4",
    "/opt/rocm/lib/libroctx64.so.4",
)
"""Of ROCm 6.2 and newer, and its predecessor, which the newer profilers hear too."""


class Ranges:
    """Names what a thread does, as `with ranges("decode"):`; ranges nest."""

    def __init__(self, library: Any = None) -> None:
        self._library = library

    @contextlib.contextmanager
    def _open(self, name: str) -> Any:
        self._library.roctxRangePushA(name.encode())
        try:
            yield
        finally:
            self._library.roctxRangePop()

    def __call__(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Return a range, which lasts from entry to exit."""
        return contextlib.nullcontext() if self._library is None else self._open(name)


@functools.cache
def load_ranges(libraries: Sequence[str] = LIBRARIES) -> Ranges:
    """Return ranges by the first library that is here, else ranges that do nothing."""
    for path in libraries:
        try:
            library = ctypes.CDLL(path)
            library.roctxRangePushA.argtypes = (ctypes.c_char_p,)
            library.roctxRangePop.argtypes = ()
        except (OSError, AttributeError):
            continue
        return Ranges(library)
    return Ranges()
