"""The numbers that steer how a token is drawn, each declared here alone.

The schemas of HTTP and their readers, the checks of the library, the message to a worker and the record that kernels
read (`abi.SAMPLING`, by the same names) are filled from this declaration.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Annotated, Any, Final

from .dataclass import dataclass

MAX_TOP_K: Final = 2**31 - 1
MAX_BIASES: Final = 1024
"""Tokens of a request to whose logits something is added, each once."""
MAX_BIAS: Final = 100.0
"""What is added to one at most, either way."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """Values that a request may ask for.

    Attributes:
        low, high: least and greatest.
        note: what a special value means, for who reads the schema.
        weighs_history: whether it judges a token by how often it came before.
    """

    low: float
    high: float
    note: str | None = None
    weighs_history: bool = False


@dataclass(frozen=True, slots=True)
class SamplingNumbers:
    """Numbers of one request or one row of logits; by default none of them changes what the model says.

    Attributes:
        temperature: 0: the most likely token.
        top_k: so many of the likeliest tokens stay; 0: all.
        top_p: the fewest likeliest tokens stay that together have this probability; 1: all.
        min_p: tokens stay that are at least so likely, as a part of the likeliest's probability; 0: all.
        typical_p: locally typical sampling, the last of the filters; 1: off.
        repetition_penalty: as in CTRL: divides positive logits, multiplies negative ones, of every token of prompt and
            output; 1: off.
        presence_penalty, frequency_penalty: as OpenAI defines them, over the output alone; 0: off.
    """

    temperature: Annotated[float, Allowed(0.0, 2.0, "0: always the likeliest token.")] = 1.0
    top_k: Annotated[int, Allowed(-1, MAX_TOP_K, "0 or -1: off.")] = 0
    top_p: Annotated[float, Allowed(0.0, 1.0)] = 1.0
    min_p: Annotated[float, Allowed(0.0, 1.0)] = 0.0
    typical_p: Annotated[float, Allowed(0.0, 1.0)] = 1.0
    repetition_penalty: Annotated[float, Allowed(0.01, 10.0, "1: off.", weighs_history=True)] = 1.0
    presence_penalty: Annotated[float, Allowed(-2.0, 2.0, weighs_history=True)] = 0.0
    frequency_penalty: Annotated[float, Allowed(-2.0, 2.0, weighs_history=True)] = 0.0


@dataclass(frozen=True, slots=True)
class Parameter:
    """One of the numbers: `kind` is int or float, `default` the value that changes nothing."""

    kind: type[int] | type[float]
    default: float
    allowed: Allowed


def _declared() -> dict[str, Parameter]:
    hints, default = typing.get_type_hints(SamplingNumbers, include_extras=True), SamplingNumbers()
    kinds = {name: typing.get_args(hint) for name, hint in hints.items()}
    return {name: Parameter(kind, getattr(default, name), allowed) for name, (kind, allowed) in kinds.items()}


PARAMETERS: Final[Mapping[str, Parameter]] = _declared()
"""All of them, by name, in the order of their declaration."""


def values_of(numbers: SamplingNumbers) -> dict[str, Any]:
    """Return the values of all numbers, by name."""
    return {name: getattr(numbers, name) for name in PARAMETERS}


def weighs_history(numbers: SamplingNumbers) -> bool:
    """Return whether a number that judges tokens by how often they came before is not at its default."""
    return any(getattr(numbers, name) != one.default for name, one in PARAMETERS.items() if one.allowed.weighs_history)
