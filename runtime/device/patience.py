"""How long something may take before it counts as hung, by a clock that stands while this process does."""

from __future__ import annotations

import time
from typing import Final

MOST_BETWEEN_LOOKS: Final = 5.0


class Patience:
    """Time that something may take. Whoever waits looks often; between two looks a few seconds count at most: where
    more went by, this process was stopped (a signal, a frozen container), and could not see that the wait was over."""

    def __init__(self, seconds: float) -> None:
        """Begin now; `seconds` are what there is."""
        self._seconds = seconds
        self._most = min(MOST_BETWEEN_LOOKS, seconds / 4)
        self.begin()

    def begin(self) -> None:
        """Begin anew."""
        self._left, self._looked_at = self._seconds, time.monotonic()

    def look(self) -> bool:
        """Return whether it is over; to be asked again and again."""
        now = time.monotonic()
        self._left -= min(now - self._looked_at, self._most)
        self._looked_at = now
        return self._left <= 0
