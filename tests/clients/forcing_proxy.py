"""A proxy that has a small model call a tool: it adds a `tool_choice` to the first request that brings tools.

All else it sends on as it comes, and keeps what was asked and answered.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import requests

FORWARDED = (
    "content-type",
    "authorization",
    "x-api-key",
    "anthropic-beta",
    "anthropic-version",
    "user-agent",
    "accept",
)


@dataclass
class Exchange:
    """A request, and its answer as it came."""

    method: str
    path: str
    body: dict[str, Any]
    headers: dict[str, str]
    forced: bool
    status: int = 0
    answer: bytes = b""

    def events(self) -> list[dict[str, Any]]:
        """Of an answer that was streamed."""
        lines = self.answer.decode().splitlines()
        return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


@dataclass
class ForcingProxy:
    """What it forces, and what passed through it."""

    upstream: str
    forced: dict[str, Any]
    url: str = ""
    exchanges: list[Exchange] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, method: str, path: str, headers: dict[str, str], raw: bytes) -> Exchange:
        """Note a request; the first that brings tools is changed."""
        body = json.loads(raw) if raw else {}
        with self.lock:
            force = bool(self.forced and body.get("tools")) and not any(made.forced for made in self.exchanges)
            made = Exchange(method, path, body | (self.forced if force else {}), headers, force)
            self.exchanges.append(made)
        return made

    def asked(self, path: str) -> list[Exchange]:
        """The requests of a path, in their order."""
        return [made for made in self.exchanges if made.path.partition("?")[0] == path]


@contextlib.contextmanager
def forcing(upstream: str, **forced: Any) -> Iterator[ForcingProxy]:
    """A proxy before a server, that sets these fields of the first request with tools; without any it only notes."""
    proxy = ForcingProxy(upstream, forced)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def forward(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            made = proxy.take(self.command, self.path, headers, raw)
            sent = {name: value for name, value in headers.items() if name in FORWARDED}
            with requests.request(
                self.command,
                upstream + self.path,
                data=json.dumps(made.body).encode() if raw else None,
                headers=sent,
                stream=True,
                timeout=None,
            ) as answer:
                made.status = answer.status_code
                self.send_response(answer.status_code)
                self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
                self.send_header("Connection", "close")
                self.end_headers()
                for chunk in answer.iter_content(None):
                    made.answer += chunk
                    self.wfile.write(chunk)
                    self.wfile.flush()

        do_GET = do_HEAD = do_POST = forward

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield proxy
        finally:
            server.shutdown()
            thread.join()
