"""What the parts of the emulated HIP API have in common."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from . import hip_constants as hip
from .device_state import DeviceState
from .pointers import address_of


class ApiBase:
    """Holds the state; queues work on streams."""

    def __init__(self, state: DeviceState):
        self._state = state

    def _enter(self, name: str) -> int:
        return self._state.enter(name)

    def _queue(self, stream: Any, work: Callable[[], int]) -> int:
        """Do work now, or record it where the stream is capturing."""
        found = self._state.streams.get(address_of(stream))
        if found is None:
            return self._state.done(hip.INVALID_HANDLE)
        if found.spoilt:
            return self._state.done(hip.STREAM_CAPTURE_INVALIDATED)
        if found.capturing is not None:
            found.capturing.append(work)
            return hip.SUCCESS
        return self._state.done(work())

    def _captures(self, stream: Any) -> bool:
        """Whether what is done on a stream is recorded."""
        found = self._state.streams.get(address_of(stream))
        return found is not None and found.capturing is not None

    def _unborne(self) -> int:
        """The error of a call that no capture bears: one that this thread began is spoilt by it."""
        thread = threading.get_ident()
        captures = [s for s in self._state.streams.values() if s.capturing is not None and s.thread == thread]
        for stream in captures:
            stream.spoilt = True
        return self._state.done(hip.STREAM_CAPTURE_UNSUPPORTED) if captures else hip.SUCCESS
