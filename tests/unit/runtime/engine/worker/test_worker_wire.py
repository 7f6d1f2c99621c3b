"""The line between a server and its worker: frames in turn, whoever sends them and however little room there is."""

from __future__ import annotations

import os
import re
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rocmforge.artifacts.errors import (
    BundleError,
    DeviceError,
    EngineBusyError,
    RequestError,
    RocmforgeError,
    ToolchainError,
    UsageError,
)
from rocmforge.runtime.engine.failure import Failure, error_of, failure_of
from rocmforge.runtime.engine.lifecycle import FINISHED, FIRST_TOKEN, RequestEvent
from rocmforge.runtime.engine.worker import channel
from rocmforge.runtime.engine.worker.channel import Channel
from rocmforge.runtime.engine.worker.process import Worker
from rocmforge.runtime.engine.worker.sender import EARLY_MESSAGES, Sender
from rocmforge.runtime.engine.worker.wire import DeferredConstraints, decode, encode
from rocmforge.runtime.text.constraints import ConstraintError, ConstraintSpec

SECONDS = 20.0


class Line:
    """Both ends of one: the worker's, and the server's."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.bell = os.eventfd(0)
        self.worker = Channel(self.theirs, ring=self.bell)
        self.server = Channel(self.ours, listen=self.bell)

    def close(self) -> None:
        self.worker.close()
        self.server.close()
        os.close(self.bell)


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    yield made
    made.close()


def test_a_frame_is_announced_once_it_is_there(line: Line) -> None:
    """Several may be, before the other end looks."""
    line.worker.send(1)
    assert line.worker.send_some(2, 3) == b""
    line.worker.send(4)
    assert [line.server.receive() for _ in range(3)] == [(1,), (2, 3), (4,)]
    read: list[object] = []
    waiting = threading.Thread(target=lambda: read.append(line.server.receive()))
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    line.worker.send(5)
    waiting.join(SECONDS)
    assert read == [(5,)]


def test_what_was_sent_before_the_end_is_read_and_then_the_end(line: Line) -> None:
    """Also what nobody has announced: half a frame is no frame."""
    line.worker.send("whole")
    line.theirs.sendall(b"\x63\0\0\0\0\0\0\0half")
    line.worker.close()
    assert line.server.receive() == ("whole",)
    assert line.server.receive() is None


def test_a_server_that_does_not_read_holds_up_no_step(line: Line) -> None:
    """What there is no room for is sent by the other thread, before all that comes later."""
    sender = Sender(line.worker)
    large = "x" * (1 << 20)
    for number in range(20):
        sender.put((number, large))
        sender.send_now()
    read: list[object] = []
    while len(read) < 20:
        frame = line.server.receive()
        assert frame is not None
        read += frame
    assert read == [(number, large) for number in range(20)]
    sender.finish()


def test_messages_of_several_threads_arrive_once_and_each_thread_s_in_turn(line: Line) -> None:
    sender = Sender(line.worker)

    def put(name: int) -> None:
        for number in range(500):
            sender.put((name, number) if number % 7 else lambda number=number: (name, number))
            if name == 0:  # as the engine's does
                sender.send_now()

    threads = [threading.Thread(target=put, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    read: list[tuple[int, int]] = []
    while len(read) < 2000:
        frame = line.server.receive()
        assert frame is not None
        read += frame
    for thread in threads:
        thread.join(SECONDS)
    sender.finish()
    for name in range(4):
        assert [number for who, number in read if who == name] == list(range(500))


def test_a_step_leaves_in_parts_and_its_end_sends_the_last(line: Line) -> None:
    """The server has work before the step is whole, and is not woken for each token."""
    sender = Sender(line.worker)
    for number in range(2 * EARLY_MESSAGES + 3):
        sender.put_for_now(number)
    assert os.eventfd_read(line.bell) == 2.0  # two frames are announced
    os.eventfd_write(line.bell, 2)
    first, second = line.server.receive(), line.server.receive()
    assert first == tuple(range(EARLY_MESSAGES))
    assert second == tuple(range(EARLY_MESSAGES, 2 * EARLY_MESSAGES))
    sender.send_now()
    assert line.server.receive() == tuple(range(2 * EARLY_MESSAGES, 2 * EARLY_MESSAGES + 3))
    sender.finish()


def test_turns_of_a_step_leave_with_it_and_ends_beside_it_at_once(line: Line) -> None:
    """The thread that sends, once woken, would keep the step's tokens until the next step computes."""
    sender = Sender(line.worker)
    worker = Worker(line.worker, sender)
    inside = [RequestEvent(FIRST_TOKEN, 1, 0.0), RequestEvent(FINISHED, 1, 0.0, 9, "length")]
    for event in inside:
        worker._turned(event)
    assert not sender._rung
    cancelled = RequestEvent(FINISHED, 2, 0.0, 3, "cancelled")
    worker._turned(cancelled)
    assert line.server.receive() == (*inside, cancelled)
    sender.finish()


def test_what_comes_while_another_thread_sends_is_sent_by_that_one(line: Line) -> None:
    """It may have looked for the last time, so it is told."""
    sender = Sender(line.worker)
    with sender._sending:
        sender.put_for_now("late")
        sender.send_now()
    assert line.server.receive() == ("late",)
    sender.finish()


def test_others_may_put_while_what_waits_is_sent(line: Line) -> None:
    sender, count = Sender(line.worker), 20_000
    with sender._sending:  # so that they wait
        for number in range(count):
            sender.put((0, number))
    read: list[tuple[int, int]] = []

    def put() -> None:
        for number in range(count):
            sender.put((1, number))

    def take() -> None:
        while len(read) < 2 * count and (frame := line.server.receive()) is not None:
            read.extend(frame)

    other, reader = threading.Thread(target=put), threading.Thread(target=take)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads take turns in the midst of whatever they do
    try:
        reader.start()
        other.start()
        while other.is_alive():
            sender.send_now()
    finally:
        sys.setswitchinterval(interval)
    sender.finish()
    reader.join(SECONDS)
    for name in range(2):
        assert [number for who, number in read if who == name] == list(range(count))


def whole(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


@pytest.mark.parametrize(("size", "taken"), [(0, True), (1, True), (2, False)])
def test_a_frame_has_a_limit(size: int, taken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a worker out of its mind takes no memory of the server's; its message is the end of it."""
    data = encode(("x" * 100,))
    monkeypatch.setattr(channel, "MAX_FRAME_BYTES", len(data) + 1 - size)
    ours, theirs = socket.socketpair()
    server = Channel(ours)
    theirs.sendall(whole(data))
    assert server.receive() == (("x" * 100,) if taken else None)
    theirs.close()
    assert server.receive() is None
    server.close()


@pytest.mark.parametrize("cut", [1, 7, 8, 9, 50])
def test_a_frame_that_is_cut_is_the_end(cut: int) -> None:
    ours, theirs = socket.socketpair()
    server = Channel(ours)
    theirs.sendall(whole(encode((1, "x" * 60)))[:cut])
    theirs.close()
    assert server.receive() is None
    server.close()


def test_an_end_that_is_reset_is_an_end() -> None:
    ours, theirs = socket.socketpair()
    server = Channel(ours)
    server.send("never read")
    theirs.close()  # with that in it: what reads next fails
    assert server.receive() is None
    server.close()
    assert ours.fileno() == -1


@pytest.mark.parametrize(("seconds", "limit"), [(0.0, (0, 0)), (2.5, (2, 500_000)), (60.0, (60, 0))])
def test_how_long_sending_may_take(seconds: float, limit: tuple[int, int]) -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(ours, seconds)
    assert struct.unpack("ll", ours.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16)) == limit
    channel.close()
    theirs.close()


def test_nothing_follows_a_part_of_a_frame() -> None:
    """What could not be sent whole cannot be gone on with: all that comes later fails at once."""
    ours, theirs = socket.socketpair()
    channel = Channel(ours, 0.01)
    with pytest.raises(BlockingIOError):
        channel.send("x" * (1 << 22))
    theirs.recv(1 << 22)  # there is room again
    for send in (channel.send, channel.send_some):
        with pytest.raises(BrokenPipeError):
            send(1)
    for rest in (b"", b"x"):
        with pytest.raises(BrokenPipeError):
            channel.send_rest(rest)
    channel.close()
    theirs.close()


def test_what_there_is_no_room_for_is_the_rest(line: Line) -> None:
    data = "x" * (1 << 20)
    rest = line.worker.send_some(1, data)
    assert 0 < len(rest) < len(whole(encode((1, data))))
    assert line.worker.send_some() == b""
    read: list[object] = []
    reader = threading.Thread(target=lambda: read.append(line.server.receive()))
    reader.start()
    line.worker.send_rest(rest)
    line.worker.send_rest(b"")
    reader.join(SECONDS)
    assert read == [(1, data)]
    assert line.worker.send_some(2) == b""
    assert line.server.receive() == (2,)


class OwnError(DeviceError):
    """Of a kind that does not travel."""


@pytest.mark.parametrize(
    ("error", "kind", "parameter"),
    [
        (RocmforgeError("a"), "RocmforgeError", None),
        (UsageError("a"), "UsageError", None),
        (OwnError("a"), "DeviceError", None),
        (ToolchainError("a"), "RocmforgeError", None),
        (BundleError(Path("b"), "digest", "other"), "BundleError", None),
        (EngineBusyError("full"), "EngineBusyError", None),
        (RequestError("top_k", "too large"), "RequestError", "top_k"),
        (ConstraintError("grammar", "too long"), "RequestError", "grammar"),
    ],
)
def test_errors_travel_as_the_nearest_kind(error: RocmforgeError, kind: str, parameter: str | None) -> None:
    fault = failure_of(error)
    assert fault == Failure(str(error), parameter, kind)
    made = error_of(decode(encode(fault)))
    assert (type(made).__name__, str(made)) == (kind, str(error))
    assert getattr(made, "parameter", None) == parameter


@pytest.mark.parametrize("value", [object(), {1, 2}, 2**64, [object()], OwnError("x")])
def test_what_does_not_travel(value: object) -> None:
    with pytest.raises((TypeError, OverflowError)) as caught:
        encode((value,))
    if not isinstance(value, int):
        inner = value[0] if isinstance(value, list) else value
        assert re.fullmatch(f"does not travel: {re.escape(repr(inner))}", str(caught.value))


def test_a_constraint_on_its_way() -> None:
    spec = ConstraintSpec("json_schema", {"type": ["object", None]}, "response_format")
    made = DeferredConstraints().compile(spec)
    assert decode(encode(made)) == made
    assert made.spec() == spec
    for act in (made.mask, lambda: made.take(3)):
        with pytest.raises(NotImplementedError):
            act()


def test_places_of_messages_on_the_wire_are_all_there_is_of_them() -> None:
    """Tuples stay tuples, and texts that are no Unicode arrive."""
    for value in ((1, (2, ("\ud800", b"\xff"))), (None, True, 0.1, -(2**63), 2**64 - 1)):
        assert decode(encode(value)) == value
