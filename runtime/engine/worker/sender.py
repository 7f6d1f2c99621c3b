"""What a worker has to say, on its way to the server: in turn, whoever sends it.

The engine's thread sends what a step came to before it begins the next one, the first tokens while it still takes the
others. Left to another thread, they would leave when the next step computes: that thread has to wait for the
interpreter's lock, which the engine's thread holds until then, and the server would write its answers while all
processors compute, where now one of them waits for Python.
"""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from typing import Final

from .channel import Channel

MOST_MESSAGES: Final = 4096  # of a frame
EARLY_MESSAGES: Final = 16  # of a step, that leave before the others are there: so the server writes meanwhile


class Sender:
    """A queue of messages, and the thread that sends those that nobody else has sent."""

    def __init__(self, channel: Channel) -> None:
        """Args: where to."""
        self._channel = channel
        self._messages: deque[object] = deque()
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()  # wakes the thread
        self._rung = False  # whether it will look again
        self._sending = threading.Lock()  # whoever has it takes the next messages from the queue
        self._rest = b""  # of a frame that the server had no room for
        self._finishing = False
        self._thread = threading.Thread(target=self._run, name="sender", daemon=True)
        self._thread.start()

    def put(self, message: object) -> None:
        """Have a message sent, in turn. A function is asked for it by the thread that sends, and may wait."""
        self._messages.append(message)
        self._ring()

    def put_for_now(self, message: object) -> None:
        """Have a message sent by the `send_now` that follows, at the latest: no thread is woken for it."""
        self._messages.append(message)
        if len(self._messages) >= EARLY_MESSAGES:
            self.send_now()

    def _ring(self) -> None:
        if not self._rung:
            self._rung = True
            self._bell.put(None)

    def send_now(self) -> None:
        """Send what waits, by this thread, as far as that takes no waiting."""
        if not self._sending.acquire(blocking=False):
            self._ring()  # another thread sends, and may have looked for the last time
            return
        try:
            if not self._rest:
                self._rest = self._channel.send_some(*self._without_waiting())
                if self._rest:
                    self._ring()
        except OSError:
            os._exit(1)  # the server is gone
        finally:
            self._sending.release()

    def _without_waiting(self) -> list[object]:
        """The messages of the next frame, unless one of them may wait: then none."""
        messages = self._next()
        if not any(map(callable, messages)):
            return messages
        self._messages.extendleft(reversed(messages))
        return []

    def finish(self) -> None:
        """Return when all is sent."""
        self._finishing = True
        self._bell.put(None)
        self._thread.join()

    def _next(self) -> list[object]:
        """The messages of the next frame."""
        return [self._messages.popleft() for _ in range(min(len(self._messages), MOST_MESSAGES))]

    def _run(self) -> None:
        last = False
        while not last:
            self._bell.get()
            last = self._finishing
            self._rung = False  # before it looks: what is put from here on rings again
            with self._sending:
                try:
                    self._send_all()
                except OSError:
                    os._exit(1)  # the server is gone

    def _send_all(self) -> None:
        self._channel.send_rest(self._rest)
        self._rest = b""
        while messages := self._next():
            self._channel.send(*(message() if callable(message) else message for message in messages))
