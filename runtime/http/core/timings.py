"""How long prompt and output took, as llama.cpp tells it."""

from __future__ import annotations

from .answer_clock import AnswerClock
from .schema import LlamaTimings


def timings_of(clock: AnswerClock, prompt_tokens: int, cached_tokens: int) -> LlamaTimings:
    """Up to now.

    Args:
        clock: of the answer.
        prompt_tokens: all of the prompt's.
        cached_tokens: of these, that lay in the prefix cache and were not computed.
    """
    durations = clock.durations()
    prompt_ms, predicted_ms = durations.prompt / 1e6, durations.generation / 1e6
    computed = prompt_tokens - cached_tokens
    steps = max(clock.tokens - 1, 0)  # the first token comes with the prompt, and takes no step of its own
    return LlamaTimings(
        cache_n=cached_tokens,
        prompt_n=computed,
        prompt_ms=prompt_ms,
        prompt_per_token_ms=prompt_ms / max(computed, 1),
        prompt_per_second=1e3 * computed / prompt_ms,
        predicted_n=clock.tokens,
        predicted_ms=predicted_ms,
        predicted_per_token_ms=predicted_ms / steps if steps else 0.0,
        predicted_per_second=1e3 * steps / predicted_ms,
    )
