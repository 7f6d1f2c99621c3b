"""What a client of llama.cpp's `/completion` asks for, in the terms of this server."""

from __future__ import annotations

from dataclasses import replace

from ..generation import RequestError, SamplingParams
from .body import kind_of
from .conditions import Conditions, check_token_ids, read_conditions
from .errors import UnsupportedError
from .schema.common import SamplingFields
from .schema.llama_cpp import LlamaCompletionRequest
from .service import Service

# Source: the README of llama.cpp's server; but for repeat_penalty, which there sees the last 64 tokens alone.
DEFAULT_SAMPLING = SamplingParams(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05)
MAX_PROMPTS = 64
MAX_BIAS = 100.0
RANDOM_SEEDS = (-1, 2**32 - 1)
_OFF_UNLESS = ("dynatemp_range", "dry_multiplier", "xtc_probability", "mirostat", "post_sampling_probs")


def read_prompts(service: Service, value: object) -> list[tuple[int, ...]]:
    """Token ids of each prompt; BOS stands before text that begins one.

    Raises:
        RequestError: they are no prompts, or more than `MAX_PROMPTS`.
    """
    if not isinstance(value, list) or _is_mixed(value):
        return [_prompt(service, value)]
    if not 1 <= len(value) <= MAX_PROMPTS:
        raise RequestError("prompt", f"expected 1 to {MAX_PROMPTS} prompts, found {len(value)}")
    return [_prompt(service, one) for one in value]


def _is_mixed(value: list[object]) -> bool:
    """Whether an array is one prompt: token ids, or these and texts."""
    return any(isinstance(item, int) for item in value)


def _prompt(service: Service, value: object) -> tuple[int, ...]:
    if isinstance(value, dict) and "prompt_string" in value:
        if value.get("multimodal_data"):
            raise UnsupportedError("prompt.multimodal_data", "the model reads text alone")
        value = value["prompt_string"]
    if isinstance(value, str):
        return service.prompt_ids(value)
    if not isinstance(value, list):
        raise RequestError("prompt", f"expected a string, token ids, or an array of these, found {kind_of(value)}")
    return read_mixed(service, value, "prompt", True, True)


def read_mixed(
    service: Service, values: list[object], parameter: str, add_special: bool, parse_special: bool
) -> tuple[int, ...]:
    """Token ids of texts and token ids in a row.

    Args:
        parameter: what names them in the request.
        add_special: whether text that comes first has BOS before it.
        parse_special: whether the text of control tokens stands for them.

    Raises:
        RequestError: something else is among them, or an id that is none of the model's.
    """
    ids: list[int] = []
    for index, value in enumerate(values):
        if isinstance(value, str):
            ids += service.tokenizer.encode(value, add_special and index == 0, parse_special)
        elif isinstance(value, int) and not isinstance(value, bool):
            ids.append(value)
        else:
            raise RequestError(f"{parameter}[{index}]", f"expected a string or a token id, found {kind_of(value)}")
    return check_token_ids(parameter, ids, service.engine.vocab_size)


def read_call(body: LlamaCompletionRequest, vocab_size: int) -> tuple[Conditions, int | None]:
    """Conditions, and the most tokens: fewer where the context ends; None: only there.

    Raises:
        RequestError: names the parameter at fault.
    """
    for name in _OFF_UNLESS:
        if getattr(body, name):
            raise UnsupportedError(name)
    if body.n_predict == 0:
        raise RequestError("n_predict", "expected -1, or at least 1, found 0")
    fields = SamplingFields(
        temperature=body.temperature,
        top_k=body.top_k,
        top_p=body.top_p,
        min_p=body.min_p,
        typical_p=body.typical_p,
        repetition_penalty=None if body.repeat_last_n == 0 else body.repeat_penalty,  # of the last 0 tokens: none
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        seed=None if body.seed in RANDOM_SEEDS else body.seed,
        stop=body.stop,
        ignore_eos=body.ignore_eos,
        logit_bias=_logit_bias(body),
        grammar=body.grammar,
        json_schema=body.json_schema,
    )
    conditions = read_conditions(fields, None, vocab_size, DEFAULT_SAMPLING)
    limit = None if body.n_predict is None or body.n_predict < 0 else body.n_predict
    return replace(conditions, logprobs=body.n_probs or None), limit


def _logit_bias(body: LlamaCompletionRequest) -> dict[str, float]:
    """Pairs, in which `false` rules a token out, or an object."""
    given = body.logit_bias or {}
    pairs = list(given.items()) if isinstance(given, dict) else [(str(token), bias) for token, bias in given]
    biases = {token: -MAX_BIAS if bias is False else float(bias) for token, bias in pairs}
    for bias in biases.values():
        if abs(bias) > MAX_BIAS:
            raise RequestError("logit_bias", f"expected biases from {-MAX_BIAS} to {MAX_BIAS}, found {bias}")
    return biases
