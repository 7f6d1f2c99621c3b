"""Timings as llama.cpp's clients read them, of spans that are known."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from rocmforge.runtime.http.core import answer_clock
from rocmforge.runtime.http.core.answer_clock import AnswerClock
from rocmforge.runtime.http.core.timings import timings_of

MS = 10**6


def clock_of(tokens: int, monkeypatch: pytest.MonkeyPatch) -> AnswerClock:
    """The model is there at once, the first token after 40 ms, the last 100 ms later."""
    monkeypatch.setattr(answer_clock, "time", SimpleNamespace(monotonic_ns=lambda: 1140 * MS))
    return AnswerClock(began=1000 * MS, ready=1000 * MS, first=1040 * MS, tokens=tokens)


def test_what_lay_in_the_cache_was_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = timings_of(clock_of(6, monkeypatch), 10, 2)
    assert (found.cache_n, found.prompt_n, found.predicted_n) == (2, 8, 6)
    assert (found.prompt_ms, found.prompt_per_token_ms, found.prompt_per_second) == (40, 5, 200)
    # Five steps: the first token comes with the prompt.
    assert (found.predicted_ms, found.predicted_per_token_ms, found.predicted_per_second) == (100, 20, 50)


@pytest.mark.parametrize("tokens", [0, 1])
def test_no_step_and_nothing_computed(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = timings_of(clock_of(tokens, monkeypatch), 10, 10)
    assert (found.prompt_n, found.prompt_per_token_ms, found.prompt_per_second) == (0, 40, 0)
    assert (found.predicted_n, found.predicted_per_token_ms, found.predicted_per_second) == (tokens, 0, 0)


def test_two_tokens_are_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    found = timings_of(clock_of(2, monkeypatch), 1, 0)
    assert (found.prompt_per_token_ms, found.predicted_per_token_ms) == (40, 100)
