"""How a text goes on and when it ends, as a program asks for it, and as the engine takes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from ..artifacts.dataclass import dataclass
from ..artifacts.errors import RequestError, shown
from ..artifacts.sampling import MAX_BIAS, MAX_BIASES, PARAMETERS, values_of
from ..runtime.engine.embeddings import AdapterScales
from ..runtime.engine.generation import Constraint, GenerationRequest, SamplingParams
from .checks import check_json, check_text, is_list

if TYPE_CHECKING:
    from ..runtime.text.constraints import ConstraintSpec, Kind

_MAX_SEED: Final = 2**64 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationParams(SamplingParams):
    """How a text goes on and when it ends. By default tokens are drawn as the model has them, until it ends the text.

    `temperature`, `top_k`, `top_p`, `min_p`, `typical_p`, the penalties, `seed` and `logit_bias` are those of
    `SamplingParams`; with a seed the same request gives the same text.

    Attributes:
        max_tokens: most tokens; None: as many as the context leaves.
        stop: strings that end the text, and are no part of it.
        stop_token_ids: tokens that do so.
        ignore_eos: go on where the model would end.
        logprobs: give each token's log-probability, and those of so many of the likeliest; None: give none.
        json_schema: the text must match this schema.
        regex: it must match this expression.
        grammar: it must match this grammar: llama.cpp's GBNF, or Lark's language.
    """

    max_tokens: int | None = None
    stop: str | tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    json_schema: Mapping[str, Any] | None = None
    regex: str | None = None
    grammar: str | None = None

    def constraint(self) -> ConstraintSpec | None:
        """What the text must match.

        Raises:
            RequestError: there is more than one.
        """
        known: dict[Kind, Any] = {"json_schema": self.json_schema, "regex": self.regex, "grammar": self.grammar}
        found = [(kind, value) for kind, value in known.items() if value is not None]
        if not found:
            return None
        (kind, value), *others = found
        if others:
            raise RequestError(others[0][0], f"expected no other constraint beside {kind}")
        from ..runtime.text.constraints import ConstraintSpec  # noqa: PLC0415 - few texts are held to something

        return ConstraintSpec(kind, value, kind)


def params_of(sampling: SamplingParams, max_tokens: int | None = None) -> GenerationParams:
    """These ways to draw a token, and how many."""
    return GenerationParams(
        **values_of(sampling), seed=sampling.seed, logit_bias=sampling.logit_bias, max_tokens=max_tokens
    )


def request_of(
    prompt: tuple[int, ...],
    params: GenerationParams,
    constraint: Constraint | None,
    max_context: int,
    adapters: AdapterScales = (),
) -> GenerationRequest:
    """A prompt and what is asked for, as the engine takes it.

    Raises:
        RequestError: the prompt leaves no room in the context.
    """
    room = max_context - len(prompt)
    if room < 1 and params.max_tokens != 0:
        raise RequestError("prompt", f"expected fewer than {max_context} tokens (the context), found {len(prompt)}")
    return GenerationRequest(
        prompt,
        room if params.max_tokens is None else params.max_tokens,
        SamplingParams(**values_of(params), seed=params.seed, logit_bias=params.logit_bias),
        (params.stop,) if isinstance(params.stop, str) else tuple(params.stop),
        params.ignore_eos,
        tuple(params.stop_token_ids),
        params.logprobs,
        constraint,
        adapters=adapters,
    )


def check_params(params: GenerationParams, vocab_size: int) -> None:
    """Hold each value against what is allowed.

    Raises:
        RequestError: names the field at fault.
    """
    if not isinstance(params, GenerationParams):
        raise RequestError("params", f"expected GenerationParams, found {shown(params)}")
    for name, one in PARAMETERS.items():
        low, high = one.allowed.low, one.allowed.high
        _check_number(name, getattr(params, name), low, high, whole=one.kind is int)
    if params.seed is not None:
        _check_number("seed", params.seed, 0, _MAX_SEED)
    if params.max_tokens is not None:
        _check_number("max_tokens", params.max_tokens, 0, 2**31 - 1)
    if params.logprobs is not None:
        _check_number("logprobs", params.logprobs, 0, vocab_size)
    if not is_list(params.stop_token_ids):
        raise RequestError("stop_token_ids", f"expected token ids, found {shown(params.stop_token_ids)}")
    for token in params.stop_token_ids:
        _check_number("stop_token_ids", token, 0, vocab_size - 1)
    _check_biases(params.logit_bias, vocab_size)
    stops = (params.stop,) if isinstance(params.stop, str) else params.stop
    if not is_list(stops) or not all(isinstance(text, str) and text for text in stops):
        raise RequestError("stop", f"expected texts that are not empty, found {shown(params.stop)}")
    if params.json_schema is not None:
        check_json("json_schema", params.json_schema)
    for name, text in (("regex", params.regex), ("grammar", params.grammar)):
        if text is not None:
            _check_source(name, text)


def _check_source(name: str, text: object) -> None:
    check_text(name, text)
    try:
        str(text).encode()
    except UnicodeEncodeError:
        raise RequestError(name, f"expected no half of a surrogate pair, found {shown(text)}") from None


def _check_biases(biases: object, vocab_size: int) -> None:
    name = "logit_bias"
    if not is_list(biases):
        raise RequestError(name, f"expected pairs of token and bias, found {shown(biases)}")
    if len(biases) > MAX_BIASES:
        raise RequestError(name, f"expected at most {MAX_BIASES} tokens, found {len(biases)}")
    tokens = set()
    for pair in biases:
        if not is_list(pair) or len(pair) != 2:
            raise RequestError(name, f"expected pairs of token and bias, found {shown(pair)}")
        token, bias = pair
        _check_number(name, token, 0, vocab_size - 1)
        _check_number(name, bias, -MAX_BIAS, MAX_BIAS, whole=False)
        if token in tokens:  # the kernel adds each by itself: no two threads may meet at one
            raise RequestError(name, f"expected each token once, found {token} twice")
        tokens.add(token)


def _check_number(name: str, value: object, low: float, high: float, whole: bool = True) -> None:
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not low <= value <= high:
        kind = "an integer" if whole else "a number"
        raise RequestError(name, f"expected {kind} from {low} to {high}, found {shown(value)}")
