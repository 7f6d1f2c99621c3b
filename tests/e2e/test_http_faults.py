"""A real `rfc serve` under clients that are not allowed, too many, too slow, or gone."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import resource
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
import requests

from rocmforge.tests.support.process import PATIENCE_SECONDS, Server, refused, rfc, serving, wait_until

KEY = "key-of-a-test-0123456789abcdef"
SHORT = {"prompt": "hello", "max_tokens": 2}


def connect(server: Server) -> socket.socket:
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS)


def post(path: str, document: object) -> bytes:
    body = json.dumps(document).encode()
    return b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (path.encode(), len(body), body)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def few(small_bundle: Path) -> Iterator[Server]:
    """A server of four streams."""
    with serving(small_bundle, "--max-streams", 4, "--kv-tokens", 4096) as server:
        yield server


def test_F58_keys_of_a_file(small_bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"sha256:{hashlib.sha256(KEY.encode()).hexdigest()} use,metrics tester\n")
    with serving(small_bundle, "--api-keys", file) as server:
        assert server.get("/health").status_code == 200
        for path in ("/", "/models", "/v1/models", "/metrics", "/status/1", "/openapi.json"):
            assert server.get(path).status_code == 401
            assert requests.get(server.url + path, headers=bearer(KEY), timeout=PATIENCE_SECONDS).status_code != 401
        assert server.post("/generate", SHORT).status_code == 401
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0).models.list()
        name = openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY).models.list().data[0].id
        done = openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY).completions.create(
            model=name, prompt="a", max_tokens=1
        )
        assert done.usage is not None
        assert server.stop() == 0
    assert KEY not in "".join(server.log)


def test_F58_a_key_of_the_environment_serves_our_own_client_too(small_bundle: Path) -> None:
    with serving(small_bundle, ROCMFORGE_API_KEY=KEY) as server:
        assert server.post("/generate", SHORT).status_code == 401
        arguments = ("generate", "hello", "--max-tokens", 2, "--url", server.url)
        assert rfc(*arguments, ROCMFORGE_API_KEY=KEY).returncode == 0
        refused(rfc(*arguments), 1, "401", "no API key was given")


@pytest.mark.parametrize("text", ["", f"{KEY} root\n"])
def test_a_bad_file_of_keys_ends_the_command(small_bundle: Path, tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    assert KEY not in refused(rfc("serve", small_bundle, "--api-keys", file), 2, "--api-keys", str(file))


def test_a_rate_limit_by_the_address_that_a_proxy_tells(small_bundle: Path) -> None:
    def statuses(server: Server, client: str) -> list[int]:
        headers = {"X-Forwarded-For": client}
        answers = [requests.get(f"{server.url}/v1/models", headers=headers, timeout=9) for _ in range(4)]
        assert all("Retry-After" in answer.headers for answer in answers if answer.status_code == 429)
        return [answer.status_code for answer in answers]

    with serving(small_bundle, "--rate-limit", 3, "--trusted-proxy", "127.0.0.1") as server:
        assert statuses(server, "192.0.2.1") == [200, 200, 200, 429]
        assert statuses(server, "192.0.2.2") == [200, 200, 200, 429]
        assert server.get("/health").status_code == 200
    with serving(small_bundle, "--rate-limit", 3) as server:  # nobody is believed
        assert statuses(server, "192.0.2.1") == [200, 200, 200, 429]
        assert statuses(server, "192.0.2.2") == [429] * 4


def test_F47_limits_of_the_command_line(small_bundle: Path) -> None:
    limits = ("--max-body", 2000, "--max-header", 3000, "--max-prompt-tokens", 20)
    with serving(small_bundle, *limits) as server:
        assert server.post("/generate", {"prompt": "a" * 3000}).status_code == 413
        answer = requests.get(f"{server.url}/v1/models", headers={"X": "y" * 4000}, timeout=PATIENCE_SECONDS)
        assert answer.status_code == 431
        assert answer.json()["error"]["message"]
        assert server.post("/generate", {"prompt": "a b " * 50, "max_tokens": 1}).status_code == 400
        assert server.post("/generate", SHORT).status_code == 200


def test_F53_senders_of_a_byte_at_a_time_are_in_nobodys_way(few: Server) -> None:
    """Two hundred of them, and every ordinary request is served."""
    stop = threading.Event()
    with contextlib.ExitStack() as held:
        slow = [held.enter_context(connect(few)) for _ in range(200)]

        def trickle() -> None:
            for byte in post("/generate", SHORT | {"user": "x" * 10_000}):
                for sock in slow:
                    sock.send(bytes([byte]))
                if stop.wait(0.05):
                    return

        thread = threading.Thread(target=trickle, daemon=True)
        thread.start()
        with ThreadPoolExecutor(3) as pool:
            answers = list(pool.map(lambda _: few.post("/generate", SHORT).status_code, range(60)))
        stop.set()
        thread.join()
    assert Counter(answers) == {200: 60}
    few.wait_until_idle()


def test_F56_many_connections_at_once(few: Server) -> None:
    """All get an answer, as a whole: four and those who follow them are served, the others may come again."""
    with contextlib.ExitStack() as held:
        socks = [held.enter_context(connect(few)) for _ in range(400)]
        body = {"prompt": "hello", "max_tokens": 100, "ignore_eos": True}
        for sock in socks:
            sock.sendall(post("/generate/stream", body))
        assert few.get("/health").status_code == 200
        heads = [sock.recv(4096) for sock in socks]
        statuses = Counter(head[9:12] for head in heads)
        assert set(statuses) == {b"200", b"503"}
        assert sum(b"\r\nRetry-After: 1\r\n" in head for head in heads) == statuses[b"503"]
        assert statuses[b"200"] >= 4
        for sock, head in zip(socks, heads, strict=True):
            while b" 200 OK" in head[:20] and not head.endswith(b"0\r\n\r\n"):
                data = sock.recv(65536)
                assert data, head
                head = head[:20] + data  # noqa: PLW2901
    few.wait_until_idle()


def test_F70_descriptors_exhausted(small_bundle: Path) -> None:
    with serving(small_bundle) as server:
        assert server.post("/generate", SHORT).status_code == 200
        used = max(int(path.name) for path in Path(f"/proc/{server.process.pid}/fd").iterdir())
        _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (used + 10, hard))
        with contextlib.ExitStack() as held:
            for _ in range(50):
                held.enter_context(connect(server))
            wait_until(lambda: any("out of file descriptors" in line for line in server.log), "a warning")

        def served() -> bool:
            try:
                return server.post("/generate", SHORT).status_code == 200
            except requests.ConnectionError:
                return False

        wait_until(served, "good again")
        assert len(re.findall("out of file descriptors", "".join(server.log))) < 5
        assert server.stop() == 0
