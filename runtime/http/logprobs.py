"""Log-probabilities in the two shapes of OpenAI's API."""

from __future__ import annotations

from collections.abc import Iterable

from ..logprobs import TokenLogprobs
from .schema.openai import ChatLogprobs, CompletionLogprobs, TokenLogprob, TopLogprob
from .service import TokenizerApi

LEAST = -9999.0  # stands for minus infinity, which JSON cannot say, as OpenAI's API has it


def chat_logprobs(tokenizer: TokenizerApi, entries: Iterable[TokenLogprobs]) -> ChatLogprobs:
    """`logprobs` of a chat's choice or chunk."""
    return ChatLogprobs(content=[_entry(tokenizer, entry) for entry in entries])


def _entry(tokenizer: TokenizerApi, entry: TokenLogprobs) -> TokenLogprob:
    top = [
        TopLogprob(token=token_text(tokenizer, token), logprob=_finite(logprob), bytes=_exact_bytes(tokenizer, token))
        for token, logprob in entry.top
    ]
    return TokenLogprob(
        token=token_text(tokenizer, entry.token),
        logprob=_finite(entry.logprob),
        bytes=_exact_bytes(tokenizer, entry.token),
        top_logprobs=top,
    )


def completion_logprobs(tokenizer: TokenizerApi, entries: Iterable[TokenLogprobs], offset: int) -> CompletionLogprobs:
    """`logprobs` of a completion's choice or chunk, whose text begins at the character `offset` of the whole."""
    document = CompletionLogprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])
    for entry in entries:
        text = token_text(tokenizer, entry.token)
        document.tokens.append(text)
        document.token_logprobs.append(_finite(entry.logprob))
        # Tokens that are parts of characters may look the same: the likeliest of them is kept.
        top = {token_text(tokenizer, token): _finite(logprob) for token, logprob in reversed(entry.top)}
        document.top_logprobs.append(top)
        document.text_offset.append(offset)
        offset += len(text)
    return document


def token_text(tokenizer: TokenizerApi, token: int) -> str:
    """Text of one token; U+FFFD where it is a part of a character."""
    return tokenizer.token_bytes(token, skip_special=False).decode("utf-8", "replace")


def _exact_bytes(tokenizer: TokenizerApi, token: int) -> list[int]:
    return list(tokenizer.token_bytes(token, skip_special=False))


def _finite(logprob: float) -> float:
    return max(logprob, LEAST)
