"""docs/nginx.conf with a real nginx: TLS, streams that are not held back, who the client is."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rocmforge.runtime.http.app import HttpApp, HttpLimits
from rocmforge.runtime.http.transport.auth import Security, load_keys
from rocmforge.runtime.http.transport.server import Server
from rocmforge.tests.support.fake_engine import FakeEngine, make_app

CONF = Path(__file__).parents[4] / "docs" / "nginx.conf"
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
PATIENCE = 20.0
BEHIND = Security(trusted_proxy="127.0.0.1", allowed_hosts=("llm.example",))  # as the file says

pytestmark = [
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed"),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed"),
]

# Started by root, it would give up the right to its own temporary folders here.
USER = "user root;" if os.geteuid() == 0 else ""
MAIN = """
{user} daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    include {folder}/rocmforge.conf;
}}
"""


def replaced(text: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    names = ["-subj", "/CN=llm.example", "-addext", "subjectAltName=DNS:llm.example"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names]
    subprocess.run([*command, "-keyout", str(path), "-out", f"{path}.crt"], check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + Path(f"{path}.crt").read_bytes())
    return path


@pytest.fixture
def proxied(tmp_path: Path, certificate: Path) -> Iterator[Callable[[HttpApp], int]]:
    """Start an application and nginx in front of it; gives the port of TLS."""
    ends = contextlib.ExitStack()

    def start(app: HttpApp) -> int:
        server = Server(app, "127.0.0.1", 0)
        thread = threading.Thread(target=server.run, args=(0.1,), daemon=True)
        thread.start()
        ends.callback(thread.join, 10)
        ends.callback(server.stop)
        port = free_port()
        changes = {
            "server 127.0.0.1:8080;": f"server 127.0.0.1:{server.address[1]};",
            "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
            "/etc/ssl/certs/llm.example.pem": str(certificate),
            "/etc/ssl/private/llm.example.key": str(certificate),
        }
        (tmp_path / "rocmforge.conf").write_text(replaced(CONF.read_text(), changes))
        (tmp_path / "nginx.conf").write_text(MAIN.format(folder=tmp_path, user=USER))
        command = [str(NGINX), "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]
        nginx = ends.enter_context(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        ends.callback(nginx.terminate)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return port
            except OSError:
                assert nginx.poll() is None, nginx.stderr and nginx.stderr.read()
                assert time.monotonic() < deadline
                time.sleep(0.02)

    with ends:
        yield start


class Tls(http.client.HTTPConnection):
    """To a port of the loopback as if it were llm.example, from an address of our choice."""

    def __init__(self, port: int, certificate: Path, source: str = "127.0.0.1") -> None:
        super().__init__("llm.example", timeout=PATIENCE)
        self._to, self._source = ("127.0.0.1", port), (source, 0)
        self._context = ssl.create_default_context(cafile=f"{certificate}.crt")

    def connect(self) -> None:
        plain = socket.create_connection(self._to, PATIENCE, self._source)
        self.sock = self._context.wrap_socket(plain, server_hostname=self.host)

    def post(self, path: str, body: object, **headers: str) -> http.client.HTTPResponse:
        self.request("POST", path, json.dumps(body), headers)
        return self.getresponse()


def test_events_are_not_held_back(proxied: Callable[[HttpApp], int], certificate: Path) -> None:
    engine = FakeEngine(token_seconds=0.1, reply=["x"] * 20)
    connection = Tls(proxied(make_app(engine, security=BEHIND)), certificate)
    response = connection.post("/generate/stream", {"prompt": "x"})
    assert (response.status, response.headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
    lines = iter(response.readline, b"")
    first = next(line for line in lines if line.startswith(b"data: "))
    assert b'"finished":false' in first
    assert not engine.last.state().finished  # 1.9 s before its end
    *_, last = (line for line in lines if line.startswith(b"data: "))
    assert b'"finished":true' in last


def test_F55_a_disconnect_reaches_the_server(proxied: Callable[[HttpApp], int], certificate: Path) -> None:
    engine = FakeEngine(token_seconds=0.05, reply=["x"] * 100)
    connection = Tls(proxied(make_app(engine, HttpLimits(poll_seconds=0.02), security=BEHIND)), certificate)
    response = connection.post("/generate/stream", {"prompt": "x", "max_tokens": 100})
    response.readline()
    response.close()
    connection.close()
    deadline = time.monotonic() + PATIENCE
    while engine.last.cancelled_at is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_client_is_who_it_is(proxied: Callable[[HttpApp], int], certificate: Path) -> None:
    engine = FakeEngine()
    port = proxied(make_app(engine, security=replace(BEHIND, rate_per_minute=2)))
    for source in ("127.0.0.2", "127.0.0.3"):
        statuses = []
        for _ in range(3):
            connection = Tls(port, certificate, source)
            response = connection.post("/generate", {"prompt": "x"}, **{"X-Forwarded-For": "192.0.2.1"})
            statuses.append(response.status)
            response.read()
        assert statuses == [200, 200, 429]
        assert int(response.headers["Retry-After"]) > 0
        assert engine.last.request.client == source


def test_what_the_server_refuses_arrives_as_it_is(proxied: Callable[[HttpApp], int], certificate: Path) -> None:
    keys = load_keys(None, "the-key")
    port = proxied(make_app(FakeEngine(), HttpLimits(max_body_bytes=4 << 20), security=replace(BEHIND, keys=keys)))
    answers = {}
    for key, size in (("wrong", 10), ("the-key", (4 << 20) + 1), ("the-key", 10)):
        response = Tls(port, certificate).post("/generate", {"prompt": "x" * size}, Authorization=f"Bearer {key}")
        answers[response.status] = json.loads(response.read())
    assert answers.keys() == {401, 413, 200}
    assert answers[401]["status"] == answers[413]["status"] == "error"


def test_F104_the_name_of_the_proxy_must_be_allowed(proxied: Callable[[HttpApp], int], certificate: Path) -> None:
    refused = Tls(proxied(make_app(FakeEngine())), certificate).post("/generate", {"prompt": "x"})
    assert refused.status == 403
    assert "--allowed-host" in json.loads(refused.read())["error"]


def test_metrics_pass_the_proxy(proxied: Callable[[HttpApp], int], certificate: Path) -> None:
    connection = Tls(proxied(make_app(FakeEngine(), security=BEHIND)), certificate)
    connection.request("GET", "/metrics")
    assert b"rocmforge_requests_started_total" in connection.getresponse().read()
