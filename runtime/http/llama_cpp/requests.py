"""What a client of llama.cpp's `/completion` asks for, in the terms of this server."""

from __future__ import annotations

from dataclasses import replace

from ....artifacts.errors import RequestError
from ...engine.generation import SamplingParams
from ...text.tokenizer import TooManyTokensError
from ..core.body import kind_of
from ..core.conditions import Conditions, check_token_ids, read_conditions
from ..core.errors import UnsupportedError
from ..core.sampling_schema import repeat_numbers
from ..core.schema import SamplingFields
from ..core.service import Look, Service, TokenizerApi
from .schema import LlamaCompletionRequest

# Source: the README of llama.cpp's server; but for repeat_penalty, which there sees the last 64 tokens alone.
DEFAULT_SAMPLING = SamplingParams(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05)
MAX_PROMPTS = 64
MAX_BIAS = 100.0
MAX_DIGITS = 9
RANDOM_SEEDS = (-1, 2**32 - 1)
_OFF_UNLESS = ("dynatemp_range", "dry_multiplier", "xtc_probability", "mirostat", "post_sampling_probs")


def read_prompts(
    service: Service,
    value: object,
    look: Look,
    name: str = "prompt",
    most: int = MAX_PROMPTS,
    cut: bool = False,
    parse_special: bool = True,
) -> list[tuple[int, ...]]:
    """Token ids of each prompt; BOS stands before text that begins one.

    Args:
        value: a prompt, which is a text, token ids, both mixed, `{"prompt_string": text}` or `{"content": parts}`; or
            an array of these.
        look: see `Look`.
        name: what names them in the request.
        most: prompts.
        cut: of a prompt that is far too long, as many tokens as the context has do.
        parse_special: whether the text of control tokens stands for them.

    Raises:
        ContextLengthError: one is far too long.
        RequestError: they are no prompts, or more than `most`.
    """
    if not isinstance(value, list) or _is_mixed(value):
        return [_prompt(service, value, look, name, cut, parse_special)]
    if not 1 <= len(value) <= most:
        raise RequestError(name, f"expected 1 to {most} texts, found {len(value)}")
    return [_prompt(service, one, look, name, cut, parse_special) for one in value]


def _is_mixed(value: list[object]) -> bool:
    """Whether an array is one prompt: token ids, or these and texts."""
    return any(isinstance(item, int) for item in value)


def _prompt(service: Service, value: object, look: Look, name: str, cut: bool, parse_special: bool) -> tuple[int, ...]:
    if isinstance(value, dict) and "prompt_string" in value:
        if value.get("multimodal_data"):
            raise UnsupportedError(f"{name}.multimodal_data", "the model reads text alone")
        value = value["prompt_string"]
    elif isinstance(value, dict) and "content" in value:
        value = _text_of_parts(value["content"], f"{name}.content")
    if not isinstance(value, str | list):
        raise RequestError(name, f"expected a string, token ids, or an array of these, found {kind_of(value)}")
    try:
        if isinstance(value, str):
            return service.cache.encode(value, True, parse_special, service.most_tokens, look)
        return read_mixed(service, value, name, True, parse_special, service.most_tokens, look)
    except TooManyTokensError as error:
        if cut and len(error.ids) >= service.engine.max_context:
            return tuple(error.ids)
        raise service.too_long(error.count) from None


def _text_of_parts(parts: object, name: str) -> str:
    if not isinstance(parts, list):
        raise RequestError(name, f"expected an array of parts, found {kind_of(parts)}")
    texts = []
    for index, part in enumerate(parts):
        if not (isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)):
            raise UnsupportedError(f"{name}[{index}]", "expected a part of type text: the model reads text alone")
        texts.append(part["text"])
    return "".join(texts)


def read_mixed(
    service: Service,
    values: list[object],
    parameter: str,
    add_special: bool,
    parse_special: bool,
    most: int,
    look: Look,
) -> tuple[int, ...]:
    """Token ids of texts and token ids in a row.

    Args:
        parameter: what names them in the request.
        add_special: whether text that comes first has BOS before it.
        parse_special: whether the text of control tokens stands for them.
        most: tokens of the texts.
        look: see `Look`.

    Raises:
        TooManyTokensError: there are more.
        RequestError: something else is among them, or an id that is none of the model's.
    """
    ids: list[int] = []
    for index, value in enumerate(values):
        if isinstance(value, str):
            try:
                ids += service.tokenizer.encode(value, add_special and index == 0, parse_special, most - len(ids), look)
            except TooManyTokensError as error:
                raise TooManyTokensError(ids + error.ids, len(ids) + error.count) from None
        elif isinstance(value, int) and not isinstance(value, bool):
            ids.append(value)
        else:
            raise RequestError(f"{parameter}[{index}]", f"expected a string or a token id, found {kind_of(value)}")
    return check_token_ids(parameter, ids, service.engine.vocab_size)


def read_call(body: LlamaCompletionRequest, service: Service) -> tuple[Conditions, int | None]:
    """Conditions, and the most tokens: fewer where the context ends; None: only there.

    Raises:
        RequestError: names the parameter at fault.
    """
    for name in _OFF_UNLESS:
        if getattr(body, name):
            raise UnsupportedError(name)
    fields = SamplingFields(
        **repeat_numbers(body),
        seed=None if body.seed in RANDOM_SEEDS else body.seed,
        stop=body.stop,
        ignore_eos=body.ignore_eos,
        logit_bias=_logit_bias(body, service.tokenizer),
        grammar=body.grammar,
        json_schema=body.json_schema,
    )
    asked = 0 if body.n_predict == 0 else None  # others are cut to what the context leaves
    conditions = read_conditions(fields, asked, service.engine.vocab_size, DEFAULT_SAMPLING)
    limit = None if body.n_predict is None or body.n_predict < 0 else body.n_predict
    return replace(conditions, logprobs=body.n_probs or None), limit


def _logit_bias(body: LlamaCompletionRequest, tokenizer: TokenizerApi) -> dict[str, float]:
    """Pairs, or an object, of a token or a text, whose tokens are meant, and a bias; `false` rules it out.

    With `ignore_eos` the tokens that end a text are ruled out.
    """
    given = body.logit_bias or []
    pairs = [(_token_or_text(key), bias) for key, bias in given.items()] if isinstance(given, dict) else given
    if body.ignore_eos:
        pairs = [*pairs, *((token, False) for token in tokenizer.config.eos_token_ids)]
    biases: dict[str, float] = {}
    for key, bias in pairs:
        value = -MAX_BIAS if bias is False else float(bias)
        if abs(value) > MAX_BIAS:
            raise RequestError("logit_bias", f"expected biases from {-MAX_BIAS} to {MAX_BIAS}, found {value}")
        tokens = [key] if isinstance(key, int) else tokenizer.encode(key, add_special=False, parse_special=False)
        biases |= {str(token): value for token in tokens}
    return biases


def _token_or_text(key: str) -> int | str:
    return int(key) if key.isascii() and key.isdigit() and len(key) <= MAX_DIGITS else key
