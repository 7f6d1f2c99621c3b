"""Log-probabilities of a row of logits, beside NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest

from rocmforge.runtime.engine.logprobs import token_logprobs


@pytest.mark.parametrize("num_top", [0, 1, 5, 320, 1000])
def test_the_likeliest_tokens_in_order(num_top: int) -> None:
    logits = np.random.default_rng(num_top).normal(0, 4, 320).astype(np.float32)
    logits[::7] = -np.inf  # masked, or never likely
    values = logits.astype(np.float64)
    expected = values - np.log(np.exp(values).sum())
    order = np.argsort(-expected, kind="stable")[:num_top]
    found = token_logprobs(logits, 13, num_top)
    assert found.token == 13
    assert found.logprob == pytest.approx(expected[13], abs=1e-12)
    assert [token for token, _ in found.top] == order.tolist()
    assert [logprob for _, logprob in found.top] == pytest.approx(expected[order].tolist(), abs=1e-12)


def test_large_logits_do_not_overflow() -> None:
    found = token_logprobs(np.array([1e4, 1e4, -1e4], np.float32), 1, 1)
    assert found.token == 1
    assert found.logprob == pytest.approx(-np.log(2))
    assert found.top == ((0, found.logprob),)


def test_ties_at_the_cut_drop_the_last_of_those_alike_and_none_that_is_likelier() -> None:
    logits = np.zeros(1000, np.float32)
    logits[[700, 900]] = 3, 2
    assert [token for token, _ in token_logprobs(logits, 0, 5).top] == [700, 900, 0, 1, 2]
    assert [token for token, _ in token_logprobs(np.zeros(1000, np.float32), 0, 4).top] == [0, 1, 2, 3]


def test_the_rank_is_the_place_among_all() -> None:
    """Equally likely tokens stand by id, as they do in the list."""
    logits = np.random.default_rng(1).integers(-9, 9, 40).astype(np.float32)
    order = sorted(range(40), key=lambda token: (-logits[token], token))
    for rank, token in enumerate(order, 1):
        found = token_logprobs(logits, token, rank)
        assert (found.rank, found.top[-1]) == (rank, (token, found.logprob))
