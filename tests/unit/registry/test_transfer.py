"""Downloads from servers that break off, know no ranges, or send something else; uploads that break off; tokens."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rocmforge.artifacts.errors import BundleError
from rocmforge.registry.artifact import WEIGHTS_TYPE, describe
from rocmforge.registry.cache import Cache
from rocmforge.registry.client import Client
from rocmforge.registry.errors import RegistryError
from rocmforge.registry.reference import Reference
from rocmforge.registry.transfer import download, exclusive_file, fetch, upload

DATA = hashlib.shake_256(b"weights").digest(1_200_000)
BLOB = describe(WEIGHTS_TYPE, DATA, "weights.bin")


class Handler(BaseHTTPRequestHandler):
    """A registry of one blob that does as a test says."""

    data = DATA
    ranges = True
    cut_after = 10**9  # bytes of an answer
    tokens = False
    asked: list[str]
    kept: bytearray  # of the upload that is going on
    stored: bytes
    cuts: list[int]  # the connection ends when so many bytes of the blob are here
    keeps_parts = True
    gone = False  # it has given the upload up
    says_stored = True
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
        if self.path.startswith("/v2/a/blobs/uploads/1"):
            return self.answer(404, b"") if self.gone else self.answer(204, b"", self.place())
        begin = int(given[6:-1]) if given and self.ranges else 0
        headers = {"Content-Range": f"bytes {begin}-{len(self.data) - 1}/{len(self.data)}"} if begin else {}
        return self.answer(206 if begin else 200, self.data[begin:], headers)

    def place(self) -> dict[str, str]:
        return {"Location": "/v2/a/blobs/uploads/1", "Range": f"0-{max(len(self.kept) - 1, 0)}"}

    def do_POST(self) -> None:
        self.asked.append("POST")
        type(self).kept, type(self).gone = bytearray(), False
        self.answer(202, b"", self.place())

    def do_HEAD(self) -> None:
        self.asked.append("HEAD")
        self.answer(200 if self.stored == self.data else 404, b"")

    def take(self) -> bool:
        """Take the body of a request, behind what is here; False where it was cut off."""
        before, size = len(self.kept), int(self.headers["Content-Length"])
        cut = min((cut for cut in self.cuts if before <= cut < before + size), default=None)
        self.kept.extend(self.rfile.read(size if cut is None else cut - before))
        self.asked.append(f"{self.command} {before}-{len(self.kept)}")
        if cut is not None:
            self.cuts.remove(cut)
            if not self.keeps_parts:
                type(self).gone = True
            self.close_connection = True
        return cut is None

    def do_PATCH(self) -> None:
        assert self.headers["Content-Range"].startswith(f"{len(self.kept)}-")
        if self.take():
            self.answer(202, b"", self.place())

    def do_PUT(self) -> None:
        assert self.path.endswith(f"?digest={BLOB.digest}")
        if self.take():
            type(self).stored = bytes(self.kept)
            if self.says_stored:
                return self.answer(201, b"")
            type(self).says_stored = self.close_connection = True
        return None

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
        cuts: list[int] = []  # noqa: RUF012
        stored = b""

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
    with exclusive_file(goal) as file:
        download(client(handler), BLOB, file, lambda name, n_bytes: told.append(n_bytes))
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


def test_a_wrong_beginning_comes_anew(handler: type[Handler], tmp_path: Path) -> None:
    """As a loss of power leaves one: it is no fault of the registry."""
    goal = tmp_path / "blob"
    goal.write_bytes(b"?" * 1000)
    get(handler, goal)
    assert goal.read_bytes() == DATA
    assert [text.partition("=")[2] for text in handler.asked[1:]] == ["1000-", ""]


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


def put(handler: type[Handler], state: Path) -> list[int]:
    """Send the blob in chunks of 400,000 bytes."""
    told: list[int] = []
    handler.asked.clear()
    upload(client(handler), BLOB, io.BytesIO(DATA), state, lambda name, n_bytes: told.append(n_bytes), 400_000)
    is_stored = handler.stored == DATA  # pytest would look for the differences for minutes
    assert is_stored
    assert (sum(told), min(told) > 0, state.exists()) == (len(DATA), True, False)
    return told


def sent(handler: type[Handler]) -> list[str]:
    return [text for text in handler.asked if text[:2] in {"PA", "PU"}]


def test_an_upload_that_breaks_off_goes_on_within_a_chunk(handler: type[Handler], tmp_path: Path) -> None:
    """In its first chunk, in a later one, and between two: no byte is sent twice."""
    handler.cuts += [150_000, 700_000, 1_100_000]
    put(handler, tmp_path / "state")
    edges = [0, 150_000, 550_000, 700_000, 1_100_000, 1_100_000, 1_200_000]
    parts = [f"PATCH {begin}-{end}" for begin, end in itertools.pairwise(edges)]
    assert sent(handler) == [*parts, "PUT 1200000-1200000"]
    assert handler.asked.count("POST") == 1


def test_an_upload_goes_on_in_another_process(handler: type[Handler], tmp_path: Path) -> None:
    """It gave up within the first chunk: where that was is remembered."""
    handler.cuts += [150_000] * 9
    with pytest.raises(RegistryError, match=r"weights\.bin: cut off after 150000 of 1200000 bytes: "):
        put(handler, tmp_path / "state")
    assert (tmp_path / "state").exists()
    handler.cuts.clear()
    put(handler, tmp_path / "state")
    assert sent(handler)[0] == "PATCH 150000-550000"
    assert "POST" not in handler.asked


@pytest.mark.parametrize("text", ["", "{", "[]", '{"location": 5}', "[" * 100_000])
def test_an_upload_whose_state_is_damaged_begins_anew(handler: type[Handler], tmp_path: Path, text: str) -> None:
    (tmp_path / "state").write_text(text)
    put(handler, tmp_path / "state")
    assert handler.asked.count("POST") == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": []}', '{"files": {"weights.bin": 5}}', "[" * 100_000])
def test_weights_of_a_damaged_bundle_are_passed_over(tmp_path: Path, text: str) -> None:
    bundle = tmp_path / "bundles/a/a.rfb"
    bundle.mkdir(parents=True)
    (bundle / "manifest.json").write_text(text)
    assert Cache(tmp_path).find_weights(BLOB.digest) is None


def test_a_registry_that_keeps_no_parts_gets_all_again(handler: type[Handler], tmp_path: Path) -> None:
    handler.cuts.append(700_000)
    handler.keeps_parts = False
    put(handler, tmp_path / "state")
    assert sent(handler)[:3] == ["PATCH 0-400000", "PATCH 400000-700000", "PATCH 0-400000"]


def test_an_upload_whose_answer_is_lost_is_done(handler: type[Handler], tmp_path: Path) -> None:
    handler.says_stored = False
    put(handler, tmp_path / "state")
    assert sent(handler).count("PUT 1200000-1200000") == 1
