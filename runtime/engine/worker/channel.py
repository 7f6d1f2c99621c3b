"""One end of the line between a server and its worker: frames over a socket pair, and the bell that announces them."""

from __future__ import annotations

import math
import os
import select
import socket
import struct
import threading
from typing import Any, Final

from .wire import decode, encode

MAX_FRAME_BYTES: Final = 1 << 30
_LENGTH: Final = struct.Struct("<Q")
_TIMEVAL: Final = struct.Struct("ll")


def _frame(messages: tuple[object, ...]) -> bytes:
    data = encode(messages)
    return _LENGTH.pack(len(data)) + data


class Channel:
    """One end of the socket pair. Any thread may send; one receives."""

    def __init__(
        self, ours: socket.socket, send_seconds: float = 0.0, *, ring: int | None = None, listen: int | None = None
    ) -> None:
        """Args: the socket; after how long without progress sending fails, 0: never; bells, see `spawn`."""
        self._socket = ours
        self._ring = ring
        self._bell = listen
        self._frames = 0.0  # that have been announced
        self._poll = select.poll()
        if listen is not None:
            self._poll.register(listen, select.POLLIN)
            self._poll.register(ours, 0)  # its end alone
        self._reader = ours.makefile("rb")
        self._sending = threading.Lock()
        self._broken = False
        whole = int(send_seconds)
        limit = _TIMEVAL.pack(whole, int((send_seconds - whole) * 1e6))
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)

    def send(self, *messages: object) -> None:
        """Send a frame.

        Raises:
            OSError: the other end is gone, or takes nothing.
        """
        data = _frame(messages)
        with self._sending:
            self.send_rest(self._begin(data))

    def send_some(self, *messages: object) -> bytes:
        """Send a frame as far as there is room for it now; returns the rest, for `send_rest`, before anything else.
        Not beside `send` of another thread.

        Raises:
            OSError: the other end is gone.
        """
        return self._begin(_frame(messages)) if messages else b""

    def _begin(self, data: bytes) -> bytes:
        """Send what there is room for and announce the frame: to have room for all, it must be read."""
        if self._broken:
            raise BrokenPipeError
        try:
            sent = self._socket.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            sent = 0
        if self._ring is not None:
            os.eventfd_write(self._ring, 1)
        return data[sent:]

    def send_rest(self, data: bytes) -> None:
        """Send what is still to be sent, by the thread that has begun the frame. Raises as `send` does."""
        if self._broken:
            raise BrokenPipeError
        try:
            if data:
                self._socket.sendall(data)
        except OSError:
            self._broken = True  # a part of a frame may have gone
            raise

    def receive(self) -> tuple[Any, ...] | None:
        """The messages of the next frame; None where the other end is gone."""
        if self._bell is not None:
            while not self._frames:
                for descriptor, _ in self._poll.poll():
                    self._frames += os.eventfd_read(self._bell) if descriptor == self._bell else math.inf
            self._frames -= 1
        try:
            head = self._reader.read(_LENGTH.size)
            if len(head) < _LENGTH.size:
                return None
            size = _LENGTH.unpack(head)[0]
            if size > MAX_FRAME_BYTES:
                return None
            data = self._reader.read(size)
        except OSError:
            return None
        frame: tuple[Any, ...] | None = decode(data) if len(data) == size else None
        return frame

    def close(self) -> None:
        """Let go of the socket."""
        self._reader.close()
        self._socket.close()
