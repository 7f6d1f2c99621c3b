"""The line between a server and its worker: frames in turn, whoever sends them and however little room there is."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator

import pytest

from rocmforge.runtime.worker.sender import EARLY_MESSAGES, Sender
from rocmforge.runtime.worker.wire import Channel

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
