"""The scenes of tools/bench/http_stress.py, small, on a scripted engine: what they count is what happened."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from rocmforge.runtime.http.app import HttpLimits
from rocmforge.runtime.http.transport.server import Server
from rocmforge.tests.support.fake_engine import FakeEngine, make_app
from rocmforge.tools.bench import http_stress


@pytest.fixture
def http() -> Iterator[http_stress.Http]:
    """A server of four streams, each of half a second."""
    limits = HttpLimits(max_streams=4, poll_seconds=0.02)
    server = Server(make_app(FakeEngine(token_seconds=0.1, max_context=1000), limits), "127.0.0.1", 0)
    thread = threading.Thread(target=server.run, args=(0.1,), daemon=True)
    thread.start()
    yield http_stress.Http(f"http://127.0.0.1:{server.address[1]}")
    server.stop()
    thread.join(10)


def test_connections(http: http_stress.Http) -> None:
    found = asyncio.run(http_stress.connections(http, 30))
    assert found["outcomes"] == {"200 whole": 4, "503 with Retry-After": 26}
    assert found["health_failed"] == 0


def test_health_beside_streams(http: http_stress.Http) -> None:
    found = asyncio.run(http_stress.health_beside_streams(http, 4, 0.5))
    assert found["health_failed"] == 0
    assert isinstance(found["health"], dict)
    assert found["health"]["n"] > 0


def test_normal_beside_slow(http: http_stress.Http) -> None:
    found = asyncio.run(http_stress.normal_beside_slow(http, 5, 10, senders=2))
    assert (found["succeeded"], found["statuses"]) == (1.0, {200: 10})
    assert found["their_connections"] == {"went on": 5}


def test_what_fails_is_counted(http: http_stress.Http) -> None:
    """More at once than are served: the figure is not 1."""
    found = asyncio.run(http_stress.normal_beside_slow(http, 0, 40, senders=20))
    assert isinstance(found["statuses"], dict)
    assert found["statuses"].keys() == {200, 503}
    assert found["succeeded"] == found["statuses"][200] / 40 < 1
