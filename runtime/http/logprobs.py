"""Log-probabilities in the two shapes of OpenAI's API."""

from __future__ import annotations

from collections.abc import Iterable

from ..logprobs import TokenLogprobs
from .service import TokenizerApi

LEAST = -9999.0  # stands for minus infinity, which JSON cannot say, as OpenAI's API has it


def chat_logprobs(tokenizer: TokenizerApi, entries: Iterable[TokenLogprobs]) -> dict[str, object]:
    """`logprobs` of a chat's choice or chunk."""
    content = [
        {
            **_entry(tokenizer, entry.token, entry.logprob),
            "top_logprobs": [_entry(tokenizer, token, logprob) for token, logprob in entry.top],
        }
        for entry in entries
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(tokenizer: TokenizerApi, entries: Iterable[TokenLogprobs], offset: int) -> dict[str, object]:
    """`logprobs` of a completion's choice or chunk, whose text begins at the character `offset` of the whole."""
    tokens: list[str] = []
    values: list[float] = []
    tops: list[dict[str, float]] = []
    offsets: list[int] = []
    for entry in entries:
        text = token_text(tokenizer, entry.token)
        tokens.append(text)
        values.append(_finite(entry.logprob))
        # Tokens that are parts of characters may look the same: the likeliest of them is kept.
        tops.append({token_text(tokenizer, token): _finite(logprob) for token, logprob in reversed(entry.top)})
        offsets.append(offset)
        offset += len(text)
    return {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}


def token_text(tokenizer: TokenizerApi, token: int) -> str:
    """Text of one token; U+FFFD where it is a part of a character."""
    return tokenizer.token_bytes(token, skip_special=False).decode("utf-8", "replace")


def _entry(tokenizer: TokenizerApi, token: int, logprob: float) -> dict[str, object]:
    exact = list(tokenizer.token_bytes(token, skip_special=False))
    return {"token": token_text(tokenizer, token), "logprob": _finite(logprob), "bytes": exact}


def _finite(logprob: float) -> float:
    return max(logprob, LEAST)
