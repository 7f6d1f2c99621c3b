"""The one thread that sends all streams: what one of them does is no matter of the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import cast

import pytest

from rocmforge.runtime.engine.generation import Generation, Inbox, TokenEvent
from rocmforge.runtime.http.core.admission import Admission
from rocmforge.runtime.http.core.errors import ClientGoneError
from rocmforge.runtime.http.core.job import Job
from rocmforge.runtime.http.core.registry import Lease
from rocmforge.runtime.http.core.service import Service
from rocmforge.runtime.http.transport.stream_writer import StreamWriter

hurried: ContextVar[bool] = ContextVar("whether the thread that puts events has no time to send them")
POLL_SECONDS = 0.01
PATIENCE = 20.0  # only ends what hangs


@dataclass
class Client:
    """A generation, the stream made of it, and the connection that it goes to; `sent` by a thread of its own."""

    writer: StreamWriter
    admission: Admission = field(default_factory=lambda: Admission(1))
    encode: Callable[[TokenEvent | None], bytes] = lambda event: b"" if event is None else event.text.encode()
    inbox: Inbox = field(default_factory=lambda: Inbox(hurried.get()))
    full: bool = False
    gone: bool = False
    received: list[bytes] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)
    cancelled: bool = False
    error: Exception | None = None

    def __post_init__(self) -> None:
        generation = cast(Generation, self)
        lease = Lease(cast(Service, None))
        self.job = Job([generation], self.admission.enter(), lease, lambda: self.gone, self.admission)
        self.thread = threading.Thread(target=self._send, daemon=True)

    def _send(self) -> None:
        try:
            self.writer.send(self, self.job, self.encode)
        except Exception as error:
            self.error = error

    def write(self, data: bytes) -> None:
        assert not self.full
        self.threads.add(threading.current_thread().name)
        self.received.append(data)

    def cancel(self) -> None:
        self.cancelled = True
        self.inbox.put(TokenEvent(None, "", True, "cancelled"))

    def put(self, *texts: str, finished: bool = False) -> None:
        for index, text in enumerate(texts):
            self.inbox.put(TokenEvent(1, text, finished and index + 1 == len(texts)))

    def joined(self) -> Client:
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        return self

    @property
    def text(self) -> str:
        return b"".join(self.received).decode()


@pytest.fixture(autouse=True, params=[True, False], ids=["hurried", "unhurried"])
def kind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Of the thread that puts: an engine's, or one that reads what an engine elsewhere says."""
    before = hurried.set(request.param)
    yield
    hurried.reset(before)


@pytest.fixture
def writer() -> Iterator[StreamWriter]:
    made = StreamWriter(POLL_SECONDS)
    made.start()
    yield made
    made.stop()


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_events_before_and_after_it_begins_arrive_once_and_in_order(writer: StreamWriter) -> None:
    clients = [Client(writer) for _ in range(20)]
    pieces = [f"{number} " for number in range(200)]
    for client in clients:
        client.put(*pieces[:50])
        client.thread.start()
    for piece in pieces[50:-1]:
        for client in clients:
            client.put(piece)
    until(lambda: all(client.received for client in clients))  # so that the last event comes to streams at work
    for client in clients:
        client.put(pieces[-1], finished=True)
    for client in clients:
        assert client.joined().text == "".join(pieces)
        assert client.error is None
        assert client.job.ended
        putting = threading.current_thread().name
        assert client.threads == ({"stream writer"} if hurried.get() else {putting, client.thread.name})


def test_a_client_that_reads_slowly_holds_up_nobody_else(writer: StreamWriter) -> None:
    slow, quick = Client(writer, full=True), Client(writer)
    for client in (slow, quick):
        client.put("a", "b", "c", finished=True)
        client.thread.start()
    assert quick.joined().text == "abc"
    assert not slow.received
    slow.full = False
    assert slow.joined().text == "abc"


def test_a_client_that_leaves_is_noticed_without_an_event(writer: StreamWriter) -> None:
    client = Client(writer)
    client.thread.start()
    client.put("a")
    until(lambda: client.text == "a")
    client.gone = True
    assert isinstance(client.joined().error, ClientGoneError)
    client.put("b", finished=True)  # too late
    other = Client(writer)
    other.put("c", finished=True)
    other.thread.start()
    assert other.joined().text == "c"
    assert client.text == "a"


def test_what_goes_wrong_with_one_stream_ends_that_one(writer: StreamWriter) -> None:
    def refuse(event: TokenEvent | None) -> bytes:
        if event is not None and event.text == "b":
            raise ValueError("no b")
        return b"" if event is None else event.text.encode()

    wrong, right = Client(writer, encode=refuse), Client(writer)
    for client in (wrong, right):
        client.put("a", "b", "c", finished=True)
        client.thread.start()
    assert right.joined().text == "abc"
    assert isinstance(wrong.joined().error, ValueError)
    assert wrong.text == "a"
    assert not wrong.job.ended  # so that closing it cancels what goes on


def test_a_silent_stream_says_that_it_lives(writer: StreamWriter) -> None:
    client = Client(writer, encode=lambda event: b"." if event is None else event.text.encode())
    client.thread.start()
    until(lambda: client.text.startswith("..."))
    client.put("a", finished=True)
    assert client.joined().text.strip(".") == "a"


def test_who_reads_too_slowly_gets_no_sign_of_life(writer: StreamWriter) -> None:
    client = Client(writer, full=True, encode=lambda event: b"." if event is None else event.text.encode())
    client.thread.start()
    time.sleep(10 * POLL_SECONDS)  # `write` would fail
    client.put("a", finished=True)
    time.sleep(10 * POLL_SECONDS)
    client.full = False
    assert client.joined().text in (".a", "a")  # no more than one had been held back


def test_a_server_that_ends_cancels_streams(writer: StreamWriter) -> None:
    client = Client(writer)
    client.thread.start()
    client.admission.abort()
    assert client.joined().error is None
    assert client.cancelled
    assert client.job.ended


def test_a_stream_that_never_falls_silent_is_cancelled_too(writer: StreamWriter) -> None:
    client = Client(writer)
    client.thread.start()
    client.admission.abort()
    deadline = time.monotonic() + PATIENCE
    while not client.cancelled and time.monotonic() < deadline:
        client.put("a")
        time.sleep(POLL_SECONDS / 50)
    assert client.cancelled
    assert client.joined().error is None


def test_only_silent_clients_are_looked_at(writer: StreamWriter) -> None:
    talking, looks = Client(writer), 0

    def gone() -> bool:
        nonlocal looks
        looks += 1
        return False

    talking.job = Job([cast(Generation, talking)], Admission(1).enter(), talking.job.lease, gone, talking.admission)
    talking.thread.start()
    began = time.monotonic()
    while time.monotonic() - began < 20 * POLL_SECONDS:
        talking.put("a")
        time.sleep(POLL_SECONDS / 50)
    at_work = looks
    until(lambda: looks > at_work)  # silent since
    talking.put("b", finished=True)
    talking.joined()
    assert at_work <= 5  # of 20, on a machine that is busy


def test_stopping_lets_nobody_wait_for_ever() -> None:
    writer = StreamWriter(POLL_SECONDS)
    writer.start()
    client = Client(writer)
    client.thread.start()
    client.put("a")
    until(lambda: client.text == "a")
    writer.stop()
    assert isinstance(client.joined().error, ClientGoneError)


def test_who_comes_after_the_end_does_not_wait_either() -> None:
    writer = StreamWriter(POLL_SECONDS)  # one that never began can be stopped too
    writer.stop()
    client = Client(writer)
    client.thread.start()
    assert isinstance(client.joined().error, ClientGoneError)
