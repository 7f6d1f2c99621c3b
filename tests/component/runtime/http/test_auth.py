"""API keys, their scopes, limits by client, and pages of other origins."""

from __future__ import annotations

import base64
import hashlib
import logging
import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import falcon.testing
import openai
import pytest
from falcon.inspect import inspect_routes

from rocmforge.artifacts.errors import UsageError
from rocmforge.runtime.engine.generation import GenerationRequest
from rocmforge.runtime.http.app import PATHS, HttpApp, HttpLimits
from rocmforge.runtime.http.llama_cpp.errors import LLAMA_CPP_PATHS
from rocmforge.runtime.http.transport.auth import (
    MAX_KEY_FILE_BYTES,
    KeyRing,
    Security,
    load_keys,
    warn_if_open,
)
from rocmforge.runtime.http.transport.rate_limit import RateLimiter, client_of_address
from rocmforge.tests.support.fake_engine import FakeEngine, make_app

Client = falcon.testing.TestClient
SECRET = "a-key-of-somebody-0123456789"
SCRAPER = "a-key-of-prometheus-01234567"
ADMIN = "a-key-of-the-owner-0123456789"
OTHER = "a-key-of-someone-else-0123456"
DEFAULT_NAME = "key-" + hashlib.sha256(SECRET.encode()).hexdigest()[:8]


@pytest.fixture
def keys(tmp_path: Path) -> KeyRing:
    hashed = hashlib.sha256(SCRAPER.encode()).hexdigest()
    path = tmp_path / "keys"
    path.write_text(f"# ours\n\n{SECRET}\nsha256:{hashed} metrics prometheus\n{ADMIN} use,admin owner\n{OTHER}\n")
    ring = load_keys(path, None)
    assert ring is not None
    return ring


@pytest.fixture
def client(keys: KeyRing) -> Client:
    return Client(make_app(FakeEngine(), security=Security(keys)))


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def basic(key: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"me:{key}".encode()).decode()}


def routes(app: HttpApp) -> list[tuple[str, str]]:
    """Every method of every route, with something in the place of its variables."""
    found = []
    for route in inspect_routes(app):
        path = "/".join("1" if part.startswith("{") else part for part in route.path.split("/"))
        found += [(method.method, path) for method in route.methods if not method.internal]
    return found


def test_F58_no_key_on_every_route_but_health(client: Client) -> None:
    assert isinstance(client.app, HttpApp)
    asked = [*routes(client.app), ("GET", "/no/such/path"), ("POST", "/v1/none"), ("DELETE", "/generate")]
    assert len(asked) > 15
    for method, path in asked:
        for headers in ({}, bearer(SECRET[:-1]), bearer(SECRET + "x"), bearer(""), {"Authorization": SECRET}):
            result = client.simulate_request(method, path, json={"prompt": "x"}, headers=headers)
            if path in PATHS.open:
                assert result.status_code < 400
                continue
            assert result.status_code == 401, (method, path, headers)
            assert "Bearer" in result.headers["WWW-Authenticate"]
            if method != "HEAD":
                error = result.json["error"]
                assert isinstance(error, dict) == (path.startswith("/v1") or path in LLAMA_CPP_PATHS)
    assert client.simulate_get("/health").status_code == 200
    assert client.simulate_get("/ready/").status_code == 200


def test_F58_the_open_paths_are_exact(client: Client) -> None:
    for path in ("/health/../metrics", "/healthz", "/health/x", "//health", "/Health", "/health%2f..%2fmetrics"):
        assert client.simulate_get(path).status_code == 401, path


@pytest.mark.parametrize(
    "headers",
    [bearer(SECRET), {"Authorization": f"bearer  {SECRET}"}, {"x-api-key": SECRET}, basic(SECRET)],
    ids=["bearer", "bearer in lower case", "anthropic", "browser"],
)
def test_ways_to_show_a_key(client: Client, headers: dict[str, str]) -> None:
    assert client.simulate_get("/v1/models", headers=headers).status_code == 200


def test_a_password_of_the_browser_is_for_our_own_pages(client: Client) -> None:
    for site, status in (("same-origin", 200), ("none", 200), ("same-site", 401), ("cross-site", 401)):
        headers = {**basic(SECRET), "Sec-Fetch-Site": site}
        assert client.simulate_get("/v1/models", headers=headers).status_code == status


@pytest.mark.parametrize("value", ["Basic ???", "Basic", "Bearer", "Basic " + "Y" * 7, "Bearer \xff", "Bearer a, b"])
def test_no_header_is_an_error_of_ours(client: Client, value: str) -> None:
    assert client.simulate_get("/v1/models", headers={"Authorization": value}).status_code == 401


@pytest.mark.parametrize(
    "key, path, status",
    [
        (SECRET, "/v1/models", 200),
        (SECRET, "/metrics", 403),
        (SCRAPER, "/metrics", 200),
        (SCRAPER, "/v1/models", 403),
        (SCRAPER, "/status/1", 403),
        (ADMIN, "/metrics", 200),
        (ADMIN, "/v1/models", 200),
    ],
)
def test_scopes(client: Client, key: str, path: str, status: int) -> None:
    result = client.simulate_get(path, headers=bearer(key))
    assert result.status_code == status
    if status == 403 and path.startswith("/v1"):
        assert result.json["error"]["type"] == "permission_error"


@pytest.mark.parametrize(
    "method, path, allowed",
    [
        ("GET", "/traces", {SCRAPER, ADMIN}),
        ("HEAD", "/traces", {SCRAPER, ADMIN}),
        ("POST", "/traces", {ADMIN}),
        ("GET", "/traces?clear=false", {SCRAPER, ADMIN}),
        ("GET", "/traces?clear=False&clear=0", {SCRAPER, ADMIN}),
        ("GET", "/traces?clear=true", {ADMIN}),
        ("GET", "/traces?clear=1", {ADMIN}),
        ("GET", "/traces?clear=false&clear=true", {ADMIN}),
        ("GET", "/v1/integrations", {SECRET, ADMIN}),
        ("HEAD", "/v1/integrations", {SECRET, ADMIN}),
        ("GET", "/v1/integrationsx", {SECRET, ADMIN}),
        ("POST", "/v1/integrationsx", {SECRET, ADMIN}),
        ("POST", "/v1/integrations", {ADMIN}),
        ("DELETE", "/v1/integrations/ollama", {ADMIN}),
    ],
)
def test_what_an_administrator_alone_may(client: Client, method: str, path: str, allowed: set[str]) -> None:
    for key in (SECRET, SCRAPER, ADMIN):
        status = client.simulate_request(method, path, headers=bearer(key)).status_code
        assert (status != 403) == (key in allowed), key
        assert status != 401


@pytest.mark.parametrize(
    "target", ["metrics", "//metrics", "/%2fmetrics", "/metrics/", "http:metrics", "http://h//metrics"]
)
def test_no_spelling_of_a_path_goes_around_a_scope(serve: Callable[[HttpApp], str], keys: KeyRing, target: str) -> None:
    address = urlsplit(serve(make_app(FakeEngine(), security=Security(keys))))
    with socket.create_connection((str(address.hostname), address.port or 0), timeout=20) as sock:
        head = (
            f"GET {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {SECRET}\r\nConnection: close\r\n\r\n"
        )
        sock.sendall(head.encode())
        status = sock.makefile("rb").readline().split()[1]
    assert status in (b"400", b"403")


def test_the_openai_client_knows_the_error(serve: Callable[[HttpApp], str], keys: KeyRing) -> None:
    url = serve(make_app(FakeEngine(), security=Security(keys)))
    with pytest.raises(openai.AuthenticationError) as refused:
        openai.OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0).models.list()
    assert (refused.value.type, refused.value.code) == ("authentication_error", "invalid_api_key")
    assert openai.OpenAI(base_url=f"{url}/v1", api_key=SECRET, max_retries=0).models.list().data
    with pytest.raises(openai.PermissionDeniedError):
        openai.OpenAI(base_url=f"{url}/v1", api_key=SCRAPER, max_retries=0).models.list()


def test_no_key_is_kept_or_logged(client: Client, keys: KeyRing, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        client.simulate_get("/v1/models", headers=bearer(SECRET))
        result = client.simulate_get("/v1/models", headers=bearer(SECRET + "x"))
    assert caplog.records
    assert SECRET not in caplog.text
    assert SECRET not in result.text
    assert SECRET not in repr([(key.digest, key.name) for key in keys._keys])


def test_a_preflight_needs_no_key(client: Client) -> None:
    headers = {"Origin": "https://chat.example", "Access-Control-Request-Method": "POST"}
    result = client.simulate_options("/v1/chat/completions", headers=headers)
    assert result.status_code == 200
    assert result.headers["Access-Control-Allow-Origin"] == "*"
    assert "POST" in result.headers["Access-Control-Allow-Methods"]
    # The page must be able to read why it was refused.
    refused = client.simulate_post("/v1/chat/completions", headers={"Origin": "https://chat.example"})
    assert (refused.status_code, refused.headers["Access-Control-Allow-Origin"]) == (401, "*")


def test_what_is_no_preflight_needs_a_key(client: Client) -> None:
    origin, asks = {"Origin": "https://chat.example"}, {"Access-Control-Request-Method": "POST"}
    for method, headers in (("OPTIONS", origin), ("OPTIONS", asks), ("GET", origin | asks), ("OPTIONS", {})):
        assert client.simulate_request(method, "/v1/models", headers=headers).status_code == 401, (method, headers)


@pytest.mark.parametrize("name", ["Authorization", "x-api-key"])
def test_a_key_of_any_characters(name: str) -> None:
    """A client sends it in UTF-8, which WSGI hands on as Latin-1."""
    ring = load_keys(None, "cl\u00e9-\U0001f511")
    client = Client(make_app(FakeEngine(), security=Security(ring)))
    for key, status in (("cl\u00e9-\U0001f511", 200), ("cle-\U0001f511", 401)):
        value = ("Bearer " if name == "Authorization" else "") + key.encode().decode("latin-1")
        assert client.simulate_get("/v1/models", headers={name: value}).status_code == status


def test_origins_that_are_listed() -> None:
    client = Client(make_app(FakeEngine(), security=Security(cors_origins=("https://chat.example",))))
    ask = {"Access-Control-Request-Method": "POST"}
    good = client.simulate_options("/generate", headers={"Origin": "https://chat.example", **ask})
    assert good.headers["Access-Control-Allow-Origin"] == "https://chat.example"
    bad = client.simulate_options("/generate", headers={"Origin": "https://evil.example", **ask})
    assert "Access-Control-Allow-Origin" not in bad.headers
    body = '{"prompt": "x"}'
    for origin, status in (
        ("https://chat.example", 200),
        ("https://evil.example", 403),
        ("null", 403),
        ("http://falconframework.org", 200),  # the page that the server itself shows: Falcon's test client is there
    ):
        headers = {"Origin": origin, "Content-Type": "text/plain"}
        assert client.simulate_post("/generate", body=body, headers=headers).status_code == status, origin
    assert client.simulate_post("/generate", body=body).status_code == 200


def test_a_limit_by_client() -> None:
    app = make_app(FakeEngine(), security=Security(rate_per_minute=3))
    client = Client(app)
    statuses = [client.simulate_get("/v1/models").status_code for _ in range(5)]
    assert statuses == [200, 200, 200, 429, 429]
    refused = client.simulate_get("/v1/models")
    assert 1 <= int(refused.headers["Retry-After"]) <= 20
    assert refused.json["error"]["type"] == "rate_limit_error"
    assert client.simulate_get("/v1/models", remote_addr="192.0.2.7").status_code == 200
    assert client.simulate_get("/health").status_code == 200
    assert client.simulate_get("/metrics").status_code == 200


def test_a_limit_by_key_and_on_guesses(keys: KeyRing) -> None:
    client = Client(make_app(FakeEngine(), security=Security(keys, rate_per_minute=2)))
    guesses = [client.simulate_get("/v1/models", headers=bearer(f"guess{i}")).status_code for i in range(4)]
    assert guesses == [401, 401, 429, 429]
    for key in (SECRET, ADMIN):  # from the same address
        statuses = [client.simulate_get("/v1/models", headers=bearer(key)).status_code for _ in range(3)]
        assert statuses == [200, 200, 429]


def test_the_bucket_refills_evenly() -> None:
    now = [100.0]
    limiter = RateLimiter(6, clock=lambda: now[0])
    assert [limiter.take("a") for _ in range(7)] == [0] * 6 + [10]
    now[0] += 4
    assert limiter.take("a") == 6
    now[0] += 6
    assert [limiter.take("a"), limiter.take("a")] == [0, 10]
    now[0] += 3600
    assert [limiter.take("a") for _ in range(7)] == [0] * 6 + [10]  # never more than a full bucket


def test_F56_a_flood_of_addresses_takes_bounded_memory() -> None:
    limiter = RateLimiter(1, max_clients=100)
    for i in range(1000):
        assert limiter.take(f"10.0.{i // 256}.{i % 256}") == 0
    assert len(limiter) == 100
    assert limiter.take("10.0.3.231") > 0  # the last is still known


def test_F56_those_seen_longest_ago_are_forgotten_and_busy_ones_are_not() -> None:
    limiter = RateLimiter(1, max_clients=3)
    assert [limiter.take(client) for client in ("busy", "b", "c")] == [0, 0, 0]
    assert limiter.take("busy") > 0
    assert limiter.take("d") == 0  # forgets "b", which was seen before "busy" was again
    assert limiter.take("busy") > 0
    assert limiter.take("c") > 0
    assert limiter.take("b") == 0


def test_what_an_address_stands_for() -> None:
    assert client_of_address("192.0.2.1") == "192.0.2.1"
    assert client_of_address("::ffff:192.0.2.1") == "192.0.2.1"
    assert client_of_address("2001:db8:1:2:3:4:5:6") == client_of_address("2001:db8:1:2::") == "2001:db8:1:2::/64"
    assert client_of_address("2001:db8:1:3::1") != client_of_address("2001:db8:1:2::1")
    assert client_of_address("localhost") == "localhost"


BAD_FILES = {
    "no key": (b"# nothing\n", "at least one key"),
    "not text": (b"\xff\xfe\n", "UTF-8"),
    "short hash": (b"sha256:abcd use\n", "line 1: expected 64 hex digits"),
    "unknown scope": (b"\n\nsecretsecret root me\n", "line 3: expected scopes of use, metrics, admin, found root"),
    "four words": (b"secretsecret use me too\n", "line 1: expected KEY SCOPES NAME"),
}


@pytest.mark.parametrize("data, problem", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_file_of_keys_is_one_line_without_keys(tmp_path: Path, data: bytes, problem: str) -> None:
    path = tmp_path / "keys"
    path.write_bytes(data)
    with pytest.raises(UsageError) as refused:
        load_keys(path, None)
    assert problem in str(refused.value)
    assert "secretsecret" not in str(refused.value)


def test_a_file_of_keys_has_a_largest_size(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_bytes(b"key\n#" + b"x" * (MAX_KEY_FILE_BYTES - 5))
    assert len(load_keys(path, None) or ()) == 1
    path.write_bytes(b"key\n#" + b"x" * (MAX_KEY_FILE_BYTES - 4))
    with pytest.raises(UsageError, match=r"expected at most 1048576 bytes$"):
        load_keys(path, None)


def test_a_file_of_keys_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        load_keys(tmp_path / "none", None)


@pytest.mark.parametrize("mode, warned", [(0o600, False), (0o660, False), (0o604, True), (0o602, True), (0o666, True)])
def test_a_file_of_keys_that_everybody_can_use_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, warned: bool
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# comment\n\none\ntwo use,metrics Name\n")
    keys.chmod(mode)
    assert load_keys(keys, None) is not None
    text = f"--api-keys: {keys}: other users can read or write it (mode {mode:o}): chmod 600"
    assert caplog.messages == ([text] if warned else [])


def test_a_single_key_of_the_environment() -> None:
    assert load_keys(None, None) is None
    assert load_keys(None, "") is None
    ring = load_keys(None, "only-one\n")
    assert ring is not None
    client = Client(make_app(FakeEngine(), security=Security(ring)))
    assert client.simulate_get("/metrics", headers=bearer("only-one")).status_code == 200
    assert client.simulate_get("/traces?clear=1", headers=bearer("only-one")).status_code == 200


@pytest.mark.parametrize(
    "host, keys, warned",
    [
        ("127.0.0.1", False, False),
        ("::1", False, False),
        ("0.0.0.0", False, True),
        ("::", True, False),
        ("llm.example", False, True),
        ("llm.example", True, False),
    ],
)
def test_a_server_open_to_all_says_so_once(
    caplog: pytest.LogCaptureFixture, host: str, keys: bool, warned: bool
) -> None:
    warn_if_open(Security(load_keys(None, "key") if keys else None), host)
    assert len(caplog.records) == warned
    assert "--api-keys" in caplog.text or not warned


@pytest.mark.parametrize("path", ["/generate", "/v1/completions", "/v1/chat/completions"])
def test_F48_a_prompt_longer_than_the_server_allows(path: str) -> None:
    app = make_app(FakeEngine(), HttpLimits(max_prompt_tokens=20, poll_seconds=0.02))
    for length, status in ((12, 200), (40, 400)):
        text = "x" * length
        body = {"prompt": text, "messages": [{"role": "user", "content": text}], "model": "org/tiny:q4"}
        result = Client(app).simulate_post(path, json={k: body[k] for k in FIELDS[path]})
        assert result.status_code == status, result.text
    error = result.json["error"]
    assert "expected at most 20 tokens" in (error["message"] if path.startswith("/v1") else error)
    assert app.admission.active == 0


def test_F48_the_longest_of_several_prompts_counts() -> None:
    app = make_app(FakeEngine(), HttpLimits(max_prompt_tokens=20, poll_seconds=0.02))
    for prompts, status in ((["x", "y" * 12], 200), (["x", "y" * 40, "z"], 400)):
        result = Client(app).simulate_post("/v1/completions", json={"prompt": prompts, "model": "org/tiny:q4"})
        assert result.status_code == status, result.text
    assert "expected at most 20 tokens" in result.json["error"]["message"]


FIELDS = {
    "/generate": ["prompt"],
    "/v1/completions": ["prompt", "model"],
    "/v1/chat/completions": ["messages", "model"],
}


def test_the_client_of_a_generation_is_known_to_the_queue(keys: KeyRing) -> None:
    engine = FakeEngine()
    client = Client(make_app(engine, security=Security(keys)))
    client.simulate_post("/generate", json={"prompt": "x"}, headers=bearer(ADMIN))
    assert engine.last.request.client == "owner"
    Client(make_app(engine)).simulate_post("/generate", json={"prompt": "x"}, remote_addr="192.0.2.7")
    assert engine.last.request.client == "192.0.2.7"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_the_documented_way_to_make_a_key(tmp_path: Path) -> None:
    text = (Path(__file__).parents[4] / "docs" / "operations.md").read_text()
    found = re.search(r"```\n(KEY=.*?)```", text, re.DOTALL)
    assert found is not None
    done = subprocess.run(["bash", "-ec", found[1]], cwd=tmp_path, capture_output=True, text=True, check=True)
    ring = load_keys(tmp_path / "keys", None)
    assert ring is not None
    key = ring.find(done.stdout.strip())
    assert key is not None
    assert (key.name, [str(scope) for scope in key.scopes]) == ("alice", ["use"])


def test_F102_a_generation_is_its_clients_and_the_administrators(keys: KeyRing) -> None:
    engine = FakeEngine(token_seconds=30.0)
    app = make_app(engine, HttpLimits(poll_seconds=0.02, cancel_seconds=0.01), security=Security(keys))
    generation = engine.submit(GenerationRequest((1,), 5, client=DEFAULT_NAME))
    client = Client(app)
    for key, status in ((OTHER, 404), (ADMIN, 200), (SECRET, 200)):
        for method, path in (("GET", "/status/1"), ("HEAD", "/status/1"), ("POST", "/cancel/1")):
            assert client.simulate_request(method, path, headers=bearer(key)).status_code == status, (key, path)
        assert (generation.cancelled_at is not None) == (status == 200)
    told = [client.simulate_get(f"/status/{number}", headers=bearer(OTHER)).text for number in (1, 2)]
    assert told[0] == told[1].replace("2", "1")  # nor is it told that it is there


def test_F102_without_keys_a_generation_is_its_addresss() -> None:
    engine = FakeEngine()
    client = Client(make_app(engine))
    made = client.simulate_post("/generate", json={"prompt": "x"}, remote_addr="192.0.2.7").json
    for address, status in (("192.0.2.7", 200), ("192.0.2.8", 404)):
        assert client.simulate_get(f"/status/{made['request_id']}", remote_addr=address).status_code == status
        assert client.simulate_post(f"/cancel/{made['request_id']}", remote_addr=address).status_code == status


def test_F102_nor_does_a_key_see_responses_of_another(keys: KeyRing) -> None:
    client = Client(make_app(FakeEngine(), security=Security(keys)))
    made = client.simulate_post("/v1/responses", json={"input": "x"}, headers=bearer(SECRET)).json
    for key, status in ((OTHER, 404), (ADMIN, 404), (SECRET, 200)):
        path = f"/v1/responses/{made['id']}"
        assert client.simulate_get(path, headers=bearer(key)).status_code == status
        body = {"input": "y", "previous_response_id": made["id"]}
        assert client.simulate_post("/v1/responses", json=body, headers=bearer(key)).status_code == status
        assert client.simulate_delete(path, headers=bearer(key)).status_code == status


def test_F105_keys_share_no_prefixes_unless_they_are_to(keys: KeyRing) -> None:
    for security, spaces in (
        (Security(keys), [DEFAULT_NAME, "owner"]),
        (Security(keys, shared_prefix_cache=True), ["", ""]),
        (Security(), ["", ""]),
    ):
        engine = FakeEngine()
        client = Client(make_app(engine, security=security))
        for key in (SECRET, ADMIN):
            for path, body in (
                ("/generate", {"prompt": "x"}),
                ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
                ("/v1/embeddings", {"input": "x"}),
                ("/api/embed", {"model": "org/tiny:q4", "input": "x"}),
            ):
                assert client.simulate_post(path, json=body, headers=bearer(key)).status_code == 200
        assert [one.request.cache_space for one in engine.generations] == [spaces[0]] * 2 + [spaces[1]] * 2
        assert [one.request.cache_space for one in engine.embeddings] == [spaces[0]] * 2 + [spaces[1]] * 2
