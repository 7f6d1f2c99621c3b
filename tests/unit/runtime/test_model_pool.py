"""Models loaded when asked for, and unloaded when nobody uses them."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rocmforge.artifacts.errors import DeviceError, EngineBusyError, UsageError
from rocmforge.runtime import model_pool
from rocmforge.runtime.http.core.errors import NotFoundError
from rocmforge.runtime.http.core.service import Service
from rocmforge.runtime.model_pool import ModelPool
from rocmforge.tests.support.fake_engine import MODEL, FakeEngine, FakeTemplate, FakeTokenizer


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


def test_a_model_with_adapters_is_one_that_several_names_stand_for() -> None:
    """What is set for all of its requests is the pool's, and stays when the model is unloaded."""
    model = FakeModel("a")
    engine = FakeEngine()
    model.service = Service(engine, FakeTokenizer(), FakeTemplate(), replace(MODEL, name="a"))
    model.card = replace(model.card, adapters=("x", "y"))
    pool = pool_of(model, FakeModel("b"))
    assert [card.name for card in pool.cards()] == ["a", "a:x", "a:y", "b"]
    with pool.lease("a:y") as chosen, pool.lease("a") as plain:
        assert (chosen.service.model.name, chosen.service.adapters) == ("a:y", (("y", 1.0),))
        assert (plain.service.model.name, plain.service.adapters) == ("a", ())
        assert chosen.service.cache is plain.service.cache is model.service.cache
        pool.card("a:x").defaults.scales = (("x", 0.5),)
        assert (plain.service.adapters, chosen.service.adapters) == ((("x", 0.5),), (("y", 1.0),))
        assert pool.expires_in("a:x") == pool.expires_in("a")
        assert model.loads == 1
    pool.keep("a:x", 0)
    assert model.stops == 1
    with pool.lease("a") as again:
        assert (again.service.adapters, model.loads) == ((("x", 0.5),), 2)
    with pytest.raises(NotFoundError, match="model a:z not found; here: a, a:x, a:y, b"):
        pool.lease("a:z")
    with pytest.raises(UsageError, match="two bundles have the name a:x"):
        pool_of(model, FakeModel("a:x"))
    pool.close(0)


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


def test_time_since_the_last_use_is_what_counts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By a clock that stands still: used, kept, expired, to the second."""
    now = [100.0]
    monkeypatch.setattr(model_pool, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(model_pool, "LOOK_SECONDS", 60.0)
    a, b = FakeModel("a"), FakeModel("b")
    pool = pool_of(a, b, idle_seconds=10.0)
    assert (pool.expires_in("a"), pool.loaded()) == (None, [])
    with caplog.at_level(logging.INFO):
        lease = pool.lease("a")
    assert pool.expires_in("a") == 10.0
    now[0] = 105.0
    assert pool.expires_in("a") == 5.0
    now[0] = 200.0
    assert pool.expires_in("a") == 0.0
    pool._unload_idle()
    assert a.stops == 0  # in use, however long
    lease.release()
    assert pool.expires_in("a") == 10.0
    now[0] = 209.5
    pool._unload_idle()
    assert (a.stops, pool.expires_in("a")) == (0, 0.5)
    pool.keep("a", 30.0)
    now[0] = 210.0
    assert pool.expires_in("a") == 20.0
    pool.keep("a", None)
    with caplog.at_level(logging.INFO):
        pool._unload_idle()
    assert (a.stops, pool.expires_in("a"), pool.loaded()) == (1, None, [])
    assert [record.message for record in caplog.records] == ["loaded a in 0.0 s", "unloaded a"]
    pool.lease("a").release()
    pool.lease("b").release()
    pool.keep("a", math.inf)
    now[0] = 300.0
    pool._unload_idle()
    assert (a.stops, b.stops, pool.expires_in("a")) == (1, 1, math.inf)  # the first that stays keeps no other
    pool.close(0.0)


def test_one_model_that_stays_is_watched_by_nobody() -> None:
    before = {thread.name for thread in threading.enumerate()}
    pool = pool_of(FakeModel("a"))
    assert {thread.name for thread in threading.enumerate()} - {"idle models"} == before - {"idle models"}
    assert not pool._janitor.is_alive()
    pool.close(0.0)
    for watched in (pool_of(FakeModel("a"), idle_seconds=60.0), pool_of(FakeModel("a"), FakeModel("b"))):
        assert watched._janitor.is_alive()
        assert watched._janitor.daemon  # a server that is interrupted does not wait for it
        watched.close(0.0)
        assert not watched._janitor.is_alive()


def test_a_single_model_is_loaded_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    pool = pool_of(FakeModel("a"))
    with caplog.at_level(logging.INFO):
        pool.lease(None).release()
    assert caplog.text == ""


def test_models_end_with_the_time_that_they_are_given() -> None:
    told: list[float] = []

    class Ending(FakeModel):
        def stop(self, timeout: float) -> None:
            told.append(timeout)

    pool = pool_of(Ending("a"), Ending("b"), Ending("c"))
    pool.lease("a")
    pool.lease("b").release()
    pool.keep("b", 0)
    assert told == [0.0]
    pool.close(7.5)
    assert told == [0.0, 7.5]
    with pytest.raises(EngineBusyError, match=r"^the server is stopping$"):
        pool.lease("a")


def test_a_lease_that_is_refused_holds_nothing() -> None:
    a, b = FakeModel("a"), FakeModel("b")
    pool = pool_of(a, b, max_loaded=1)
    with pool.lease("a"), pytest.raises(EngineBusyError) as caught:
        pool.lease("b")
    assert str(caught.value) == "1 models are loaded and in use, the most at a time"
    pool.lease("b").release()
    pool.lease("a").release()  # makes room for it, as nobody holds it
    assert (a.loads, a.stops, b.loads, b.stops) == (2, 1, 1, 1)
    pool.close(0.0)


def test_no_more_are_loaded_at_once_than_may_be() -> None:
    """Threads that ask for several models at the same moment: one gets its own, and the others are told."""
    together, loading, most, refused = threading.Barrier(3), [0], [0], []

    def load() -> None:
        loading[0] += 1
        most[0] = max(most[0], loading[0] + sum(one.loads for one in models))
        time.sleep(0.05)
        loading[0] -= 1

    models = [FakeModel(name, load) for name in "abc"]
    pool = pool_of(*models, max_loaded=1)

    def ask(name: str) -> None:
        together.wait()
        try:
            pool.lease(name)
        except EngineBusyError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=ask, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, sum(one.loads for one in models)) == ([1], 1)
    assert refused == ["1 models are loaded and in use, the most at a time"] * 2
    pool.close(0.0)


def test_a_model_on_its_way_out_is_waited_for() -> None:
    """Whoever asks for it, or for another, finds the memory that it had."""
    going, gone, order = threading.Event(), threading.Event(), []

    class Slow(FakeModel):
        def stop(self, timeout: float) -> None:
            going.set()
            assert gone.wait(10)
            order.append("stopped")

    model = Slow("a", lambda: order.append("loads"))
    pool = pool_of(model)
    pool.lease("a").release()
    unloads = threading.Thread(target=pool.keep, args=("a", 0))
    unloads.start()
    assert going.wait(10)
    asks = threading.Thread(target=pool.lease, args=("a",))
    asks.start()
    time.sleep(0.05)
    gone.set()
    unloads.join()
    asks.join()
    assert order == ["loads", "stopped", "loads"]
    pool.close(0.0)
