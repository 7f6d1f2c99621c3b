"""What one client, and all of them together, may ask of the server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds and intervals of the HTTP layer.

    Attributes:
        max_body_bytes: largest request body; beyond it a request gets a 413.
        threads: threads of the server, each of which answers one request at a time.
        spare_threads: how many of them never generate, so that `/health` always finds one.
        ping_seconds: a stream with nothing to say sends a comment this often.
        poll_seconds: how often a waiting request looks whether its client is still there.
        cancel_seconds: how long `/cancel` waits for the engine to end the request.
    """

    max_body_bytes: int = 4 << 20
    threads: int = 24
    spare_threads: int = 4
    ping_seconds: float = 15.0
    poll_seconds: float = 0.1
    cancel_seconds: float = 5.0

    @property
    def max_generations(self) -> int:
        """Generation requests served at once."""
        return max(1, self.threads - self.spare_threads)
