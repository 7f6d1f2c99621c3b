"""Pages of the web: what they may ask and read, and by which name."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from urllib.parse import urlsplit

import falcon.testing
import pytest

from rocmforge.artifacts.errors import UsageError
from rocmforge.runtime.http.app import HttpApp
from rocmforge.runtime.http.transport.auth import Security
from rocmforge.runtime.http.transport.origins import BOUND_TO, host_name, is_loopback, read_hosts
from rocmforge.tests.support.fake_engine import FakeEngine, make_app

Client = falcon.testing.TestClient
EVIL = "https://evil.example"
LISTED = "https://chat.example"
PRIVATE = ["/status/1", "/metrics", "/traces", "/slots"]
PUBLIC = ["/v1/models", "/health", "/models"]


def ask(url: str, path: str, host: str | None, method: str = "GET", **headers: str) -> tuple[int, str]:
    """Over a real connection, by any name."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    if host is not None:
        connection.putheader("Host", host)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders(b'{"prompt": "x"}' if method == "POST" else None)
    response = connection.getresponse()
    return response.status, response.read().decode()


@pytest.mark.parametrize("path", ["/status/1", "/health", "/ready", "/", "/v1/models", "/generate", "/none", "/docs"])
def test_F104_at_the_loopback_no_name_but_its_own(serve: Callable[[HttpApp], str], path: str) -> None:
    url = serve(make_app(FakeEngine(), security=Security(cors_origins=(LISTED,))))
    port = urlsplit(url).port
    for host in ("localhost", "127.0.0.1", f"LOCALHOST:{port}", "localhost.:1", "127.8.9.1:80", "[::1]", "[::1]:80"):
        assert ask(url, path, host)[0] != 403, host
    for host in (
        f"evil.example:{port}",
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "192.0.2.1",
        "0.0.0.0",
        "[::2]",
        "",
        "[::1",
        "[::1]x",
        "127.1",
        "localhost@evil.example",
        "evil.example#localhost",
    ):
        status, text = ask(url, path, host, Origin=f"http://{host}")
        assert status == 403, host
        error = json.loads(text)["error"]
        assert "--allowed-host" in (error["message"] if path.startswith("/v1/") else error)
    assert ask(url, "/generate", f"evil.example:{port}", "POST", **{"Content-Length": "15"})[0] == 403


def test_F104_names_that_are_allowed(serve: Callable[[HttpApp], str]) -> None:
    url = serve(make_app(FakeEngine(), security=Security(allowed_hosts=("LLM.example", "[::2]", "other:8080"))))
    hosts = {"llm.example": 200, "llm.EXAMPLE:443": 200, "[::2]:1": 200, "other": 200, "localhost": 200, "x": 403}
    for host, status in hosts.items():
        assert ask(url, "/v1/models", host)[0] == status, host
    assert ask(serve(make_app(FakeEngine(), security=Security(allowed_hosts=("*",)))), "/health", "x")[0] == 200


def test_a_server_for_others_is_asked_by_any_name_unless_some_are_allowed() -> None:
    for allowed, refused in (((), []), (("llm.example",), ["evil.example"])):
        client = Client(make_app(FakeEngine(), security=Security(allowed_hosts=allowed)))
        for host in ("evil.example", "llm.example", "192.0.2.1", "[2001:db8::1]:80", "localhost:8080"):
            for address in ("0.0.0.0", "::", "192.0.2.1"):
                answer = client.simulate_get("/health", headers={"Host": host}, extras={BOUND_TO: address})
                assert (answer.status_code == 403) == (host in refused), (host, address)


@pytest.mark.parametrize(
    "host, loopback",
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.255.255.254", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("127.0.0.1.x", False),
        ("", False),
        ("localhost.x", False),
    ],
)
def test_what_is_the_loopbacks(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback
    assert host_name(f"[{host}]:80" if ":" in host else f"{host}:80") == host


@pytest.mark.parametrize("name", ["", "https://llm.example", "a/b", "[::1", "a b", "::1"])
def test_what_is_no_name(name: str) -> None:
    assert read_hosts(["llm.example", "*", "a:80", "[::1]"]) == ("llm.example", "*", "a:80", "[::1]")
    with pytest.raises(UsageError, match="--allowed-host: expected a name"):
        read_hosts(["llm.example", name])


@pytest.mark.parametrize("origins", [("*",), ("*", LISTED)])
@pytest.mark.parametrize("path", PRIVATE)
def test_F103_a_foreign_page_reads_nothing_of_others(path: str, origins: tuple[str, ...]) -> None:
    engine = FakeEngine()
    client = Client(make_app(engine, security=Security(cors_origins=origins)))
    client.simulate_post("/generate", json={"prompt": "x"})
    for origin in (EVIL, "null", "http://[::1", "evil", ""):
        answer = client.simulate_get(path, headers={"Origin": origin})
        assert answer.status_code == 403, origin
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert "Paris" not in answer.text
    for headers in ({}, {"Origin": "http://falconframework.org"}):  # a program; the server's own page
        assert client.simulate_get(path, headers=headers).status_code == 200
    listed = client.simulate_get(path, headers={"Origin": LISTED})
    assert (listed.status_code, listed.headers.get("Access-Control-Allow-Origin")) == (
        (200, LISTED) if LISTED in origins else (403, None)
    )


@pytest.mark.parametrize("path", ["/cancel/1", "/status/1"])
def test_F103_nor_ends_it(path: str) -> None:
    engine = FakeEngine(token_seconds=30)
    client = Client(make_app(engine))
    ask_first = {"Origin": EVIL, "Access-Control-Request-Method": "POST"}
    assert "Access-Control-Allow-Origin" not in client.simulate_options(path, headers=ask_first).headers
    assert client.simulate_post(path, headers={"Origin": EVIL, "Content-Type": "text/plain"}).status_code == 403


@pytest.mark.parametrize("path", PUBLIC)
def test_open_cors_is_open_for_the_rest(path: str) -> None:
    answer = Client(make_app(FakeEngine())).simulate_get(path, headers={"Origin": EVIL})
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (200, "*")
