"""Tokens a second, lately."""

from __future__ import annotations

import time
from collections import deque
from typing import Final

WINDOW_SECONDS: Final = 5.0


class Rate:
    """Tokens a second over the last seconds. Added to by one thread, read by any."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._samples: deque[tuple[float, int]] = deque(maxlen=4096)

    def add(self, tokens: int) -> None:
        """So many tokens came just now."""
        self._samples.append((time.monotonic(), tokens))

    def value(self) -> float:
        """Over the window; 0 where fewer than two steps fall into it."""
        since = time.monotonic() - WINDOW_SECONDS
        recent = [(at, tokens) for at, tokens in list(self._samples) if at >= since]
        if len(recent) < 2:
            return 0.0
        return sum(tokens for _, tokens in recent[1:]) / max(recent[-1][0] - recent[0][0], 1e-6)
