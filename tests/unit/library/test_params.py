"""What a program asks for, as the engine takes it."""

from __future__ import annotations

from typing import Any

import pytest

from rocmforge.artifacts.errors import RequestError
from rocmforge.artifacts.sampling import MAX_BIAS, MAX_BIASES, PARAMETERS
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
        ({"stop": 5}, "stop: expected texts that are not empty, found 5"),
        ({"stop": None}, "stop: expected texts that are not empty, found None"),
        ({"stop_token_ids": 5}, "stop_token_ids: expected token ids, found 5"),
        ({"stop_token_ids": "5"}, "stop_token_ids: expected token ids, found '5'"),
        ({"stop_token_ids": ([],)}, "stop_token_ids: expected an integer from 0 to 9, found []"),
        ({"regex": "\ud800"}, r"regex: expected no half of a surrogate pair, found '\ud800'"),
        ({"grammar": "a\udfff"}, r"grammar: expected no half of a surrogate pair, found 'a\udfff'"),
        ({"seed": 10**5000}, f"seed: expected an integer from 0 to {2**64 - 1}, found a value of type int"),
    ],
)
def test_the_rest_is_checked_too(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(RequestError) as caught:
        check_params(GenerationParams(**values), 10)
    assert str(caught.value) == problem


@pytest.mark.parametrize(
    ("biases", "problem"),
    [
        (5, "expected pairs of token and bias, found 5"),
        ("ab", "expected pairs of token and bias, found 'ab'"),
        ({1: 2.0}, "expected pairs of token and bias, found {1: 2.0}"),
        ((7, 1.0), "expected pairs of token and bias, found 7"),
        ((("7",),), "expected pairs of token and bias, found ('7',)"),
        ((("7", 1.0),), "expected an integer from 0 to 9, found '7'"),
        ((([], 1.0),), "expected an integer from 0 to 9, found []"),
        (((10, 1.0),), "expected an integer from 0 to 9, found 10"),
        (((7, float("nan")),), "expected a number from -100.0 to 100.0, found nan"),
        (((7, float("inf")),), "expected a number from -100.0 to 100.0, found inf"),
        (((7, -1e39),), "expected a number from -100.0 to 100.0, found -1e+39"),
        (((7, 100.5),), "expected a number from -100.0 to 100.0, found 100.5"),
        (((7, "x"),), "expected a number from -100.0 to 100.0, found 'x'"),
        (((7, True),), "expected a number from -100.0 to 100.0, found True"),
        (((7, 1.0), (3, 1.0), (7, 2.0)), "expected each token once, found 7 twice"),
        (((7, 1.0),) * (MAX_BIASES + 1), f"expected at most {MAX_BIASES} tokens, found {MAX_BIASES + 1}"),
    ],
)
def test_biases_that_are_none(biases: Any, problem: str) -> None:
    with pytest.raises(RequestError) as caught:
        check_params(GenerationParams(logit_bias=biases), 10)
    assert (str(caught.value), caught.value.parameter) == (f"logit_bias: {problem}", "logit_bias")


def test_biases_up_to_their_limits() -> None:
    check_params(GenerationParams(logit_bias=((0, -MAX_BIAS), (9, MAX_BIAS), (3, 1))), 10)
    check_params(GenerationParams(logit_bias=tuple((token, 0.5) for token in range(MAX_BIASES))), MAX_BIASES)


@pytest.mark.parametrize("value", [{1, 2}, b"a", [1, {"deep": 1j}], {(1, 2): 3}])
def test_a_schema_is_json(value: Any) -> None:
    with pytest.raises(RequestError, match=r"^json_schema: expected JSON, found \{'enum': .*\}: \w"):
        check_params(GenerationParams(json_schema={"enum": value}), 10)
    endless: dict[str, Any] = {}
    endless["not"] = endless
    with pytest.raises(RequestError, match=r"^json_schema: expected JSON, found \{'not': \{...\}\}: Circular"):
        check_params(GenerationParams(json_schema=endless), 10)


def test_one_constraint_at_most() -> None:
    for name, value in (("json_schema", {}), ("regex", "a"), ("grammar", "b")):
        values: dict[str, Any] = {name: value}
        spec = GenerationParams(**values).constraint()
        assert spec is not None
        assert (spec.kind, spec.source, spec.parameter) == (name, value, name)
    assert GenerationParams().constraint() is None
