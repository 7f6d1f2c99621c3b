"""Models loaded when asked for, and unloaded when nobody uses them."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest

from rocmforge.artifacts.errors import DeviceError, UsageError
from rocmforge.runtime import model_pool
from rocmforge.runtime.generation import EngineBusyError
from rocmforge.runtime.http.errors import NotFoundError
from rocmforge.runtime.http.service import Service
from rocmforge.runtime.model_pool import ModelPool

from .http.fake_engine import MODEL


class FakeModel:
    """Counts how often it was loaded and stopped; `fail` says how loading goes wrong."""

    def __init__(self, name: str, fail: Callable[[], None] = lambda: None) -> None:
        self.card = replace(MODEL, name=name, path=f"/{name}")
        self.loads = self.stops = 0
        self.service = cast(Service, self)
        self.model = self.card
        self._fail = fail

    def load(self) -> Any:
        self._fail()
        self.loads += 1
        return self

    def stop(self, timeout: float) -> None:
        self.stops += 1


def pool_of(*models: FakeModel, **options: Any) -> ModelPool:
    return ModelPool([(model.card, model.load) for model in models], **options)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_model_is_loaded_when_it_is_asked_for() -> None:
    a, b = FakeModel("a"), FakeModel("b")
    pool = pool_of(a, b)
    assert [card.name for card in pool.cards()] == ["a", "b"]
    with pool.lease(None), pool.lease("b"), pool.lease("b:latest"):
        assert (a.loads, b.loads) == (1, 1)
        assert pool.loaded() == [a.service, b.service]
    with pytest.raises(NotFoundError, match="model c not found; here: a, b"):
        pool.lease("c")
    pool.close(0)
    assert (a.stops, b.stops) == (1, 1)
    with pytest.raises(EngineBusyError):
        pool.lease("a")


def test_two_of_one_name() -> None:
    with pytest.raises(UsageError, match="two bundles have the name a"):
        pool_of(FakeModel("a"), FakeModel("a"))


def test_threads_that_ask_at_once_load_once() -> None:
    started = threading.Barrier(8)
    model = FakeModel("a", lambda: time.sleep(0.05))
    pool, leases = pool_of(model), []

    def ask() -> None:
        started.wait()
        leases.append(pool.lease("a"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(leases), model.loads) == (8, 1)


def test_an_idle_model_is_unloaded_and_a_used_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_pool, "LOOK_SECONDS", 0.01)
    a, b = FakeModel("a"), FakeModel("b")
    pool = pool_of(a, b, idle_seconds=0.05)
    lease = pool.lease("a")
    pool.lease("b").release()
    wait_until(lambda: b.stops == 1)
    assert (a.stops, pool.expires_in("b")) == (0, None)
    lease.release()
    lease.release()  # again is harmless
    wait_until(lambda: a.stops == 1)
    with pool.lease("a"):
        assert a.loads == 2
    pool.close(0)


def test_a_client_says_how_long_it_stays() -> None:
    a = FakeModel("a")
    pool = pool_of(a)
    lease = pool.lease("a")
    pool.keep("a", 0)
    assert a.stops == 0  # it is in use
    lease.release()
    pool.keep("a", 0)
    assert (a.stops, pool.loaded()) == (1, [])
    pool.lease("a").release()
    pool.keep("a", 100)
    remaining = pool.expires_in("a")
    assert remaining is not None
    assert 90 < remaining <= 100


def test_what_a_client_says_ends_with_the_model() -> None:
    """A client that unloads a model once does not have it unloaded after each later request of others."""
    pool = pool_of(FakeModel("a"))
    pool.lease("a").release()
    pool.keep("a", 0)
    pool.lease("a").release()
    assert pool.expires_in("a") == math.inf


def test_the_one_unused_for_longest_makes_room() -> None:
    a, b, c = FakeModel("a"), FakeModel("b"), FakeModel("c")
    pool = pool_of(a, b, c, max_loaded=2)
    pool.lease("a").release()
    pool.lease("b").release()
    pool.lease("a").release()
    with pool.lease("c"), pool.lease("a"):
        assert (a.stops, b.stops) == (0, 1)
        with pytest.raises(EngineBusyError, match="2 models are loaded and in use"):
            pool.lease("b")


def test_F72_a_device_without_memory_for_it_gets_some_from_idle_models() -> None:
    a = FakeModel("a")

    def fail() -> None:
        if not a.stops:
            raise DeviceError("12 MiB short")

    b = FakeModel("b", fail)
    pool = pool_of(a, b)
    with pool.lease("a"), pytest.raises(DeviceError, match="12 MiB short"):
        pool.lease("b")
    with pool.lease("b"):
        assert (a.stops, b.loads) == (1, 1)
    with pool.lease("a"):
        assert a.loads == 2


def test_what_does_not_load_can_be_asked_for_again() -> None:
    errors = [DeviceError("lost")]

    def fail() -> None:
        if errors:
            raise errors.pop()

    pool = pool_of(FakeModel("a", fail))
    with pytest.raises(DeviceError):
        pool.lease(None)
    assert pool.lease(None).service is not None
