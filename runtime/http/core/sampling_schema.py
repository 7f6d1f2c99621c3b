"""The numbers that steer sampling as fields of requests: made of the declaration in `artifacts/sampling.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from msgspec import Meta, Struct, defstruct

from ....artifacts.sampling import PARAMETERS

REPEAT_NAMES: Final = {"repetition_penalty": "repeat_penalty"}
"""What llama.cpp and Ollama call those that they call otherwise."""

_LAST_N: Final = "repeat_last_n"
REPEAT_LAST_N: Final[dict[str, tuple[str, Any]]] = {"repetition_penalty": (_LAST_N, int | None)}
"""Over how many tokens llama.cpp and Ollama penalize; none switches that off."""


def _meta(name: str) -> Meta:
    allowed = PARAMETERS[name].allowed
    return Meta(ge=allowed.low, le=allowed.high, description=allowed.note)


Temperature = Annotated[float, _meta("temperature")]
TopP = Annotated[float, _meta("top_p")]
TopK = Annotated[int, _meta("top_k")]
RepetitionPenalty = Annotated[float, _meta("repetition_penalty")]


def with_numbers(
    name: str,
    base: type[Struct] = Struct,
    names: Mapping[str, str] | None = None,
    beside: Mapping[str, tuple[str, Any]] | None = None,
) -> Any:
    """A struct with a field for each number; None where a request does not say.

    Args:
        name: of the struct.
        base: a struct whose fields come before them.
        names: those that the API calls otherwise.
        beside: names and types of fields of the API that come after some of them.
    """
    fields: list[tuple[str, Any, None]] = []
    for parameter, one in PARAMETERS.items():
        kind: Any = one.kind
        fields.append(((names or {}).get(parameter, parameter), Annotated[kind, _meta(parameter)] | None, None))
        if beside and parameter in beside:
            fields.append((*beside[parameter], None))
    return defstruct(name, fields, bases=(base,), kw_only=True, module=__name__)


def numbers_of(fields: Struct, names: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What a request says of each number, by our name for it; None: nothing. `names` as in `with_numbers`."""
    return {name: getattr(fields, (names or {}).get(name, name)) for name in PARAMETERS}


def repeat_numbers(fields: Struct) -> dict[str, Any]:
    """`numbers_of` a request that has `REPEAT_NAMES` and `REPEAT_LAST_N`."""
    numbers = numbers_of(fields, REPEAT_NAMES)
    if getattr(fields, _LAST_N) == 0:  # of the last 0 tokens: none
        numbers["repetition_penalty"] = None
    return numbers
