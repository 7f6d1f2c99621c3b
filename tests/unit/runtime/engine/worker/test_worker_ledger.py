"""What the server knows of requests that a worker computes: each is taken, told of, counted and ended once."""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable
from contextvars import ContextVar

import numpy as np
import pytest

from rocmforge.runtime.engine.embeddings import EmbeddingError, EmbeddingRequest
from rocmforge.runtime.engine.failure import Failure
from rocmforge.runtime.engine.generation import Inbox, TokenEvent
from rocmforge.runtime.engine.lifecycle import ADMITTED, FINISHED, FIRST_TOKEN, PREFIX_HIT, QUEUED, RequestEvent
from rocmforge.runtime.engine.logprobs import TokenLogprobs
from rocmforge.runtime.engine.worker import ledger as ledger_module
from rocmforge.runtime.engine.worker.ledger import Ledger
from rocmforge.runtime.engine.worker.pending import RemoteEmbedding, RemoteGeneration
from rocmforge.runtime.engine.worker.wire import Embedded, Generated
from rocmforge.tests.support.engine_harness import CountingMetrics, request

END = TokenEvent(None, "", True, "length")


class Book:
    """A ledger, and all that it tells."""

    def __init__(self) -> None:
        self.metrics = CountingMetrics()
        self.told: list[RequestEvent] = []
        self.cancelled: list[int] = []
        self.ledger = Ledger(self.metrics, self.told.append)

    def generation(self, number: int, index: int = 0, inbox: Inbox | None = None) -> RemoteGeneration:
        asked = request(5, client="me", cache_space="mine")
        return RemoteGeneration(number, asked, self.cancelled.append, index, inbox or Inbox(hurried=False))

    def embedding(self, number: int) -> RemoteEmbedding:
        return RemoteEmbedding(number, EmbeddingRequest((4, 5, 6), "mean", "me"), self.cancelled.append)

    def taken(self, number: int) -> RemoteGeneration:
        """A generation that the worker has taken."""
        one = self.generation(number)
        self.ledger.expect([one])
        self.turn(QUEUED, number)
        return one

    def turn(self, kind: str, number: int, at: float = 1e9, tokens: int = 0, reason: str | None = None) -> None:
        self.ledger.turn(RequestEvent(kind, number, at, tokens, reason))


@pytest.fixture
def book() -> Book:
    return Book()


def test_the_life_of_a_generation(book: Book) -> None:
    ledger, one, other = book.ledger, book.generation(7, index=2), book.generation(8)
    ledger.expect([one, other])
    assert (ledger.load, ledger.find(7), ledger.took([one]), ledger.took([])) == (2, None, False, True)
    book.turn(QUEUED, 7)
    assert (ledger.load, ledger.find(7), ledger.find(8)) == (2, one, None)
    assert (ledger.took([one]), ledger.took([one, other]), ledger.took([other])) == (True, False, False)
    ledger.forget([other])
    assert (ledger.load, ledger.took([other])) == (1, True)
    ledger.forget([other])  # harmless
    for kind, tokens in ((ADMITTED, 0), (PREFIX_HIT, 3), (FIRST_TOKEN, 0)):
        book.turn(kind, 7, tokens=tokens)
    assert (one.admitted_at, one.first_token_at) == (1e9, 1e9)
    ledger.take((7, 65, "a"))
    ledger.take(Generated(7, END, 3))
    assert ledger.load == 1  # its end is not counted yet
    book.turn(FINISHED, 7, 1e9 + 1, 1, "length")
    assert (ledger.load, ledger.find(7)) == (0, one)
    with pytest.raises(KeyError):
        ledger.take((7, 66, "b"))
    metrics = book.metrics
    assert (metrics.started, metrics.finished, metrics.hit_tokens) == (1, {"length": 1}, 3)
    assert metrics.observed == dict.fromkeys(("prefill", "decode", "total", "ttft"), 1)
    assert [(event.kind, event.request_id) for event in book.told] == [
        (kind, 7) for kind in (QUEUED, ADMITTED, PREFIX_HIT, FIRST_TOKEN, FINISHED)
    ]


def test_an_end_may_be_counted_before_it_is_seen(book: Book) -> None:
    book.taken(1)
    book.turn(FINISHED, 1, reason="stop")
    assert book.ledger.load == 1
    book.ledger.take(Generated(1, END, 0))
    assert book.ledger.load == 0
    book.ledger.fail("gone")
    assert book.metrics.finished == {"stop": 1}


def test_an_embedding_is_no_generation_to_be_found(book: Book) -> None:
    one = book.embedding(3)
    book.ledger.expect([one])
    book.turn(QUEUED, 3)
    assert (book.ledger.load, book.ledger.find(3)) == (1, None)
    book.ledger.take(Embedded(3, np.ones(2, np.float32).tobytes(), "length", None))
    book.turn(FINISHED, 3, reason="length")
    assert book.ledger.load == 0


def test_all_that_has_not_ended_fails_once(book: Book) -> None:
    running, ended, counted, waiting = book.taken(1), book.taken(2), book.taken(3), book.generation(4)
    embedding = book.embedding(5)
    book.ledger.expect([waiting, embedding])
    book.turn(QUEUED, 5)
    running.take((1, 65, "a"))
    ended.take(Generated(2, END, 0))
    book.turn(FINISHED, 3, reason="length")  # and its last event was on its way
    book.told.clear()
    book.ledger.fail("the device is gone")
    assert book.ledger.load == 0
    assert book.ledger.took([waiting])  # nobody expects it any more
    assert [one.finish_reason for one in (running, ended, counted, waiting)] == ["failed", "length", "failed", None]
    assert running.state().error == Failure("the device is gone")
    assert [(event.kind, event.request_id, event.tokens, event.reason) for event in book.told] == [
        (FINISHED, 1, 1, "failed"),
        (FINISHED, 2, 0, "length"),
        (FINISHED, 5, 0, "failed"),
    ]
    assert book.metrics.finished == {"failed": 2, "length": 2}
    with pytest.raises(EmbeddingError, match=r"^the device is gone$"):
        embedding.result(0)
    book.ledger.fail("again")
    assert len(book.told) == 3


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_the_oldest_of_those_that_ended_is_forgotten(book: Book, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that run are known, however many they are."""
    monkeypatch.setattr(ledger_module, "KEPT_FINISHED", kept)
    running = book.taken(1)
    for number in (2, 3, 4):
        book.taken(number)
        book.ledger.take(Generated(number, END, 0))
        book.turn(FINISHED, number, reason="length")
    book.taken(5)
    known = [number for number in range(1, 6) if book.ledger.find(number) is not None]
    assert known == {1: [1, 5], 2: [1, 5], 3: [1, 4, 5]}[kept]
    assert book.ledger.find(1) is running


def test_whoever_observes_looks_into_the_context_of_who_submits(book: Book, caplog: pytest.LogCaptureFixture) -> None:
    """For the first turn alone; that it fails stops nothing, and nobody need observe."""
    mine: ContextVar[str] = ContextVar("mine", default="nobody")
    seen: list[tuple[str, str]] = []

    def observe(event: RequestEvent) -> None:
        seen.append((event.kind, mine.get()))
        raise ZeroDivisionError

    book.ledger = Ledger(book.metrics, observe)
    token = mine.set("me")
    book.ledger.expect([book.generation(1)])
    mine.reset(token)
    with caplog.at_level(logging.ERROR):
        book.turn(QUEUED, 1)
        book.turn(ADMITTED, 1)
    assert seen == [(QUEUED, "me"), (ADMITTED, "nobody")]
    assert [record.getMessage() for record in caplog.records] == ["an observer of requests failed"] * 2
    book.ledger = Ledger(book.metrics, None)
    book.taken(2)
    assert book.metrics.started == 2


# Requests.


def events_in(inbox: Inbox) -> list[TokenEvent]:
    found: list[TokenEvent] = []
    while True:
        try:
            found.append(inbox.get(timeout=0))
        except queue.Empty:
            return found


def test_a_generation_is_what_its_events_say(book: Book) -> None:
    inbox = Inbox(hurried=False)
    one = book.generation(7, 2, inbox)
    assert (one.request_id, one.client, one.cache_space, one.prompt_tokens) == (7, "me", "mine", 5)
    assert (one.inbox, one.num_generated, one.state().finished) == (inbox, 0, False)
    logprobs, error = TokenLogprobs(66, -0.5), Failure("no more", "stop")
    first, last = TokenEvent(66, "é", logprobs=logprobs, index=2), TokenEvent(None, "!", True, "cancelled", error)
    one.take((7, 65, "a"))
    one.take(Generated(7, first, 3))
    assert (one.num_generated, one.state().finished, one.finish_reason) == (2, False, None)
    one.take(Generated(7, last, 4))
    state = one.state()
    assert (state.request_id, state.text, state.tokens, state.prompt_tokens) == (7, "aé!", (65, 66), 5)
    assert (state.finished, state.finish_reason, state.error) == (True, "cancelled", error)
    assert (state.logprobs, state.cached_tokens) == ((logprobs,), 4)
    assert events_in(inbox) == [TokenEvent(65, "a", index=2), first, last]


def test_a_generation_that_its_worker_does_not_end(book: Book) -> None:
    one = book.generation(7, 2)
    one.fail("gone")
    assert list(one.events(timeout=0)) == [TokenEvent(None, "", True, "failed", Failure("gone"), index=2)]
    with pytest.raises(TypeError, match=r"^the end of an embedding, of a generation$"):
        one.take(Embedded(7, None, "failed", None))


def made(book: Book, kind: type) -> RemoteGeneration | RemoteEmbedding:
    return book.generation(7) if kind is RemoteGeneration else book.embedding(7)


@pytest.mark.parametrize("kind", [RemoteGeneration, RemoteEmbedding])
def test_only_what_has_not_ended_is_cancelled(book: Book, kind: type) -> None:
    one = made(book, kind)
    one.cancel()
    one.cancel()
    assert book.cancelled == [7, 7]
    one.fail("gone")
    one.cancel()
    assert book.cancelled == [7, 7]


def test_an_embedding_is_its_vector_or_why_there_is_none(book: Book) -> None:
    one = book.embedding(3)
    assert (one.request_id, one.client, one.cache_space) == (3, "me", "")
    assert (one.prompt_tokens, one.num_generated) == (3, 0)
    assert one.result(0) is None
    one.take(Embedded(3, np.array([0.5, 2.0], np.float32).tobytes(), "length", None))
    found = one.result(0)
    assert found is not None
    assert (found.tolist(), found.dtype == np.float32, found.flags.writeable) == ([0.5, 2.0], True, False)
    assert one.finish_reason == "length"
    with pytest.raises(TypeError, match=r"^an event of a generation, of an embedding$"):
        one.take((3, 65, "a"))
    for end, reason, words in (
        (lambda none: none.take(Embedded(3, None, "cancelled", None)), "cancelled", "the request was cancelled"),
        (lambda none: none.fail("gone"), "failed", "gone"),
        (lambda none: none.take(Embedded(3, None, "", "odd")), "failed", "odd"),
    ):
        check_refused(book.embedding(3), end, reason, words)


def check_refused(one: RemoteEmbedding, end: Callable[[RemoteEmbedding], None], reason: str, words: str) -> None:
    end(one)
    with pytest.raises(EmbeddingError, match=f"^{words}$") as caught:
        one.result(0)
    assert caught.value.reason == reason
