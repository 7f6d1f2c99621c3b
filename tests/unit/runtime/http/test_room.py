"""How many tokens a request may ask for, what the documented limits are, and by which names models are found."""

from __future__ import annotations

import dataclasses
import math

import pytest

from rocmforge.runtime.engine.generation import EngineStats, GenerationRequest
from rocmforge.runtime.http.core.errors import ContextLengthError, NotFoundError
from rocmforge.runtime.http.core.generation_params import GenerationParams
from rocmforge.runtime.http.core.limits import HttpLimits
from rocmforge.runtime.http.core.registry import Lease, OneModel, find_card, total_stats
from rocmforge.runtime.http.core.service import Service
from rocmforge.tests.support.fake_engine import MODEL, FakeEngine, FakeTemplate, FakeTokenizer

CONTEXT = 128


@pytest.fixture
def service() -> Service:
    return Service(FakeEngine(max_context=CONTEXT), FakeTokenizer(), FakeTemplate(), MODEL)


def asked(service: Service, length: int, most: int | None, default: int | None = None) -> int:
    return service.request((1,) * length, GenerationParams(max_tokens=most), default).max_tokens


@pytest.mark.parametrize(
    "length, most, default, expected",
    [
        (100, 28, None, 28),
        (100, None, None, 28),
        (100, None, 27, 27),
        (100, None, 28, 28),
        (100, None, 29, 28),
        (100, 5, 9, 5),
        (127, 1, None, 1),
        (128, 0, None, 0),
        (127, None, 9, 1),
    ],
)
def test_what_the_context_leaves(
    service: Service, length: int, most: int | None, default: int | None, expected: int
) -> None:
    assert asked(service, length, most, default) == expected


@pytest.mark.parametrize(
    "length, most, told",
    [
        (100, 29, (100, 128, 29, 128)),
        (128, None, (128, 127, None, 128)),
        (128, 1, (128, 127, None, 128)),
        (129, 0, (129, 128, None, 128)),
    ],
)
def test_what_it_does_not(
    service: Service, length: int, most: int | None, told: tuple[int, int, int | None, int]
) -> None:
    with pytest.raises(ContextLengthError) as caught:
        asked(service, length, most)
    error = caught.value
    assert (error.prompt_tokens, error.most, error.max_tokens, error.context) == told
    assert "exceeds the available context size of 128" in str(error)
    assert error.parameter == ("max_tokens" if told[2] else "prompt")


def test_all_conditions_reach_the_engine(service: Service) -> None:
    sampling = dataclasses.replace(GenerationParams().sampling, seed=2**64 - 1)
    params = GenerationParams(7, sampling, ("x",), True, (5,), 2, prompt_logprobs=3)
    first, second, third = service.requests((1, 2), params, None, 3)
    assert first == GenerationRequest((1, 2), 7, sampling, ("x",), True, (5,), 2, None, prompt_logprobs=3)
    assert [one.sampling.seed for one in (first, second, third)] == [2**64 - 1, 0, 1]  # each its own, of 64 bits
    assert dataclasses.replace(second, sampling=sampling) == first
    unseeded = service.requests((1,), GenerationParams(), None, 2)
    assert [one.sampling.seed for one in unseeded] == [None, None]


def test_the_limits_of_the_documentation() -> None:
    """`docs/operations.md`, "Limits": what holds where nothing is given."""
    limits = HttpLimits()
    assert (limits.max_body_bytes, limits.max_header_bytes, limits.max_prompt_tokens) == (4194304, 32768, None)
    assert (limits.header_seconds, limits.body_seconds, limits.idle_seconds, limits.write_seconds) == (15, 60, 120, 30)
    assert (limits.max_connections, limits.max_streams, limits.ping_seconds) == (2000, 96, 15)
    assert HttpLimits(max_streams=5, spare_threads=2).threads == 7
    assert limits.threads > limits.max_streams
    assert 0 < limits.poll_seconds < 1 < limits.cancel_seconds < 10


def test_names_of_a_model() -> None:
    cards = [
        dataclasses.replace(MODEL, name="a", path="/m/a.rfb"),
        dataclasses.replace(MODEL, name="b:q4", path="/m/b.rfb", aliases=("c", "d:latest")),
    ]
    for name, index in {"": 0, None: 0, "a": 0, "a:latest": 0, "/m/b.rfb": 1, "b:q4": 1, "c:latest": 1}.items():
        assert find_card(cards, name) is cards[index]
    assert find_card(cards, "d:latest") is cards[1]
    for name in ("b", "d", "A", "latest", ":latest", "a:x", "a.rfb"):
        with pytest.raises(NotFoundError) as caught:
            find_card(cards, name)
        assert str(caught.value) == f"model {name} not found; here: a, b:q4"
        assert (caught.value.parameter, caught.value.code) == ("model", "model_not_found")


def test_a_single_model_stays(service: Service) -> None:
    models = OneModel(service)
    assert models.expires_in(MODEL.name) == math.inf
    models.keep(MODEL.name, 0)
    models.keep(None, None)
    assert models.loaded() == [service]
    for ask in (models.expires_in, models.lease, lambda name: models.keep(name, 1)):
        with pytest.raises(NotFoundError):
            ask("none")
    assert total_stats(models) == service.engine.stats()


def test_where_none_is_loaded_all_is_well(service: Service) -> None:
    class Unloaded(OneModel):
        def loaded(self) -> list[Service]:
            return []

    assert total_stats(Unloaded(service)) == EngineStats(
        running=True,
        active=0,
        queued=0,
        pages_used=0,
        pages_total=0,
        active_sequences=0,
        tokens_per_second=0.0,
        device_available=True,
        memory_free_bytes=0,
        memory_total_bytes=0,
    )


def test_a_lease_is_given_back_once(service: Service) -> None:
    given: list[int] = []
    with Lease(service, lambda: given.append(1)):
        assert given == []
    assert given == [1]
    with Lease(service, lambda: given.append(2)) as lease:
        assert lease.keep() is lease
    assert given == [1]
    lease.release()
    lease.release()
    assert given == [1, 2]
