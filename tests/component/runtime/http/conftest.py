from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from rocmforge.runtime.http.app import HttpApp
from rocmforge.runtime.http.transport.server import Server


@pytest.fixture
def serve() -> Iterator[Callable[[HttpApp], str]]:
    """Start an application on a free port of the loopback; gives its base URL."""
    running: list[tuple[Server, threading.Thread]] = []

    def start(app: HttpApp) -> str:
        server = Server(app, "127.0.0.1", 0)
        thread = threading.Thread(target=server.run, args=(0.1,), daemon=True)
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{server.address[1]}"

    yield start
    for server, thread in running:
        server.stop()
        thread.join(10)
        assert not thread.is_alive()
