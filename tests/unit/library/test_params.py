"""What a program asks for, as the engine takes it."""

from __future__ import annotations

from typing import Any

import pytest

from rocmforge.artifacts.errors import RequestError
from rocmforge.artifacts.sampling import PARAMETERS
from rocmforge.library.params import GenerationParams, check_params, params_of, request_of
from rocmforge.runtime.engine.generation import GenerationRequest, SamplingParams

SAMPLING = SamplingParams(0.5, top_k=3, seed=4, logit_bias=((7, 1.5),))


def test_all_of_it_reaches_the_engine() -> None:
    params = GenerationParams(
        0.5, top_k=3, seed=4, logit_bias=((7, 1.5),), stop="x", stop_token_ids=(8,), ignore_eos=True, logprobs=2
    )
    expected = GenerationRequest((1, 2), 18, SAMPLING, ("x",), True, (8,), 2)
    assert request_of((1, 2), params, None, 20) == expected
    assert type(request_of((1, 2), params, None, 20).sampling) is SamplingParams  # what travels to a worker
    assert request_of((1,), params_of(SAMPLING, 5), None, 20) == GenerationRequest((1,), 5, SAMPLING)


def test_a_prompt_needs_room() -> None:
    with pytest.raises(RequestError, match=r"^prompt: expected fewer than 3 tokens \(the context\), found 3$"):
        request_of((1, 2, 3), GenerationParams(), None, 3)
    assert request_of((1, 2, 3), GenerationParams(max_tokens=0), None, 3).max_tokens == 0


@pytest.mark.parametrize("name", PARAMETERS)
def test_each_number_has_its_range(name: str) -> None:
    allowed = PARAMETERS[name].allowed

    def check(value: Any) -> None:
        values: dict[str, Any] = {name: value}
        check_params(GenerationParams(**values), 10)

    check(allowed.low)
    check(allowed.high)
    problem = rf"^{name}: expected an? \w+ from {allowed.low} to {allowed.high}, found "
    for value in (allowed.low - 1, allowed.high + 1, True, "1"):
        with pytest.raises(RequestError, match=problem):
            check(value)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"stop_token_ids": (10,)}, "stop_token_ids: expected an integer from 0 to 9, found 10"),
        ({"logit_bias": ((-1, 0.0),)}, "logit_bias: expected an integer from 0 to 9, found -1"),
        ({"logprobs": 11}, "logprobs: expected an integer from 0 to 10, found 11"),
        ({"max_tokens": -1}, "max_tokens: expected an integer from 0 to 2147483647, found -1"),
        ({"stop": ("a", "")}, "stop: expected texts that are not empty, found ('a', '')"),
    ],
)
def test_the_rest_is_checked_too(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(RequestError) as caught:
        check_params(GenerationParams(**values), 10)
    assert str(caught.value) == problem


def test_one_constraint_at_most() -> None:
    for name, value in (("json_schema", {}), ("regex", "a"), ("grammar", "b")):
        values: dict[str, Any] = {name: value}
        spec = GenerationParams(**values).constraint()
        assert spec is not None
        assert (spec.kind, spec.source, spec.parameter) == (name, value, name)
    assert GenerationParams().constraint() is None
