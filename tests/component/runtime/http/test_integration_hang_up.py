"""Clients that hang up while a server behind this one is still at their answer."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from rocmforge.runtime.http.app import HttpApp
from rocmforge.runtime.http.proxy.manager import IntegrationManager, OpenAIIntegration
from rocmforge.tests.support.backends import client_of

PATIENCE = 20.0  # only ends what hangs
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\n%s\r\n\r\n"
EVENT = b"data: {}\n\n"
CHUNKED = b"Transfer-Encoding: chunked"


class Slow(OpenAIIntegration):
    """Has a model, and a socket that is asked for it; answers with the beginning of one alone."""

    def __init__(self, begun: bytes) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        super().__init__(f"http://127.0.0.1:{self._listening.getsockname()[1]}/v1")
        self.begun = begun
        self.asked, self.left = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def get_models(self) -> list[dict[str, Any]]:
        return [{"id": "slow"}]

    def _serve(self) -> None:
        with self._listening, self._listening.accept()[0] as theirs:
            theirs.settimeout(PATIENCE)
            while not theirs.recv(1 << 16).endswith(b"}"):
                pass
            theirs.sendall(self.begun)
            self.asked.set()
            with contextlib.suppress(OSError):
                if not theirs.recv(1):
                    self.left.set()

    def close(self) -> None:
        self._thread.join(PATIENCE)


BEGUN = {
    "nothing": b"",
    "half a header": b"HTTP/1.1 200 OK\r\nContent-Ty",
    "half a document": HEAD % (b"application/json", b"Content-Length: 99") + b'{"a": ',
    "half a document till its end": HEAD % (b"application/json", b"Connection: close") + b'{"a": ',
    "a stream": HEAD % (b"text/event-stream", CHUNKED) + b"a\r\n" + EVENT + b"\r\n",
    "a stream till its end": HEAD % (b"text/event-stream", b"Connection: close") + EVENT,
}


@pytest.fixture(params=list(BEGUN.values()), ids=list(BEGUN))
def slow(request: pytest.FixtureRequest) -> Iterator[Slow]:
    with contextlib.closing(Slow(request.param)) as made:
        yield made


def test_who_hangs_up_ends_it_at_the_other_server(slow: Slow, serve: Callable[[HttpApp], str]) -> None:
    manager = IntegrationManager()
    manager.add_integration("other", slow)
    app = client_of(manager).app
    assert isinstance(app, HttpApp)
    address = urlsplit(serve(app))
    body = json.dumps({"model": "slow", "stream": True}).encode()
    with socket.create_connection((str(address.hostname), address.port or 0), timeout=PATIENCE) as ours:
        ours.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        assert slow.asked.wait(PATIENCE)
        received = b"" if b"event-stream" in slow.begun else EVENT
        while EVENT not in received:
            received += ours.recv(1 << 16)
        assert not slow.left.is_set()
        assert app.admission.active == 1
    assert slow.left.wait(PATIENCE)
    deadline = time.monotonic() + PATIENCE
    while app.admission.active and time.monotonic() < deadline:
        time.sleep(0.01)
    assert app.admission.active == 0
    watches = [thread for thread in threading.enumerate() if thread.name == "integration watch"]
    for thread in watches:
        thread.join(PATIENCE)
        assert not thread.is_alive()
