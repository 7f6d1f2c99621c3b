"""The fields of a request that steer sampling, as the engine takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from ....artifacts.dataclass import dataclass
from ....artifacts.errors import RequestError
from ....artifacts.sampling import MAX_BIASES
from ...engine.generation import SamplingParams
from ...text.constraints import ConstraintSpec
from .body import kind_of
from .sampling_schema import numbers_of
from .schema import ResponseFormat, SamplingFields

SEED_BITS = 64
DEFAULT_SAMPLING = SamplingParams()


@dataclass(frozen=True, slots=True)
class GenerationParams:
    """How a continuation is drawn and when it ends, whatever the endpoint.

    `max_tokens` None: the request did not say. `lora`: numbers of adapters and their scales; None or empty: as the
    model's name or the server has it.
    """

    max_tokens: int | None = None
    sampling: SamplingParams = DEFAULT_SAMPLING
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    stop_token_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    constraint: ConstraintSpec | None = None
    prompt_logprobs: int | None = None
    lora: tuple[tuple[int, float], ...] | None = None


def read_params(
    fields: SamplingFields, max_tokens: int | None, vocab_size: int, default: SamplingParams = DEFAULT_SAMPLING
) -> GenerationParams:
    """Check what a schema cannot say, and fill in what the request does not.

    Raises:
        RequestError: names the parameter at fault.
    """
    given = {name: value for name, value in numbers_of(fields).items() if value is not None}
    if fields.repeat_penalty is not None and fields.repeat_last_n != 0:  # of the last 0 tokens: none
        given.setdefault("repetition_penalty", fields.repeat_penalty)
    given["top_k"] = min(max(given.get("top_k", default.top_k), 0), vocab_size)
    sampling = replace(
        default,
        **given,
        seed=read_seed(fields.seed),
        logit_bias=_logit_bias(fields.logit_bias or {}, vocab_size),
    )
    stop = fields.stop or ()
    return GenerationParams(
        max_tokens,
        sampling,
        (stop,) if isinstance(stop, str) else tuple(stop),
        fields.ignore_eos or False,
        check_token_ids("stop_token_ids", fields.stop_token_ids or (), vocab_size),
        constraint=_constraint(fields),
        lora=None if fields.lora is None else tuple((one.id, one.scale) for one in fields.lora),
    )


def read_seed(seed: int | None, name: str = "seed") -> int | None:
    """Any 64-bit integer, signed or not; the engine takes it as unsigned.

    Raises:
        RequestError: it has more bits.
    """
    if seed is None:
        return None
    low, high = -(2 ** (SEED_BITS - 1)), 2**SEED_BITS - 1
    if not low <= seed <= high:
        raise RequestError(name, f"expected an integer from {low} to {high}, found {kind_of(seed)}")
    return int(seed % 2**SEED_BITS)


def check_token_ids(name: str, values: Sequence[int], vocab_size: int) -> tuple[int, ...]:
    """Token ids of the model.

    Raises:
        RequestError: one of them is none.
    """
    for value in values:
        if not 0 <= value < vocab_size:
            raise RequestError(name, f"expected token ids from 0 to {vocab_size - 1}, found {kind_of(value)}")
    return tuple(values)


def constraint_of_format(value: ResponseFormat | None, name: str = "response_format") -> ConstraintSpec | None:
    """What `response_format` asks of the output.

    Raises:
        RequestError: it asks for a schema and brings none.
    """
    if value is None or value.type == "text":
        return None
    schema = value.schema if value.json_schema is None else value.json_schema.schema
    if schema is not None:
        return ConstraintSpec("json_schema", schema, name)
    if value.type == "json_schema":
        raise RequestError(f"{name}.json_schema", "expected an object with a schema, found nothing")
    return ConstraintSpec("json_object", None, name)


def _constraint(fields: SamplingFields) -> ConstraintSpec | None:
    """By `response_format`, or by `json_schema`, `regex` or `grammar` ("": none); one of them at most."""
    named: tuple[tuple[Literal["json_schema", "regex", "grammar"], object], ...] = (
        ("json_schema", fields.json_schema),
        ("regex", fields.regex),
        ("grammar", fields.grammar or None),
    )
    by_format = constraint_of_format(fields.response_format)
    found = [by_format] if by_format else []
    found += [ConstraintSpec(name, source, name) for name, source in named if source is not None]
    if len(found) > 1:
        raise RequestError(found[1].parameter, f"expected no other constraint beside {found[0].parameter}")
    return found[0] if found else None


def _logit_bias(biases: dict[str, float], vocab_size: int) -> tuple[tuple[int, float], ...]:
    """Token ids, which JSON spells as strings, to biases."""
    if len(biases) > MAX_BIASES:
        raise RequestError("logit_bias", f"expected at most {MAX_BIASES} tokens, found {len(biases)}")
    for key in biases:
        if not (key.isascii() and key.isdigit() and len(key) <= 9 and int(key) < vocab_size):
            raise RequestError("logit_bias", f"expected token ids from 0 to {vocab_size - 1}, found {kind_of(key)}")
    return tuple({int(key): value for key, value in biases.items()}.items())
