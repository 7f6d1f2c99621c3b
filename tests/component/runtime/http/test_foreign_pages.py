"""Pages of other origins in a real browser: what they get of a server on the loopback."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser

from rocmforge.runtime.http.app import HttpApp
from rocmforge.runtime.http.transport.auth import Security
from rocmforge.tests.support.browser import chromium
from rocmforge.tests.support.fake_engine import FakeEngine, make_app

# Asks with what needs no preflight, and tells what it could read.
FETCH = """async ([url, method]) => {
  try { const answer = await fetch(url, {method, body: method === "POST" ? '{"prompt": "x"}' : undefined});
        return [answer.status, await answer.text()]; }
  catch (error) { return [0, String(error)]; }
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """To which evil.example is this machine."""
    with chromium("--host-resolver-rules=MAP evil.example 127.0.0.1") as running:
        yield running


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[str]:
    """Another origin's empty page."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_F103_a_page_of_another_origin(serve: Callable[[HttpApp], str], browser: Browser, elsewhere: str) -> None:
    engine = FakeEngine()
    url = serve(make_app(engine))
    page = browser.new_page()
    page.goto(elsewhere)
    status, text = page.evaluate(FETCH, [f"{url}/generate", "POST"])
    assert (status, "Paris" in text) == (200, True)  # the API is open to all pages, as its documentation says
    engine.token_seconds = 30.0
    other = engine.submit(engine.last.request)
    for path, method in (("/status/1", "GET"), ("/metrics", "GET"), ("/slots", "GET"), ("/cancel/2", "POST")):
        status, text = page.evaluate(FETCH, [url + path, method])
        assert (status, "Failed to fetch" in text) == (0, True), path
    assert other.cancelled_at is None
    page.goto(f"{url}/docs")  # the server's own
    assert page.evaluate(FETCH, [f"{url}/status/1", "GET"])[0] == 200
    page.close()


def test_F104_a_page_whose_name_leads_here(serve: Callable[[HttpApp], str], browser: Browser) -> None:
    """Its origin is that of the server, to the browser: nothing but the name tells it apart."""
    for security in (Security(), Security(cors_origins=("https://chat.example",))):
        url = serve(make_app(FakeEngine(), security=security))
        page = browser.new_page()
        foreign = f"http://evil.example:{urlsplit(url).port}"
        loaded = page.goto(f"{foreign}/docs")
        assert loaded is not None
        assert loaded.status == 403
        for path, method in (("/v1/models", "GET"), ("/health", "GET"), ("/generate", "POST"), ("/status/1", "GET")):
            status, text = page.evaluate(FETCH, [foreign + path, method])
            assert (status, "--allowed-host" in text) == (403, True), path
        page.close()
