"""Registries that send us elsewhere, answer nonsense or without end: nobody else gets credentials, all is one line."""

from __future__ import annotations

import base64
import io
import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rocmforge.artifacts.errors import InputError, UsageError
from rocmforge.registry.artifact import WEIGHTS_TYPE, describe
from rocmforge.registry.cache import Cache
from rocmforge.registry.client import Client
from rocmforge.registry.credentials import load_credentials
from rocmforge.registry.errors import RegistryError
from rocmforge.registry.pull import pull_bundle
from rocmforge.registry.reference import Reference
from rocmforge.registry.transfer import fetch, layer_name, upload
from rocmforge.tests.support.keys import make_certificate

DATA = bytes(range(256)) * 4
BLOB = describe(WEIGHTS_TYPE, DATA, "weights.bin")
SECRET = base64.b64encode(b"me:secret").decode()
Answer = tuple[int, dict[str, str], bytes]


class Server(BaseHTTPRequestHandler):
    """Answers as a test says, by method and path; remembers who asked with which credentials."""

    protocol_version = "HTTP/1.1"
    answers: dict[str, Answer]
    asked: list[tuple[str, str]]
    host: str

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        what = f"{self.command} {self.path.partition('?')[0]}"
        self.asked.append((what, self.headers.get("Authorization", "")))
        status, headers, body = self.answers.get(what, (200, {}, b"{}"))
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PATCH = do_PUT = answer

    def log_message(self, *_: object) -> None:
        """Nothing."""


class Quiet(ThreadingHTTPServer):
    """Says nothing of clients that go away."""

    def handle_error(self, *_: object) -> None:
        """Nothing."""


def served(certificate: Path | None = None) -> Iterator[type[Server]]:
    """By TLS, where there is a certificate."""

    class Own(Server):
        answers: dict[str, Answer] = {}  # noqa: RUF012 - one for each test
        asked: list[tuple[str, str]] = []  # noqa: RUF012

    with Quiet(("127.0.0.1", 0), Own) as server:
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        Own.host = f"127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield Own
        server.shutdown()
        thread.join()


@pytest.fixture
def registry() -> Iterator[type[Server]]:
    yield from served()


@pytest.fixture
def other() -> Iterator[type[Server]]:
    yield from served()


@pytest.fixture
def secure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Server]]:
    certificate = make_certificate(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    yield from served(certificate)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def login(path: Path, host: str, secret: str = SECRET) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"auths": {host: {"auth": secret}}}))


def client(server: type[Server]) -> Client:
    return Client(Reference(server.host, "a"))


def send(server: type[Server], folder: Path) -> None:
    upload(client(server), BLOB, io.BytesIO(DATA), folder / "state", lambda name, n_bytes: None)


@pytest.mark.parametrize("kind", ["basic", "bearer"])
def test_an_upload_elsewhere_gets_no_credentials(
    kind: str, registry: type[Server], other: type[Server], home: Path
) -> None:
    """The registry's storage may take it by itself; who owns that place must not get the registry's password."""
    login(home / ".docker/config.json", registry.host)
    realm = f'Bearer realm="http://{registry.host}/token"'
    if kind == "basic":
        registry.answers["GET /v2/"] = 401, {"Www-Authenticate": "Basic realm=x"}, b""
    else:
        registry.answers["POST /v2/a/blobs/uploads/"] = 401, {"Www-Authenticate": realm}, b""
        registry.answers["GET /token"] = 200, {}, b'{"token": "mine"}'
    place = {"Location": f"http://{other.host}/put"}
    other.answers["PUT /put"] = 401, {"Www-Authenticate": f'Bearer realm="http://{other.host}/token"'}, b""
    mine = client(registry)
    if kind == "bearer":
        with pytest.raises(RegistryError):
            upload(mine, BLOB, io.BytesIO(DATA), home / "state", lambda name, n_bytes: None)
        assert ("GET /token", f"Basic {SECRET}") in registry.asked
    registry.answers["POST /v2/a/blobs/uploads/"] = 202, place, b""
    with pytest.raises(RegistryError, match="expected credentials for"):
        upload(mine, BLOB, io.BytesIO(DATA), home / "state", lambda name, n_bytes: None)
    assert registry.asked[-1][1] == (f"Basic {SECRET}" if kind == "basic" else "Bearer mine")
    assert other.asked == [("PUT /put", "")]
    other.answers["PUT /put"] = 201, {}, b""
    upload(mine, BLOB, io.BytesIO(DATA), home / "state", lambda name, n_bytes: None)
    assert other.asked == [("PUT /put", "")] * 2


def test_who_a_blob_is_redirected_to_gets_no_password(registry: type[Server], other: type[Server], home: Path) -> None:
    login(home / ".docker/config.json", registry.host)
    registry.answers[f"GET /v2/a/blobs/{BLOB.digest}"] = 307, {"Location": f"http://{other.host}/blob"}, b""
    other.answers["GET /blob"] = 401, {"Www-Authenticate": f'Bearer realm="http://{other.host}/token"'}, b""
    with pytest.raises(RegistryError, match="expected credentials for"):
        fetch(client(registry), BLOB, 1 << 20)
    assert other.asked == [("GET /blob", "")]
    other.answers["GET /blob"] = 200, {}, DATA
    assert fetch(client(registry), BLOB, 1 << 20) == DATA


@pytest.mark.parametrize("scheme", ["http", "HTTP"])
@pytest.mark.parametrize("known", [True, False])
def test_a_password_goes_by_tls_alone(
    secure: type[Server], other: type[Server], home: Path, known: bool, scheme: str
) -> None:
    """Where the registry is spoken to so: whoever listens between would read it."""
    if known:
        login(home / ".docker/config.json", secure.host)
    mine = Client(Reference(secure.host, "a"), plain_http=False)
    challenge = f'Bearer realm="{scheme}://{other.host}/token"'
    secure.answers["GET /v2/a/manifests/latest"] = 401, {"Www-Authenticate": challenge}, b""
    with pytest.raises(RegistryError) as caught:
        mine.manifest()
    expected = "expected an https:// address to get a token from, as the registry's"
    assert str(caught.value) == f"{secure.host}/a: {expected}, found {scheme}://{other.host}/token"
    assert other.asked == []


def test_a_password_by_tls_is_sent(secure: type[Server], home: Path) -> None:
    login(home / ".docker/config.json", secure.host)
    mine = Client(Reference(secure.host, "a"), plain_http=False)
    challenge = {"Www-Authenticate": f'Bearer realm="https://{secure.host}/token"'}
    secure.answers["GET /v2/a/manifests/latest"] = 401, challenge, b""
    secure.answers["GET /token"] = 200, {}, b'{"token": "mine"}'
    with pytest.raises(RegistryError, match="expected credentials for"):
        mine.manifest()
    asked = [("GET /token", f"Basic {SECRET}"), ("GET /v2/a/manifests/latest", "Bearer mine")]
    assert secure.asked[-2:] == asked


def test_the_file_that_was_named_counts(registry: type[Server], home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the order in which sets of Python are gone through; a store of another file does not go lost."""
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(home / "named.json"))
    monkeypatch.setenv("DOCKER_CONFIG", str(home / "named"))
    places = ("named.json", "named/config.json", ".config/containers/auth.json", ".docker/config.json")
    for i, name in enumerate(places):
        login(home / name, registry.host, base64.b64encode(f"{i}".encode()).decode())
    registry.answers["GET /v2/"] = 401, {"Www-Authenticate": "Basic realm=x"}, b""
    for i, name in enumerate(places):
        client(registry).manifest()
        assert registry.asked[-1][1] == f"Basic {base64.b64encode(f'{i}'.encode()).decode()}", name
        (home / name).write_text(json.dumps({"credsStore": "desktop"} if i == 1 else {"auths": {registry.host: {}}}))
    (home / ".docker/config.json").write_text("\n")
    assert load_credentials()["credsStore"] == "desktop"


@pytest.mark.parametrize("text", ["{", "[]", '{"auths": []}', '{"credsStore": 7}', "[" * 100_000])
def test_a_damaged_file_of_credentials_is_named(registry: type[Server], home: Path, text: str) -> None:
    (home / ".docker").mkdir()
    (home / ".docker/config.json").write_text(text)
    with pytest.raises(InputError, match=r"\.docker/config\.json: (json|auths|credsStore): expected "):
        client(registry)


@pytest.mark.parametrize("place", ["", "ftp://x/y", "http://[", "http://a:b/c"])
def test_an_upload_to_nowhere_is_refused(registry: type[Server], home: Path, place: str) -> None:
    registry.answers["POST /v2/a/blobs/uploads/"] = 202, {"Location": place} if place else {}, b""
    with pytest.raises(RegistryError, match=r"weights\.bin: expected a Location of the registry, found "):
        send(registry, home)


@pytest.mark.parametrize(
    "challenge",
    [
        "Bearer realm=",
        "Bearer realm=x",
        'Bearer realm="/v2/token"',
        'Bearer realm="http://["',
        'Bearer realm="ftp://x"',
    ],
)
def test_a_challenge_in_no_form_is_refused(registry: type[Server], challenge: str) -> None:
    mine = client(registry)
    registry.answers["GET /v2/a/manifests/latest"] = 401, {"Www-Authenticate": challenge}, b""
    with pytest.raises(RegistryError):
        mine.manifest()


@pytest.mark.parametrize("body", [b"[]", b"7", b"", b"{", b'{"token": "a\\nb"}', b'{"token": {}}', b"[" * 100_000])
def test_a_token_in_no_form_is_refused(registry: type[Server], body: bytes) -> None:
    mine = client(registry)
    realm = f'Bearer realm="http://{registry.host}/token"'
    registry.answers["GET /v2/a/manifests/latest"] = 401, {"Www-Authenticate": realm}, b""
    registry.answers["GET /token"] = 200, {}, body
    with pytest.raises(RegistryError):
        mine.manifest()


@pytest.mark.parametrize("name", ["folder", "file", "link"])
def test_nothing_comes_for_a_goal_that_is_no_bundle(registry: type[Server], tmp_path: Path, name: str) -> None:
    goal, kept = tmp_path / name, tmp_path / "folder/kept"
    kept.parent.mkdir()
    kept.write_text("mine")
    if name == "file":
        goal.write_text("mine")
    elif name == "link":
        goal.symlink_to(kept.parent)
    reference, cache = Reference(registry.host, "a", "v1"), Cache(tmp_path / "cache")
    with pytest.raises(
        UsageError, match=r"what is not a bundle alone is not replaced: remove it or name another goal$"
    ):
        pull_bundle(reference, goal, cache, (), lambda name, n_bytes: None)
    assert (registry.asked, kept.read_text(), goal.exists()) == ([], "mine", True)


def test_an_answer_without_end_is_not_read(registry: type[Server]) -> None:
    """Neither the greeting, nor where a redirect has a body, nor the words of an error."""
    large = b"{" * (3 << 20)
    registry.answers["GET /v2/a/manifests/latest"] = 500, {}, large
    with pytest.raises(RegistryError, match=r"manifest: the registry answered 500$"):
        client(registry).manifest()
    registry.answers["GET /v2/a/manifests/latest"] = 307, {"Location": "/there"}, large
    with pytest.raises(RegistryError, match="manifest: cannot reach the registry: an answer of more than 1048576"):
        client(registry).manifest()
    registry.answers["GET /v2/"] = 200, {}, large
    with pytest.raises(RegistryError, match="an answer of more than 1048576 bytes"):
        client(registry)


def test_a_manifest_that_is_cut_off_is_one_line(registry: type[Server]) -> None:
    registry.answers["GET /v2/a/manifests/latest"] = 200, {"Content-Length": "99", "Connection": "close"}, b"{"
    with pytest.raises(RegistryError, match="manifest: cut off: "):
        client(registry).manifest()


@pytest.mark.parametrize("wait", ["99999999", "soon", "Fri, 31 Dec 2100 23:59:59 GMT"])
def test_a_registry_says_when_to_ask_again_within_limits(
    registry: type[Server], wait: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, slept = client(registry), list[float]()
    monkeypatch.setattr("urllib3.util.retry.time.sleep", slept.append)
    registry.answers["GET /v2/a/manifests/latest"] = 429, {"Retry-After": wait}, b""
    with pytest.raises(RegistryError, match="answered 429"):
        mine.manifest()
    assert slept
    assert max(slept) <= 30


def test_a_layer_has_no_control_characters_in_messages() -> None:
    assert layer_name(describe(WEIGHTS_TYPE, DATA, "\x1b]0;x\x07\n")) == "\\x1b]0;x\\x07\\n"
