"""Megabytes of text, whichever API they come by: refused by their length, in little memory."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rocmforge.tests.support.process import Server, serving

DIGITS = "1234567" * 550_000
CHAT = [{"role": "user", "content": DIGITS}]
REQUESTS = [
    ("/generate", {"prompt": DIGITS}),
    ("/v1/completions", {"prompt": DIGITS}),
    ("/v1/chat/completions", {"messages": CHAT}),
    ("/v1/responses", {"input": DIGITS}),
    ("/v1/messages", {"messages": CHAT, "max_tokens": 1}),
    ("/v1/messages/count_tokens", {"messages": CHAT}),
    ("/v1/embeddings", {"input": DIGITS}),
    ("/completion", {"prompt": DIGITS}),
    ("/completion", {"prompt": [1, DIGITS]}),
    ("/tokenize", {"content": DIGITS}),
    ("/tokenize", {"content": [1, DIGITS], "with_pieces": True}),
    ("/api/chat", {"model": "small", "messages": CHAT}),
    ("/api/generate", {"model": "small", "prompt": DIGITS, "raw": True}),
    ("/api/embed", {"model": "small", "input": DIGITS, "truncate": False}),
]


@pytest.fixture(scope="module")
def server(small_bundle: Path) -> Iterator[Server]:
    with serving(small_bundle) as started:
        yield started


def held(server: Server) -> int:
    """MiB of memory that it has taken at most up to now."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) >> 10


def test_F91_digits_past_every_context(server: Server) -> None:
    server.post("/tokenize", {"content": "1" * 20_000})
    before = held(server)
    with ThreadPoolExecutor(4) as pool:  # not more: it is the clients, too, that need memory
        answers = list(pool.map(lambda request: server.post(*request), REQUESTS))
    for (path, _), answer in zip(REQUESTS, answers, strict=True):
        assert answer.status_code == 400, path
        assert "token" in answer.text, path
        assert len(answer.text) < 1000
    assert held(server) - before < 400  # whole, one of them took over a thousand
    assert server.post("/generate", {"prompt": "a", "max_tokens": 1}).status_code == 200


def test_a_long_text_that_fits_is_tokenized_as_before(server: Server) -> None:
    text = "12 ab. é\n" * 10_000
    tokens = server.post("/tokenize", {"content": text}).json()["tokens"]
    assert server.post("/detokenize", {"tokens": tokens}).json()["content"] == text
    cut = server.post("/api/embed", {"model": "small", "input": text, "truncate": True})
    assert cut.status_code == 200, cut.text
