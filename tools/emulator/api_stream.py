"""HIP functions on streams, events and graphs."""

from __future__ import annotations

import ctypes
import threading
import time
from typing import Any

from . import hip_constants as hip
from .api_base import ApiBase
from .device_state import Stream
from .pointers import address_of, write


class StreamApi(ApiBase):
    """Streams do their work when it is queued; graphs replay what was recorded."""

    def hipStreamCreate(self, stream: Any) -> int:
        """Make a stream."""
        if code := self._enter("hipStreamCreate"):
            return code
        if not address_of(stream):
            return self._state.done(hip.INVALID_VALUE)
        handle = self._state.handle()
        self._state.streams[handle] = Stream()
        write(stream, handle, ctypes.c_void_p)
        return hip.SUCCESS

    def hipStreamCreateWithFlags(self, stream: Any, flags: Any) -> int:
        """Make a stream; the two flags that there are change nothing here."""
        if int(getattr(flags, "value", flags)) not in (0, 1):
            return self._state.done(hip.INVALID_VALUE)
        return self.hipStreamCreate(stream)

    def hipStreamDestroy(self, stream: Any) -> int:
        """End a stream."""
        self._enter("hipStreamDestroy")
        handle = address_of(stream)
        if not handle or self._state.streams.pop(handle, None) is None:
            return self._state.done(hip.INVALID_HANDLE)
        return hip.SUCCESS

    def _wait(self, name: str, stream: Any) -> int:
        if code := self._enter(name):
            return code
        if address_of(stream) not in self._state.streams:
            return self._state.done(hip.INVALID_HANDLE)
        return self._unborne()

    def hipStreamSynchronize(self, stream: Any) -> int:
        """Wait for a stream: an error of its work shows here again."""
        self._state.memory.settle()
        return self._wait("hipStreamSynchronize", stream)

    def hipStreamQuery(self, stream: Any) -> int:
        """Whether a stream's work is done: it always is."""
        return self._wait("hipStreamQuery", stream)

    def hipStreamWaitEvent(self, stream: Any, event: Any, flags: Any = None) -> int:
        """Order after an event: all work is done in the order of the calls anyway."""
        return self._enter("hipStreamWaitEvent")

    def hipDeviceSynchronize(self) -> int:
        """Wait for all work."""
        if code := self._enter("hipDeviceSynchronize"):
            return code
        self._state.memory.settle()
        return self._unborne()

    def hipEventCreate(self, event: Any) -> int:
        """Make an event."""
        if code := self._enter("hipEventCreate"):
            return code
        handle = self._state.handle()
        self._state.events[handle] = None
        write(event, handle, ctypes.c_void_p)
        return hip.SUCCESS

    def hipEventCreateWithFlags(self, event: Any, flags: Any) -> int:
        """Make an event; flags change nothing here."""
        return self.hipEventCreate(event)

    def hipEventRecord(self, event: Any, stream: Any = None) -> int:
        """Note the time, in stream order."""
        if code := self._enter("hipEventRecord"):
            return code
        handle = address_of(event)
        if handle not in self._state.events:
            return self._state.done(hip.INVALID_HANDLE)

        def record() -> int:
            self._state.events[handle] = time.perf_counter()
            return hip.SUCCESS

        return self._queue(stream, record)

    def hipEventSynchronize(self, event: Any) -> int:
        """Wait for an event."""
        code = self._enter("hipEventSynchronize")
        return code or self._known_event(event)

    def hipEventQuery(self, event: Any) -> int:
        """Whether an event has happened."""
        code = self._enter("hipEventQuery")
        return code or self._known_event(event)

    def _known_event(self, event: Any) -> int:
        return hip.SUCCESS if address_of(event) in self._state.events else self._state.done(hip.INVALID_HANDLE)

    def hipEventElapsedTime(self, milliseconds: Any, start: Any, stop: Any) -> int:
        """Milliseconds between two events: the emulator's own time, not a GPU's."""
        if code := self._enter("hipEventElapsedTime"):
            return code
        times = [self._state.events.get(address_of(event)) for event in (start, stop)]
        if times[0] is None or times[1] is None:
            return self._state.done(hip.INVALID_HANDLE)
        write(milliseconds, 1e3 * (times[1] - times[0]), ctypes.c_float)
        return hip.SUCCESS

    def hipEventDestroy(self, event: Any) -> int:
        """End an event."""
        self._enter("hipEventDestroy")
        code = self._known_event(event)
        self._state.events.pop(address_of(event), None)
        return code

    def hipStreamBeginCapture(self, stream: Any, mode: Any) -> int:
        """Record from now on instead of doing. The default stream cannot be captured."""
        if code := self._enter("hipStreamBeginCapture"):
            return code
        handle = address_of(stream)
        found = self._state.streams.get(handle)
        if found is None or not handle:
            return self._state.done(hip.STREAM_CAPTURE_UNSUPPORTED)
        if int(getattr(mode, "value", mode)) not in range(3):
            return self._state.done(hip.INVALID_VALUE)
        if found.capturing is not None and not found.spoilt:
            return self._state.done(hip.ILLEGAL_STATE)
        found.capturing, found.spoilt, found.thread = [], False, threading.get_ident()
        return hip.SUCCESS

    def hipStreamEndCapture(self, stream: Any, graph: Any) -> int:
        """Stop recording; the graph is what was recorded."""
        if code := self._enter("hipStreamEndCapture"):
            return code
        found = self._state.streams.get(address_of(stream))
        if found is None or found.capturing is None:
            return self._state.done(hip.ILLEGAL_STATE)
        if found.spoilt:  # and it stays so: until the next capture begins, nothing can be done with the stream
            return self._state.done(hip.STREAM_CAPTURE_INVALIDATED)
        handle = self._state.handle()
        self._state.graphs[handle], found.capturing = found.capturing, None
        write(graph, handle, ctypes.c_void_p)
        return hip.SUCCESS

    def hipStreamIsCapturing(self, stream: Any, status: Any) -> int:
        """1 where a stream is capturing, else 0."""
        if code := self._enter("hipStreamIsCapturing"):
            return code
        write(status, int(self._captures(stream)), ctypes.c_int)
        return hip.SUCCESS

    def hipGraphInstantiate(
        self, executable: Any, graph: Any, node: Any = None, log: Any = None, size: Any = None
    ) -> int:
        """Make a graph launchable."""
        if code := self._enter("hipGraphInstantiate"):
            return code
        recorded = self._state.graphs.get(address_of(graph))
        if recorded is None:
            return self._state.done(hip.INVALID_VALUE)
        handle = self._state.handle()
        self._state.executables[handle] = list(recorded)
        write(executable, handle, ctypes.c_void_p)
        return hip.SUCCESS

    def hipGraphInstantiateWithFlags(self, executable: Any, graph: Any, flags: Any) -> int:
        """Make a graph launchable; flags change nothing here."""
        return self.hipGraphInstantiate(executable, graph)

    def hipGraphLaunch(self, executable: Any, stream: Any) -> int:
        """Replay; stops at the first error."""
        if code := self._enter("hipGraphLaunch"):
            return code
        recorded = self._state.executables.get(address_of(executable))
        if recorded is None:
            return self._state.done(hip.INVALID_VALUE)

        def replay() -> int:
            return next((code for code in (work() for work in recorded) if code), hip.SUCCESS)

        return self._queue(stream, replay)

    def hipGraphExecDestroy(self, executable: Any) -> int:
        """End a launchable graph."""
        self._enter("hipGraphExecDestroy")
        found = self._state.executables.pop(address_of(executable), None)
        return hip.SUCCESS if found is not None else self._state.done(hip.INVALID_VALUE)

    def hipGraphDestroy(self, graph: Any) -> int:
        """End a graph."""
        self._enter("hipGraphDestroy")
        found = self._state.graphs.pop(address_of(graph), None)
        return hip.SUCCESS if found is not None else self._state.done(hip.INVALID_VALUE)
