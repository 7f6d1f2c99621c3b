"""The judges of the load tools must see what is wrong, and their client what really came."""

from __future__ import annotations

import asyncio
import os
import socket
import threading

import pytest

from rocmforge.tools.bench.http_load import Address, Exchange, HttpError, call
from rocmforge.tools.bench.load_test import check_held
from rocmforge.tools.bench.server_process import Held, held_by
from rocmforge.tools.bench.traffic import Case, Step, judge, judge_beginning, make_bodies

SOLO = Case({}, (Step(5, "a"), Step(6, "b"), Step(7, "c", "length")))
HELD = Held(resident=100.0, anonymous=50.0, descriptors=12, threads=20)


def answer_once(data: bytes) -> Address:
    """A server that sends `data` to its first client, whatever it asks, and closes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener, listener.accept()[0] as client:
            client.recv(65536)
            client.sendall(data)

    threading.Thread(target=serve, daemon=True).start()
    return Address("127.0.0.1", listener.getsockname()[1])


def chunked(*parts: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)


async def documents(address: Address) -> list[object]:
    async with Exchange(address, "POST", "/", {}) as exchange:
        return [event.document async for event in exchange.events()]


def test_events_are_read_however_they_are_cut() -> None:
    parts = (
        b': ping\n\ndata: {"a"',
        b": 1}\n",
        b'\ndata: {"a": 2}\n\nevent: x\ndata: {"a": 3}\n\n',
        b"data: [DONE]\n\n",
    )
    address = answer_once(chunked(*parts) + b"0\r\n\r\n")
    assert asyncio.run(documents(address)) == [{"a": 1}, {"a": 2}, {"a": 3}]


@pytest.mark.parametrize(
    "data",
    [chunked(b'data: {"a": 1}\n\n'), b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", b"HTTP/1.1 2", b""],
    ids=["no last chunk", "body short", "head short", "nothing"],
)
def test_an_answer_that_is_cut_short_is_an_error(data: bytes) -> None:
    with pytest.raises(HttpError):
        asyncio.run(documents(answer_once(data)))


def test_a_refusal_has_its_status() -> None:
    data = b'HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 8\r\n\r\n{"a": 1}'
    with pytest.raises(HttpError) as caught:
        asyncio.run(documents(answer_once(data)))
    assert caught.value.status == 503
    assert asyncio.run(call(answer_once(data), "GET", "/")) == (503, {"a": 1})


@pytest.mark.parametrize(
    ("steps", "cancelled", "wrong"),
    [
        (SOLO.expected, False, False),
        (SOLO.expected, True, False),
        ((*SOLO.expected[:2], Step(None, "", "cancelled")), True, False),
        ((*SOLO.expected[:2], Step(None, "", "cancelled")), False, True),
        ((Step(5, "a"), Step(7, "c"), Step(None, "", "cancelled")), True, True),
        ((Step(5, "a"), Step(5, "a"), *SOLO.expected[1:]), False, True),
        ((Step(5, "a"), SOLO.expected[2]), False, True),
        ((Step(5, "a"), Step(6, "x"), SOLO.expected[2]), False, True),
        (SOLO.expected[:2], False, True),
        ((), True, True),
        ((Step(5, "a"), Step(None, "", "failed")), True, True),
    ],
    ids=[
        "as alone",
        "cancelled too late",
        "cancelled",
        "cancelled by nobody",
        "cancelled, token lost",
        "token repeated",
        "token lost",
        "other text",
        "no last event",
        "nothing",
        "failed",
    ],
)
def test_the_judge_sees_what_is_wrong(steps: tuple[Step, ...], cancelled: bool, wrong: bool) -> None:
    assert (judge(SOLO, steps, cancelled) is not None) is wrong


def test_the_judge_of_streams_that_were_left() -> None:
    assert judge_beginning(SOLO, SOLO.expected[:2]) is None
    assert judge_beginning(SOLO, SOLO.expected[1:]) is not None


def test_requests_are_distinct_and_the_same_each_time() -> None:
    bodies = make_bodies(50, 3)
    assert bodies == make_bodies(50, 3)
    assert len({repr(body) for body in bodies}) == 50
    assert {body["temperature"] for body in bodies} >= {0.0, 1.0}


@pytest.mark.parametrize(
    ("after", "pages"),
    [
        (Held(100.0, 50.0, 13, 20), 0),
        (Held(100.0, 50.0, 12, 21), 0),
        (Held(150.0, 90.0, 12, 20), 0),
        (HELD, 1),
    ],
    ids=["descriptor", "thread", "memory", "page"],
)
def test_what_does_not_come_back_is_told(after: Held, pages: int) -> None:
    assert len(check_held(HELD, after, 0, pages)) == 1
    assert check_held(HELD, HELD, 0, 0) == []


def test_held_counts_descriptors_and_threads() -> None:
    before = held_by(os.getpid())
    opened = os.open(os.devnull, os.O_RDONLY)
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    during = held_by(os.getpid())
    stop.set()
    thread.join()
    os.close(opened)
    assert (during.descriptors - before.descriptors, during.threads - before.threads) == (1, 1)
    assert during.resident > during.anonymous > 1
