"""Request bodies of the three generation endpoints, as validated values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ..constraints import ConstraintSpec
from ..generation import RequestError, SamplingParams
from .body import Fields, wrong
from .errors import UnsupportedError
from .messages import read_messages

MAX_TOKENS_LIMIT = 2**31 - 1
MAX_STOPS = 16
MAX_STOP_CHARS = 1024
MAX_TOP_LOGPROBS = 20
MAX_BIASES = 1024
SEED_BITS = 64


@dataclass(frozen=True, slots=True)
class Conditions:
    """How a continuation is drawn and when it ends, whatever the endpoint.

    `max_tokens` None: the request did not say.
    """

    max_tokens: int | None
    sampling: SamplingParams
    stop: tuple[str, ...]
    ignore_eos: bool
    stop_token_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    constraint: ConstraintSpec | None = None


@dataclass(frozen=True, slots=True)
class Streaming:
    """Whether to stream, and whether the stream ends with usage."""

    stream: bool
    include_usage: bool


@dataclass(frozen=True, slots=True)
class GenerateCall:
    """Body of `/generate` and `/generate/stream`."""

    prompt: str
    conditions: Conditions


@dataclass(frozen=True, slots=True)
class CompletionCall:
    """Body of `/v1/completions`; `prompt` is a text or token ids."""

    prompt: str | tuple[int, ...]
    echo: bool
    conditions: Conditions
    streaming: Streaming


@dataclass(frozen=True, slots=True)
class ChatCall:
    """Body of `/v1/chat/completions`."""

    messages: tuple[dict[str, object], ...]
    conditions: Conditions
    streaming: Streaming


def read_generate(body: Fields, vocab_size: int) -> GenerateCall:
    """Validate a native request.

    Raises:
        RequestError: names the parameter at fault.
    """
    return GenerateCall(body.text("prompt"), _conditions(body, "max_tokens", vocab_size, top_k=50, top_p=0.9))


def read_completion(body: Fields, vocab_size: int) -> CompletionCall:
    """Validate a text completion.

    Raises:
        RequestError: names the parameter at fault.
    """
    _refuse_several(body, "n")
    _refuse_several(body, "best_of")
    _refuse_set(body, "suffix")
    echo, logprobs = body.boolean("echo"), body.integer("logprobs", 0, MAX_TOP_LOGPROBS)
    if echo and logprobs is not None:
        raise UnsupportedError("logprobs", "not supported together with echo: those of the prompt are not known")
    return CompletionCall(
        prompt=_prompt(body.get("prompt"), vocab_size),
        echo=echo,
        conditions=replace(_conditions(body, "max_tokens", vocab_size), logprobs=logprobs),
        streaming=_streaming(body),
    )


def read_chat(body: Fields, vocab_size: int) -> ChatCall:
    """Validate a chat completion.

    Raises:
        RequestError: names the parameter at fault.
    """
    _refuse_several(body, "n")
    _refuse_set(body, "tools", "functions", "audio")
    if body.get("tool_choice") not in (None, "none", "auto"):
        raise UnsupportedError("tool_choice")
    newer = body.get("max_completion_tokens") is not None
    return ChatCall(
        messages=read_messages(body.array("messages")),
        conditions=replace(
            _conditions(body, "max_completion_tokens" if newer else "max_tokens", vocab_size),
            logprobs=_chat_logprobs(body),
        ),
        streaming=_streaming(body),
    )


def _refuse_several(body: Fields, name: str) -> None:
    count = body.integer(name, 1, 128)
    if count is not None and count > 1:
        raise UnsupportedError(name, f"only 1 is supported, found {count}")


def _refuse_set(body: Fields, *names: str) -> None:
    """Refuse parameters that would change the answer, unless they say "nothing"."""
    for name in names:
        value = body.get(name)
        if value is not None and value is not False and value not in ("", [], {}):
            raise UnsupportedError(name)


def _chat_logprobs(body: Fields) -> int | None:
    top = body.integer("top_logprobs", 0, MAX_TOP_LOGPROBS)
    if body.boolean("logprobs"):
        return top or 0
    if top:
        raise RequestError("top_logprobs", "expected logprobs to be true beside it")
    return None


def _constraint(body: Fields) -> ConstraintSpec | None:
    """What the output must match: by `response_format`, or by `regex` or `grammar` (Lark); one of them at most."""
    found = [
        spec for spec in (_response_format(body), _expression(body, "regex"), _expression(body, "grammar")) if spec
    ]
    if len(found) > 1:
        raise RequestError(found[1].parameter, f"expected no other constraint beside {found[0].parameter}")
    return found[0] if found else None


def _expression(body: Fields, name: Literal["regex", "grammar"]) -> ConstraintSpec | None:
    source = body.optional_text(name)
    return None if source is None else ConstraintSpec(name, source, name)


def _response_format(body: Fields) -> ConstraintSpec | None:
    fields = body.object("response_format")
    kind = fields.get("type")
    if kind in (None, "text"):
        return None
    if kind == "json_object":
        return ConstraintSpec("json_object", None, "response_format")
    if kind != "json_schema":
        raise wrong("response_format.type", "text, json_object or json_schema", kind)
    schema = fields.object("json_schema").get("schema")
    if not isinstance(schema, dict):
        raise wrong("response_format.json_schema.schema", "an object", schema)
    return ConstraintSpec("json_schema", schema, "response_format")


def _logit_bias(body: Fields, vocab_size: int) -> tuple[tuple[int, float], ...]:
    """Token ids, which JSON spells as strings, to biases."""
    fields = body.object("logit_bias")
    if len(fields.values) > MAX_BIASES:
        raise RequestError("logit_bias", f"expected at most {MAX_BIASES} tokens, found {len(fields.values)}")
    biases: dict[int, float] = {}
    for key in fields.values:
        if not (key.isascii() and key.isdigit() and len(key) <= 9 and int(key) < vocab_size):
            raise wrong("logit_bias", f"token ids from 0 to {vocab_size - 1}", key)
        try:
            biases[int(key)] = fields.number(key, 0.0, -100.0, 100.0)
        except RequestError as error:
            raise RequestError("logit_bias", str(error)) from None
    return tuple(biases.items())


def _stop_token_ids(body: Fields, vocab_size: int) -> tuple[int, ...]:
    values = body.array("stop_token_ids") if body.get("stop_token_ids") is not None else []
    if len(values) > MAX_STOPS:
        raise RequestError("stop_token_ids", f"expected at most {MAX_STOPS} token ids, found {len(values)}")
    return _token_ids("stop_token_ids", values, vocab_size)


def _conditions(body: Fields, max_tokens_name: str, vocab_size: int, top_k: int = 0, top_p: float = 1.0) -> Conditions:
    asked_top_k = body.integer("top_k", 0, vocab_size)
    sampling = SamplingParams(
        temperature=body.number("temperature", 1.0, 0.0, 2.0),
        top_k=min(top_k, vocab_size) if asked_top_k is None else asked_top_k,
        top_p=body.number("top_p", top_p, 0.0, 1.0),
        min_p=body.number("min_p", 0.0, 0.0, 1.0),
        repetition_penalty=body.number("repetition_penalty", 1.0, 0.01, 10.0),
        presence_penalty=body.number("presence_penalty", 0.0, -2.0, 2.0),
        frequency_penalty=body.number("frequency_penalty", 0.0, -2.0, 2.0),
        seed=_seed(body),
        typical_p=body.number("typical_p", 1.0, 0.0, 1.0),
        logit_bias=_logit_bias(body, vocab_size),
    )
    max_tokens = body.integer(max_tokens_name, 1, MAX_TOKENS_LIMIT)
    return Conditions(
        max_tokens,
        sampling,
        _stop(body.get("stop")),
        body.boolean("ignore_eos"),
        _stop_token_ids(body, vocab_size),
        constraint=_constraint(body),
    )


def _seed(body: Fields) -> int | None:
    """Any 64-bit integer, signed or not; the engine takes it as unsigned."""
    seed = body.integer("seed", -(2 ** (SEED_BITS - 1)), 2**SEED_BITS - 1)
    return None if seed is None else seed % 2**SEED_BITS


def _stop(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    stops = value if isinstance(value, list) else [value]
    if len(stops) > MAX_STOPS:
        raise RequestError("stop", f"expected at most {MAX_STOPS} strings, found {len(stops)}")
    texts: list[str] = []
    for stop in stops:
        if not isinstance(stop, str) or not 1 <= len(stop) <= MAX_STOP_CHARS:
            raise wrong("stop", f"strings of 1 to {MAX_STOP_CHARS} characters", stop)
        texts.append(stop)
    return tuple(texts)


def _streaming(body: Fields) -> Streaming:
    return Streaming(body.boolean("stream"), body.object("stream_options").boolean("include_usage"))


def _prompt(value: object, vocab_size: int) -> str | tuple[int, ...]:
    """A text, token ids, or an array of one of them."""
    if isinstance(value, list) and value and isinstance(value[0], str | list):
        if len(value) > 1:
            raise UnsupportedError("prompt", f"only one prompt is supported, found {len(value)}")
        value = value[0]
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise wrong("prompt", "a string or an array of token ids", value)
    return _token_ids("prompt", value, vocab_size)


def _token_ids(name: str, values: list[object], vocab_size: int) -> tuple[int, ...]:
    ids: list[int] = []
    for item in values:
        if not isinstance(item, int) or isinstance(item, bool) or not 0 <= item < vocab_size:
            raise wrong(name, f"token ids from 0 to {vocab_size - 1}", item)
        ids.append(item)
    return tuple(ids)
