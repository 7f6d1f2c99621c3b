"""Which of several devices a request goes to."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, cast

import pytest

from rocmforge.artifacts.errors import EngineBusyError
from rocmforge.runtime.engine.embeddings import EmbeddingRequest
from rocmforge.runtime.engine.generation import DeviceStats, EngineStats, GenerationRequest
from rocmforge.runtime.engine.pictures import PlacedPicture
from rocmforge.runtime.engine.worker import router
from rocmforge.runtime.engine.worker.remote import RemoteEngine
from rocmforge.runtime.engine.worker.router import RoutedEngine
from rocmforge.runtime.pictures.patches import Picture
from rocmforge.tests.support.engine_harness import SECONDS, request

PAGE = 4


class Engine:
    """Stands for an engine that has a process of its own."""

    def __init__(self, name: str, load: int = 0) -> None:
        self.name, self.load, self.max_sequences, self.block_size = name, load, 3, PAGE
        self.max_context, self.vocab_size = 100, 50
        self.restarts, self.serving, self.busy = 0, True, ""
        self.calls: list[Any] = []
        self.known: dict[int, str] = {}
        self.running = True
        self.meeting: threading.Barrier | None = None

    def start(self) -> None:
        self.calls.append("start")

    def wait(self) -> None:
        self.calls.append("wait")

    def stop(self, timeout: float) -> None:
        assert self.meeting is not None
        self.meeting.wait(SECONDS)
        self.calls.append(("stop", timeout))

    def submit_all(self, requests: Sequence[object]) -> list[str]:
        self.calls.append(("asked", len(requests)))
        if self.busy:
            raise EngineBusyError(self.busy)
        return [self.name] * len(requests)

    embed = submit_all

    def find(self, request_id: int) -> str | None:
        return self.known.get(request_id)

    def stats(self) -> EngineStats:
        device = DeviceStats(self.name, self.restarts, self.running, None, 1, 2, 3, 4, 5.0, 6, 7)
        return EngineStats(self.running, 1, 2, 3, 4, 5, 6.0, self.running, 7, 8, devices=(device,))


def routed(*engines: Engine) -> RoutedEngine:
    return RoutedEngine(cast(Sequence[RemoteEngine], engines))


def where(both: RoutedEngine, tokens: int, space: str = "", first: int = 2) -> str:
    """The name of the device that takes a prompt: of the tokens `first`, `first` + 1 and so on."""
    asked = request(tuple(range(first, first + tokens)), cache_space=space)
    return cast(str, both.submit(asked))


def test_the_least_loaded_takes_what_none_knows() -> None:
    for loads, expected in (((2, 1), "b"), ((1, 2), "a"), ((1, 1), "a"), ((3, 3), "a")):
        assert where(routed(Engine("a", loads[0]), Engine("b", loads[1])), 9) == expected


@pytest.mark.parametrize(
    ("again", "expected"), [(2 * PAGE, "a"), (PAGE, "a"), (PAGE - 1, "b"), (3 * PAGE, "a"), (0, "b")]
)
def test_whole_pages_of_its_beginning_bring_a_prompt_to_a_device(again: int, expected: str) -> None:
    first, second = Engine("a"), Engine("b", 1)
    both = routed(first, second)
    assert where(both, 2 * PAGE) == "a"
    first.load, second.load = 2, 0
    assert where(both, again) == expected


def test_the_one_that_has_most_of_it_whoever_had_it_first() -> None:
    first, second = Engine("a"), Engine("b", 1)
    both = routed(first, second)
    assert where(both, PAGE) == "a"
    first.load = 3
    assert where(both, 3 * PAGE) == "b"
    first.load, second.load = 0, 2
    assert where(both, 2 * PAGE + 1) == "b"
    assert where(both, PAGE + 1) == "a"  # as much as the other, and less to do
    assert where(both, 2 * PAGE, "another space") == "a"
    assert where(both, 2 * PAGE, first=3) == "a"


def _picture(name: bytes) -> PlacedPicture:
    return PlacedPicture(Picture(2, 2, bytes(12)), name, ((1, 4),), (2, 2))


@pytest.mark.parametrize(
    ("first", "other"),
    [
        ({"adapters": (("one", 1.0),)}, {"adapters": (("two", 1.0),)}),
        ({"adapters": (("one", 1.0),)}, {"adapters": (("one", 0.5),)}),
        ({"adapters": (("one", 1.0),)}, {}),
        ({"pictures": (_picture(b"one"),)}, {"pictures": (_picture(b"two"),)}),
    ],
)
def test_other_adapters_and_pictures_make_another_prompt(first: dict[str, Any], other: dict[str, Any]) -> None:
    engines = Engine("a"), Engine("b", 1)
    both = routed(*engines)
    ids = tuple(range(3 * PAGE))
    assert cast(str, both.submit(request(ids, **first))) == "a"
    engines[0].load = 2
    both.submit(request(ids[: 2 * PAGE], **other))  # "b": what it begins with, it has as well then
    assert cast(str, both.submit(request(ids, **other))) == "b"
    assert cast(str, both.submit(request(ids, **first))) == "a"


def test_a_full_device_takes_nothing_that_another_has_room_for() -> None:
    first, second = Engine("a"), Engine("b", 1)
    both = routed(first, second)
    where(both, PAGE)
    first.load, second.load = 2, 0
    assert where(both, PAGE) == "a"
    first.load, second.load = 3, 2
    assert where(both, 2 * PAGE) == "b"
    second.load = 3
    assert where(both, PAGE) == "a"  # both are full: as if none were


def test_a_device_that_is_gone_or_busy_is_passed_over() -> None:
    first, second = Engine("a"), Engine("b", 2)
    both = routed(first, second)
    where(both, PAGE)
    first.serving = False
    assert where(both, PAGE) == "b"
    assert first.calls == [("asked", 1)]
    first.serving, first.busy = True, "its queue is full"
    second.calls.clear()
    assert where(both, PAGE, "other") == "b"
    assert (first.calls, second.calls) == ([("asked", 1)] * 2, [("asked", 1)])
    second.busy = "the model is not available"
    with pytest.raises(EngineBusyError, match=r"^the model is not available$"):
        where(both, PAGE, "other still")
    first.serving = second.serving = False
    first.calls.clear()
    second.calls.clear()
    with pytest.raises(EngineBusyError, match=r"^the model is not available$"):
        where(both, PAGE, "and other")
    assert first.calls == second.calls == [("asked", 1)]


def test_a_new_worker_knows_nothing_of_the_last_one_s() -> None:
    first, second = Engine("a"), Engine("b", 1)
    both = routed(first, second)
    where(both, PAGE)
    first.load = 2
    assert where(both, PAGE) == "a"
    first.restarts = 1
    assert where(both, PAGE) == "b"
    first.load, second.load = 0, 1
    assert where(both, PAGE, first=9) == "a"
    first.load, second.load = 2, 0
    assert where(both, PAGE, first=9) == "a"  # what the new one was sent counts


def kept(history: Sequence[tuple[int, int]], tokens: int, first: int) -> bool:
    """Whether a device that was sent these prompts, each of so many tokens from a first one on, still has another's."""
    engines = Engine("a"), Engine("b", 2)
    both = routed(*engines)
    for count, start in history:
        assert where(both, count, first=start) == "a"
    engines[0].load, engines[1].load = 2, 1
    return where(both, tokens, first=first) == "a"


def test_the_pages_that_were_used_least_lately_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one prompt the last ones: without those before them they are of no use."""
    monkeypatch.setattr(router, "RECORDED_PAGES", 3)
    long, short, two = (4 * PAGE, 2), (PAGE, 20), (2 * PAGE, 30)
    assert kept([long], PAGE, 2)
    assert kept([(3 * PAGE, 2), short], PAGE, 2)
    assert kept([(3 * PAGE, 2), short], PAGE, 20)
    assert [kept([short, (PAGE, 40), two], PAGE, first) for first in (20, 40, 30)] == [False, True, True]
    assert [kept([short, (PAGE, 40), short, two], PAGE, first) for first in (20, 40, 30)] == [True, False, True]
    assert [kept([short, (PAGE, 40), (PAGE, 30)], PAGE, first) for first in (20, 40, 30)] == [True] * 3


def test_what_is_submitted_together_goes_to_one_device() -> None:
    first, second = Engine("a"), Engine("b", 1)
    both = routed(first, second)
    requests: list[GenerationRequest] = [request(5), request(6)]
    assert cast(list[str], both.submit_all(requests)) == ["a", "a"]
    first.load = 2
    texts = [EmbeddingRequest((3, 4), "mean")] * 3
    assert cast(list[str], both.embed(texts)) == ["b"] * 3
    assert (first.calls, second.calls) == ([("asked", 2)], [("asked", 3)])


def test_all_are_one_engine() -> None:
    first, second = Engine("a"), Engine("b")
    both = routed(first, second)
    first.max_context, second.vocab_size = 120, 51
    assert (both.max_context, both.vocab_size) == (100, 50)
    first.known, second.known = {1: "of a"}, {2: "of b"}
    assert [cast(object, both.find(number)) for number in (1, 2, 3)] == ["of a", "of b", None]
    both.start()
    both.wait()
    first.meeting = second.meeting = threading.Barrier(2)  # one after the other would wait for ever
    both.stop(4.5)
    assert first.calls == second.calls == ["start", "wait", ("stop", 4.5)]


@pytest.mark.parametrize(("gone", "active"), [((), 2), (("a",), 1), (("b",), 1), (("a", "b"), 2)])
def test_counts_are_of_those_that_run(gone: tuple[str, ...], active: int) -> None:
    """And of all where none does; each device is told of in any case."""
    engines = Engine("a"), Engine("b")
    for engine in engines:
        engine.running = engine.name not in gone
    stats = routed(*engines).stats()
    assert (stats.running, stats.active, stats.pages_total) == (len(gone) < 2, active, 4 * active)
    assert [device.device for device in stats.devices] == ["a", "b"]
