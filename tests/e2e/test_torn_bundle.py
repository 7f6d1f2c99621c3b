"""A bundle whose weights are cut or overwritten, before `rfc serve` or while it serves."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from rocmforge.tests.support.process import Server, refused, rfc, serving, wait_until

ASK = {"prompt": "the and of", "max_tokens": 4, "temperature": 0}
LONG = ASK | {"max_tokens": 16000, "ignore_eos": True}


def cut(weights: Path) -> None:
    os.truncate(weights, 1000)


def empty(weights: Path) -> None:
    weights.write_bytes(b"")


def copy_another_over_it(weights: Path) -> None:
    """As `cp` does: cut, then written."""
    weights.write_bytes(os.urandom(weights.stat().st_size + 64))


def overwrite(weights: Path) -> None:
    with weights.open("r+b") as file:
        file.write(b"\xff" * weights.stat().st_size)


@pytest.fixture(scope="module")
def long_bundle(small_gguf: Path, small_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model with a context that a stream fills for seconds, however late the test is let run."""
    goal = tmp_path_factory.mktemp("long") / "small.rfb"
    done = rfc("compile", small_gguf, "-o", goal, "--max-context", 16384, "--cache-dir", small_cache)
    assert done.returncode == 0, done.stderr
    return goal


@pytest.fixture
def bundle(long_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(long_bundle, tmp_path / "small.rfb"))


def ready(server: Server) -> tuple[int, str]:
    answer = server.get("/ready")
    return answer.status_code, answer.json().get("error", "")


@pytest.mark.parametrize("tear", [cut, empty, copy_another_over_it, overwrite], ids=lambda tear: f"F79-{tear.__name__}")
@pytest.mark.parametrize("busy", [True, False], ids=["in-a-stream", "idle"])
def test_weights_torn_while_they_are_served(bundle: Path, tear: object, busy: bool) -> None:
    survive_tear(bundle, tear, busy)


@pytest.mark.parametrize("tear,busy", [(cut, False), (overwrite, True)], ids=["F126-cut", "F126-overwrite"])
def test_weights_torn_below_a_worker(bundle: Path, tear: object, busy: bool) -> None:
    survive_tear(bundle, tear, busy, "--worker")


def survive_tear(bundle: Path, tear: object, busy: bool, *options: str) -> None:
    assert callable(tear)
    weights = bundle / "weights.bin"
    sound = weights.read_bytes()
    with serving(bundle, *options) as server:
        answer = server.post("/generate", ASK).json()
        assert answer["finish_reason"] == "length"
        if busy:
            with server.post("/generate/stream", LONG, stream=True) as response:
                events = server.events(response)
                first = next(events)
                tear(weights)
                *_, last = [first, *events]
            assert last["finish_reason"] == "failed"
            assert f"{weights.name}: expected" in last["error"]
        else:
            tear(weights)
        wait_until(lambda: ready(server)[0] == 503, "not ready")
        assert f"{bundle}: {weights.name}: expected" in ready(server)[1]
        health = server.get("/health").json()
        assert (health["status"], health["checks"]["engine"]["running"]) == ("unhealthy", False)
        assert weights.name in health["checks"]["engine"]["error"]
        later = server.post("/v1/completions", {"prompt": "the", "max_tokens": 2})
        assert (later.status_code, weights.name in later.json()["error"]["message"]) == (503, True)
        weights.write_bytes(sound)  # not the same file time, but all of it is read
        wait_until(lambda: ready(server)[0] == 200, "ready again")
        assert server.post("/generate", ASK).json()["tokens"] == answer["tokens"]
        assert server.stop() == 0
    assert "Traceback" not in "".join(server.log)


def test_F79_the_other_models_go_on(bundle: Path, small_bundle: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(small_bundle, tmp_path / "other.rfb"))
    with serving(bundle, other) as server:
        for name in ("small", "other"):
            assert server.post("/v1/completions", {"model": name, "prompt": "the", "max_tokens": 2}).ok
        cut(bundle / "weights.bin")
        torn = server.post("/v1/completions", {"model": "small", "prompt": "the", "max_tokens": 2})
        assert (torn.status_code >= 500, "small.rfb: weights.bin" in torn.text) == (True, True)
        assert server.post("/v1/completions", {"model": "other", "prompt": "the", "max_tokens": 2}).ok
        assert server.get("/health").json()["status"] == "unhealthy"


def test_F79_a_bundle_that_is_replaced_is_served_on(bundle: Path, small_gguf: Path, small_cache: Path) -> None:
    """By `rfc compile`, which never writes to a bundle that is there."""
    with serving(bundle) as server:
        before = server.post("/generate", ASK).json()["tokens"]
        options = ("-o", bundle, "--cache-dir", small_cache, "--max-context", 64)
        assert rfc("compile", small_gguf, *options).returncode == 0
        assert ready(server)[0] == 200
        assert server.post("/generate", ASK).json()["tokens"] == before


@pytest.mark.parametrize("command", ["serve", "run"])
def test_F80_weights_spoiled_before_the_start(bundle: Path, command: str) -> None:
    overwrite(bundle / "weights.bin")
    arguments = {"serve": ("--addr", "127.0.0.1:0"), "run": ("hello",)}[command]
    refused(rfc(command, bundle, *arguments), 3, "small.rfb: golden: expected finite logits, found NaN")
