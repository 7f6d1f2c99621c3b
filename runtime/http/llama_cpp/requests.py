"""What a client of llama.cpp's `/completion` asks for, in the terms of this server."""

from __future__ import annotations

from dataclasses import replace

from ....artifacts.errors import RequestError
from ....artifacts.sampling import MAX_BIAS
from ...engine.generation import SamplingParams
from ..core.errors import UnsupportedError
from ..core.generation_params import GenerationParams, read_params
from ..core.sampling_schema import repeat_numbers
from ..core.schema import SamplingFields
from ..core.service import Service
from ..core.text_apis import TokenizerApi
from .schema import LlamaCompletionRequest

# Source: the README of llama.cpp's server; but for repeat_penalty, which there sees the last 64 tokens alone.
DEFAULT_SAMPLING = SamplingParams(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05)
MAX_DIGITS = 9
RANDOM_SEEDS = (-1, 2**32 - 1)
_OFF_UNLESS = ("dynatemp_range", "dry_multiplier", "xtc_probability", "mirostat", "post_sampling_probs")


def read_call(body: LlamaCompletionRequest, service: Service) -> tuple[GenerationParams, int | None]:
    """Parameters, and the most tokens: fewer where the context ends; None: only there.

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
        lora=body.lora,
    )
    asked = 0 if body.n_predict == 0 else None  # others are cut to what the context leaves
    params = read_params(fields, asked, service.engine.vocab_size, DEFAULT_SAMPLING)
    limit = None if body.n_predict is None or body.n_predict < 0 else body.n_predict
    return replace(params, logprobs=body.n_probs or None), limit


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
