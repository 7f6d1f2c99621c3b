"""Log-probabilities as OpenAI's completions have them, and as vLLM has them for prompts."""

from __future__ import annotations

from collections.abc import Iterable

from ...engine.logprobs import TokenLogprobs
from ..core.logprobs import finite, token_text
from ..core.text_apis import TokenizerApi
from .schema import CompletionLogprobs, PromptLogprob


class CompletionLogprobsWriter:
    """`logprobs` of a completion's choice, piece by piece: each says where in the whole text its tokens begin."""

    def __init__(self, tokenizer: TokenizerApi, num_top: int, echo: str = "") -> None:
        """Args: the tokenizer; the likeliest tokens to list at each place; the prompt, where it comes first."""
        self._tokenizer = tokenizer
        self._num_top = num_top
        self._echo = echo
        self._offset = 0

    def write(self, entries: Iterable[int | TokenLogprobs]) -> CompletionLogprobs:
        """Of the next tokens; of one that begins a prompt nothing is known but the token."""
        document = CompletionLogprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])
        for entry in entries:
            token = entry if isinstance(entry, int) else entry.token
            document.tokens.append(token_text(self._tokenizer, token))
            document.text_offset.append(self._offset)
            self._offset += self._characters(token)
            if isinstance(entry, int):
                document.token_logprobs.append(None)
                document.top_logprobs.append(None)
            else:
                document.token_logprobs.append(finite(entry.logprob))
                document.top_logprobs.append(self._top(entry))
        return document

    def _characters(self, token: int) -> int:
        """Of the text, that begin in a token. A special token has none, unless the prompt spells it out."""
        found = self._tokenizer.token_bytes(token)
        if not found:
            spelt = token_text(self._tokenizer, token)
            return len(spelt) if self._echo.startswith(spelt, self._offset) else 0
        return sum(byte & 0xC0 != 0x80 for byte in found)

    def _top(self, entry: TokenLogprobs) -> dict[str, float]:
        # Tokens that are parts of characters may look the same: the likeliest of them is kept.
        likeliest = reversed(entry.top[: self._num_top])
        return {token_text(self._tokenizer, token): finite(logprob) for token, logprob in likeliest}


def prompt_logprobs(
    tokenizer: TokenizerApi, scores: Iterable[TokenLogprobs], num_top: int
) -> list[dict[str, PromptLogprob] | None]:
    """`prompt_logprobs` as vLLM has it: at each place by id the token that stands there, then the likeliest."""

    def entry(token: int, logprob: float, rank: int) -> PromptLogprob:
        return PromptLogprob(logprob=finite(logprob), rank=rank, decoded_token=token_text(tokenizer, token))

    document: list[dict[str, PromptLogprob] | None] = [None]
    for score in scores:
        found = {str(score.token): entry(score.token, score.logprob, score.rank)}
        for rank, (token, logprob) in enumerate(score.top[:num_top], 1):
            found.setdefault(str(token), entry(token, logprob, rank))
        document.append(found)
    return document
