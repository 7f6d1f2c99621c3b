"""The declaration of the numbers that steer sampling, against all that is filled from it."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import fields

from rocmforge.artifacts.abi import ROW_SCALARS, SAMPLING
from rocmforge.artifacts.sampling import PARAMETERS, SamplingNumbers, values_of, weighs_history
from rocmforge.runtime.engine.generation import SamplingParams
from rocmforge.runtime.http.core.schema import SamplingFields
from rocmforge.runtime.http.llama_cpp.schema import LlamaCompletionRequest
from rocmforge.runtime.http.ollama.schema import OllamaOptions


def test_kernels_have_each_number_by_its_name() -> None:
    """Beside them the record has the seed, and the index of the token."""
    assert set(ROW_SCALARS) - set(PARAMETERS) == {"seed", "counter"}
    kinds = {field.name: field.kind for field in SAMPLING}
    assert {kinds[name] for name, one in PARAMETERS.items() if one.kind is float} == {"float"}
    assert {name: kinds[name] for name, one in PARAMETERS.items() if one.kind is int} == {"top_k": "int32_t"}


def test_each_api_that_takes_all_of_them_takes_each() -> None:
    for struct in (SamplingFields, OllamaOptions, LlamaCompletionRequest):
        names = {field.name.replace("repeat_penalty", "repetition_penalty") for field in fields(struct)}
        assert set(PARAMETERS) <= names


def test_defaults_are_allowed_and_change_nothing() -> None:
    assert values_of(SamplingParams()) == {name: one.default for name, one in PARAMETERS.items()}
    for one in PARAMETERS.values():
        assert one.allowed.low <= one.default <= one.allowed.high
        assert type(one.default) is one.kind
    assert not weighs_history(SamplingParams(0.0, top_k=3, top_p=0.1, min_p=0.2, typical_p=0.5))


@pytest.mark.parametrize("name", ["repetition_penalty", "presence_penalty", "frequency_penalty"])
def test_penalties_need_to_know_what_came_before(name: str) -> None:
    values: dict[str, Any] = {name: 0.5}
    assert weighs_history(SamplingNumbers(**values))
