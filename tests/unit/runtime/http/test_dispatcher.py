"""Which of the server's threads serve."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from rocmforge.runtime.http.transport.connections import Dispatcher

THREADS = 8


class Task:
    """Notes by which thread it is served, and stays until `leave`."""

    def __init__(self, leave: threading.Event) -> None:
        self.thread: str | None = None
        self._leave = leave

    def service(self) -> None:
        self.thread = threading.current_thread().name
        self._leave.wait(30)

    def cancel(self) -> None:
        """Asked of those that wait when the server stops."""


@pytest.fixture
def dispatcher() -> Iterator[Dispatcher]:
    made = Dispatcher(THREADS)
    until(lambda: made.active_count == 0)
    yield made
    made.shutdown(timeout=5)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_one_request_after_another_is_served_by_one_thread(dispatcher: Dispatcher) -> None:
    leave = threading.Event()
    leave.set()
    tasks = [Task(leave) for _ in range(20)]
    for task in tasks:
        dispatcher.add_task(task)
        until(lambda task=task: task.thread is not None and dispatcher.active_count == 0)  # type: ignore[misc]
    assert len({task.thread for task in tasks}) == 1


def test_requests_at_once_are_served_by_as_many_threads(dispatcher: Dispatcher) -> None:
    leave = threading.Event()
    tasks = [Task(leave) for _ in range(THREADS + 3)]
    for task in tasks:
        dispatcher.add_task(task)
    until(lambda: sum(task.thread is not None for task in tasks) == THREADS)
    assert len({task.thread for task in tasks if task.thread}) == THREADS
    leave.set()
    until(lambda: all(task.thread for task in tasks))
