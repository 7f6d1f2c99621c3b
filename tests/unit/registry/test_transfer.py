"""Downloads from servers that break off, know no ranges, or send something else; and tokens."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rocmforge.artifacts.errors import BundleError
from rocmforge.registry.artifact import WEIGHTS_TYPE, describe
from rocmforge.registry.client import Client
from rocmforge.registry.errors import RegistryError
from rocmforge.registry.reference import Reference
from rocmforge.registry.transfer import download, fetch

DATA = hashlib.shake_256(b"weights").digest(1_200_000)
BLOB = describe(WEIGHTS_TYPE, DATA, "weights.bin")


class Handler(BaseHTTPRequestHandler):
    """A registry of one blob that does as a test says."""

    data = DATA
    ranges = True
    cut_after = 10**9  # bytes of an answer
    tokens = False
    asked: list[str]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        given = self.headers.get("Range", "")
        self.asked.append(f"{self.path.partition('?')[0]} {given}".strip())
        if self.path.startswith("/token"):
            return self.answer(200, json.dumps({"token": f"t{len(self.asked)}"}).encode())
        if self.tokens and self.headers.get("Authorization") != f"Bearer {self.tokens}":
            realm = f"http://{self.headers['Host']}/token"
            challenge = f'Bearer realm="{realm}",service="s",scope="repository:a:pull"'
            return self.answer(401, b"", {"Www-Authenticate": challenge})
        if self.path == "/v2/":
            return self.answer(200, b"{}")
        begin = int(given[6:-1]) if given and self.ranges else 0
        headers = {"Content-Range": f"bytes {begin}-{len(self.data) - 1}/{len(self.data)}"} if begin else {}
        return self.answer(206 if begin else 200, self.data[begin:], headers)

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        cut = len(body) if self.path == "/v2/" else self.cut_after
        self.wfile.write(body[:cut])
        if len(body) > cut:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def handler() -> Iterator[type[Handler]]:
    class Own(Handler):
        asked: list[str] = []  # noqa: RUF012 - one for each test

    with ThreadingHTTPServer(("127.0.0.1", 0), Own) as server:
        Own.host = f"127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield Own
        server.shutdown()
        thread.join()


def client(handler: type[Handler]) -> Client:
    return Client(Reference(handler.host, "a"))  # type: ignore[attr-defined]


def get(handler: type[Handler], goal: Path) -> list[int]:
    told: list[int] = []
    download(client(handler), BLOB, goal, lambda name, n_bytes: told.append(n_bytes))
    return told


def test_what_breaks_off_goes_on(handler: type[Handler], tmp_path: Path) -> None:
    handler.cut_after = 300_000
    goal = tmp_path / "new" / "blob"
    assert sum(get(handler, goal)) == len(DATA)
    assert goal.read_bytes() == DATA
    assert [text.partition("=")[2] for text in handler.asked[1:]] == ["", "262144-", "524288-", "786432-", "1048576-"]


@pytest.mark.parametrize("have", [DATA, DATA[:1], DATA[:200_000], DATA + b"x"])
def test_what_is_there_already(handler: type[Handler], tmp_path: Path, have: bytes) -> None:
    goal = tmp_path / "blob"
    goal.write_bytes(have)
    get(handler, goal)
    assert goal.read_bytes() == DATA


def test_a_server_without_ranges_begins_anew(handler: type[Handler], tmp_path: Path) -> None:
    handler.ranges = False
    goal = tmp_path / "blob"
    goal.write_bytes(DATA[:1000])
    get(handler, goal)
    assert goal.read_bytes() == DATA


def test_a_server_that_brings_nothing_more_is_given_up(handler: type[Handler], tmp_path: Path) -> None:
    handler.cut_after = 0
    with pytest.raises(RegistryError, match=r"weights\.bin: cut off after 0 of 1200000 bytes: "):
        get(handler, tmp_path / "blob")
    handler.cut_after, handler.ranges = 600_000, False  # each time the same beginning
    with pytest.raises(RegistryError, match=r"weights\.bin: cut off after 524288 of 1200000 bytes: "):
        get(handler, tmp_path / "blob")


@pytest.mark.parametrize("data", [DATA[:-1] + b"?", DATA + b"?", DATA[:-1], b""])
def test_other_bytes_are_refused_and_not_kept(handler: type[Handler], tmp_path: Path, data: bytes) -> None:
    handler.data = data
    with pytest.raises(BundleError, match=r"weights\.bin: expected sha256:.* of 1200000 bytes, found "):
        get(handler, tmp_path / "blob")
    assert not (tmp_path / "blob").exists()
    with pytest.raises(BundleError, match=r"weights\.bin: expected sha256:"):
        fetch(client(handler), BLOB, 1 << 21)
    with pytest.raises(BundleError, match="expected at most 1024 bytes, found 1200000"):
        fetch(client(handler), BLOB, 1024)


def test_a_wrong_beginning_is_refused_and_what_was_sound_comes_anew(handler: type[Handler], tmp_path: Path) -> None:
    goal = tmp_path / "blob"
    goal.write_bytes(b"?" * 1000)
    with pytest.raises(BundleError, match="found sha256:"):
        get(handler, goal)
    get(handler, goal)
    assert goal.read_bytes() == DATA


def test_a_token_is_fetched_and_fetched_anew(handler: type[Handler], tmp_path: Path) -> None:
    """Anonymous, as from public repositories; the second time it has expired."""
    mine = client(handler)
    handler.tokens = "t3"  # type: ignore[assignment]
    assert fetch(mine, BLOB, 1 << 21) == DATA
    assert [text.partition(" ")[0] for text in handler.asked[1:]][:2] == [f"/v2/a/blobs/{BLOB.digest}", "/token"]
    handler.tokens = "t6"  # type: ignore[assignment]
    assert fetch(mine, BLOB, 1 << 21) == DATA
    handler.tokens = "never"  # type: ignore[assignment]
    with pytest.raises(RegistryError, match="expected credentials for 127"):
        fetch(mine, BLOB, 1 << 21)
