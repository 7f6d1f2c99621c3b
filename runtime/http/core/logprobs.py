"""Log-probabilities of tokens, as the chats of several APIs have them."""

from __future__ import annotations

from collections.abc import Iterable

from ....artifacts.errors import RequestError
from ...engine.generation import GenerationRequest
from ...engine.logprobs import TokenLogprobs
from .schema import ChatLogprobs, TokenLogprob, TopLogprob
from .text_apis import TokenizerApi

LEAST = -9999.0  # stands for minus infinity, which JSON cannot say, as OpenAI's API has it
MAX_SCORES = 1 << 18
"""Log-probabilities of prompts in one answer: each takes a hundred bytes here, and as many as JSON."""


def check_scores(requests: Iterable[GenerationRequest]) -> None:
    """Check how much an answer would have to say of its prompts.

    Raises:
        RequestError: it is too much.
    """
    asked = [(len(request.prompt_token_ids), request.prompt_logprobs) for request in requests]
    count = sum(tokens * (1 + top) for tokens, top in asked if top is not None)
    if count > MAX_SCORES:
        raise RequestError(
            "prompt", f"expected prompts of at most {MAX_SCORES} log-probabilities in all, found {count}: ask for less"
        )


def chat_logprobs(tokenizer: TokenizerApi, entries: Iterable[TokenLogprobs]) -> ChatLogprobs:
    """`logprobs` of a chat's choice or chunk."""
    return ChatLogprobs(content=[_entry(tokenizer, entry) for entry in entries])


def _entry(tokenizer: TokenizerApi, entry: TokenLogprobs) -> TokenLogprob:
    top = [
        TopLogprob(token=token_text(tokenizer, token), logprob=finite(logprob), bytes=_exact_bytes(tokenizer, token))
        for token, logprob in entry.top
    ]
    return TokenLogprob(
        token=token_text(tokenizer, entry.token),
        logprob=finite(entry.logprob),
        bytes=_exact_bytes(tokenizer, entry.token),
        top_logprobs=top,
    )


def token_text(tokenizer: TokenizerApi, token: int) -> str:
    """Text of one token; U+FFFD where it is a part of a character."""
    return tokenizer.token_bytes(token, skip_special=False).decode("utf-8", "replace")


def _exact_bytes(tokenizer: TokenizerApi, token: int) -> list[int]:
    return list(tokenizer.token_bytes(token, skip_special=False))


def finite(logprob: float) -> float:
    """A log-probability that JSON can say."""
    return max(logprob, LEAST)
