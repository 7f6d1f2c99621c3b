"""What one client, and all of them together, may ask of the server."""

from __future__ import annotations

from ....artifacts.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds and intervals of the HTTP layer.

    Attributes:
        max_body_bytes: largest request body; beyond it a request gets a 413.
        image_body_bytes: that, where a model sees images.
        max_header_bytes: largest request line and header; beyond it a request gets a 431.
        max_prompt_tokens: longest prompt, where that is to be shorter than the context; None: the context.
        max_connections: connections held at once; beyond them a 503.
        header_seconds: how long a request's header may take to arrive, from its first byte.
        body_seconds: how long the whole request may.
        idle_seconds: how long a connection may wait for its next request.
        write_seconds: how long a client that reads nothing, or next to nothing, is waited for.
        max_streams: generation requests served at once, each by a thread of its own; beyond them a 503.
        spare_threads: threads beside those, that never generate.
        ping_seconds: a stream with nothing to say sends a comment this often.
        poll_seconds: how often a waiting request looks whether its client is still there.
        cancel_seconds: how long `/cancel` waits for the engine to end the request.
    """

    max_body_bytes: int = 4 << 20
    image_body_bytes: int = 48 << 20  # a photo as cameras make them is 32 MiB at most, and base64 a third more
    max_header_bytes: int = 32 << 10
    max_prompt_tokens: int | None = None
    max_connections: int = 2000
    header_seconds: float = 15.0
    body_seconds: float = 60.0
    idle_seconds: float = 120.0
    write_seconds: float = 30.0
    max_streams: int = 96
    spare_threads: int = 8
    ping_seconds: float = 15.0
    poll_seconds: float = 0.1
    cancel_seconds: float = 5.0

    @property
    def threads(self) -> int:
        """Threads of the server, each of which answers one request at a time."""
        return self.max_streams + self.spare_threads
