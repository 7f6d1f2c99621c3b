"""Which drafts of a model are worth it, by what was accepted and by what steps take."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocmforge.runtime.engine.drafts import (
    LOOKUP,
    MODEL,
    RETRY_SECONDS,
    DraftHistory,
    DraftPolicy,
    StepCosts,
    expected_tokens,
)


def costing(step: float, of_token: float, draft: float, max_drafts: int = 8) -> DraftPolicy:
    """A policy that has seen steps of one to eight tokens, and drafts."""
    policy = DraftPolicy("small", max_drafts)
    for tokens in [*range(1, 9)] * 20:
        policy.costs.observe_step(tokens, step + of_token * tokens)
        policy.costs.observe_draft(draft)
    return policy


def accepting(*acceptances: float) -> list[DraftHistory]:
    return [DraftHistory({LOOKUP: 0.8, MODEL: one}) for one in acceptances]


def planned(policy: DraftPolicy, histories: list[DraftHistory], tokens: int | None = None) -> list[int]:
    count = len(histories)
    return policy.plan(histories, [20] * count, count, tokens or count)


@pytest.mark.parametrize("acceptance, drafts", [(0.0, 3), (0.5, 0), (0.5, 1), (0.8, 4), (0.97, 12)])
def test_tokens_of_a_step_are_those_of_a_simulation(acceptance: float, drafts: int) -> None:
    """Within 5 standard deviations of the mean of 20,000 steps, none of which makes more than `drafts` + 1 tokens."""
    random = np.random.default_rng(1)
    accepted = np.cumprod(random.random((20_000, drafts)) < acceptance, axis=1).sum(axis=1)
    expected = expected_tokens(acceptance, drafts)
    assert abs(1 + accepted.mean() - expected) <= 5 * accepted.std() / 20_000**0.5 + 1e-12


def test_costs_are_those_of_the_line_that_made_them() -> None:
    costs, random = StepCosts(), np.random.default_rng(2)
    assert not costs.known
    for _ in range(400):
        tokens = int(random.integers(1, 9))
        costs.observe_step(tokens, 0.1 + 0.02 * tokens)
        costs.observe_draft(0.013)
    assert costs.known
    assert costs.draft == 0.013
    assert costs.of_token == pytest.approx(0.02, rel=0.02)
    assert [costs.of_step(tokens) for tokens in (1, 4, 8)] == pytest.approx([0.12, 0.18, 0.26], rel=0.02)


def test_costs_follow_what_changes_and_a_hiccup_counts_little() -> None:
    costs = StepCosts()
    for tokens in [1, 5] * 30:
        costs.observe_step(tokens, 0.1)
        costs.observe_draft(0.01)
    before = costs.of_step(3)
    costs.observe_step(3, 1000.0)
    costs.observe_draft(1000.0)
    assert costs.of_step(3) < 1.2 * before
    assert costs.draft == 0.01
    for tokens in [1, 5] * 150:
        costs.observe_step(tokens, 0.3)
    assert costs.of_step(3) == pytest.approx(0.3, rel=0.05)


@given(st.lists(st.tuples(st.integers(1, 64), st.floats(0, 10)), min_size=1, max_size=60), st.integers(1, 200))
def test_no_step_takes_less_than_nothing(steps: list[tuple[int, float]], tokens: int) -> None:
    costs = StepCosts()
    for size, seconds in steps:
        costs.observe_step(size, seconds)
    assert costs.of_token >= 0
    assert costs.of_step(tokens) >= -1e-9


def best_by_search(policy: DraftPolicy, acceptances: list[float], max_drafts: int) -> float:
    """Most tokens a second of all numbers of drafts for each sequence, by the definition."""
    best = 0.0
    for counts in itertools.product(range(max_drafts + 1), repeat=len(acceptances)):
        best = max(best, rate_of(policy, acceptances, counts))
    return best


def rate_of(policy: DraftPolicy, acceptances: list[float], counts: tuple[int, ...] | list[int]) -> float:
    made = sum(expected_tokens(a, n) for a, n in zip(acceptances, counts, strict=True))
    seconds = policy.costs.of_step(len(counts) + sum(counts)) + max(counts) * policy.costs.draft
    return made / seconds


@pytest.mark.parametrize("costs", [(1.0, 0.0, 0.1), (1.0, 0.1, 0.2), (0.2, 0.3, 0.05), (1.0, 0.02, 1.5)])
@pytest.mark.parametrize("acceptances", [[0.9], [0.3], [0.95, 0.2], [0.7, 0.75, 0.8]])
def test_it_chooses_nearly_the_best_numbers(costs: tuple[float, float, float], acceptances: list[float]) -> None:
    """None where nothing gains a twentieth; else within a tenth of what a search over all finds."""
    policy = costing(*costs, max_drafts=5)
    counts = planned(policy, accepting(*acceptances))
    plain, best = rate_of(policy, acceptances, [0] * len(counts)), best_by_search(policy, acceptances, 5)
    if any(counts):
        assert rate_of(policy, acceptances, counts) >= max(1.05 * plain, 0.9 * best)
    else:
        assert best <= 1.05 * plain / 0.9


def test_more_drafts_where_more_is_accepted_and_none_where_a_draft_costs_a_step() -> None:
    policy = costing(1.0, 0.01, 0.1)
    found = [planned(policy, accepting(one))[0] for one in (0.1, 0.6, 0.8, 0.97)]
    assert found == sorted(found)
    assert (found[0], found[-1]) == (0, 8)
    assert planned(costing(1.0, 0.01, 2.0), accepting(0.98)) == [0]
    assert planned(costing(0.0, 1.0, 0.1), accepting(0.9)) == [0]  # a token more costs what a step does


def test_before_anything_was_measured_there_are_a_few() -> None:
    assert planned(DraftPolicy("small", 8), accepting(0.1, 0.9)) == [4, 4]
    assert planned(DraftPolicy("small", 2), accepting(0.1)) == [2]
    assert DraftPolicy("small", 2).pays


def test_a_sequence_that_gains_nothing_is_probed_ever_more_rarely() -> None:
    policy = costing(1.0, 0.01, 3.0)
    [history] = accepting(0.9)
    found = [policy.plan([history], [20], 1, 1)[0] for _ in range(600)]
    places = [index for index, count in enumerate(found) if count]
    assert {count for count in found if count} == {2}
    assert places == [16, 49, 114, 243, 500]
    [history] = accepting(0.9)  # a long one has much to catch up with: a probe is dearer
    found = [policy.plan([history], [4000], 1, 1)[0] for _ in range(1002)]
    assert [index for index, count in enumerate(found) if count] == [1000]


def test_what_is_accepted_moves_the_acceptance() -> None:
    policy, history = DraftPolicy("small", 8), DraftHistory()
    for _ in range(100):
        policy.judged(history, MODEL, 4, 4)
    assert history.acceptance[MODEL] > 0.95
    assert DraftPolicy("small", 8).pays
    begins = DraftHistory()
    policy.judged(begins, MODEL, 1, 0)
    assert 0.8 < begins.acceptance[MODEL] < 0.95  # one that begins is taken for one of the others
    for _ in range(100):
        policy.judged(history, MODEL, 4, 0)
    assert history.acceptance[MODEL] < 0.05
    assert (policy.proposed, policy.accepted) == (801, 400)
    assert LOOKUP not in history.acceptance
    rng, history = np.random.default_rng(3), DraftHistory()
    for _ in range(3000):
        tried = np.cumprod(rng.random(4) < 0.6)
        policy.judged(history, MODEL, 4, int(tried.sum()))
    assert history.acceptance[MODEL] == pytest.approx(0.6, abs=0.35)  # 5 sigma of an average over some 16


def test_the_text_is_taken_unless_the_model_is_faster() -> None:
    policy = costing(1.0, 0.1, 0.1)
    [history] = accepting(0.7)
    assert policy.prefers_lookup(history, 4)
    history.acceptance[LOOKUP] = 0.05
    found = [policy.prefers_lookup(history, 4) for _ in range(1000)]
    assert not found[0]
    assert any(found)  # it has another chance some time
    history.acceptance[LOOKUP] = 0.05
    assert costing(1.0, 0.1, 5.0).prefers_lookup(history, 4) is False  # then nothing is best
    assert DraftPolicy("small", 8).prefers_lookup(history, 4)


def test_F137_a_draft_model_that_failed_pauses_for_longer_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    policy = costing(1.0, 0.01, 0.1)
    pauses = []
    for _ in range(7):
        pauses.append(policy.failed("gone"))
        assert planned(policy, accepting(0.9)) == [0]
        assert (policy.pays, policy.stats().problem) == (False, "gone")
        assert policy.prefers_lookup(accepting(0.9)[0], 1)
        now += pauses[-1]
        assert planned(policy, accepting(0.9))[0] > 0
    assert pauses == [*RETRY_SECONDS, 30.0, 30.0]
    assert policy.worked()
    assert not policy.worked()
    assert policy.stats().problem is None
    assert policy.failed("again") == RETRY_SECONDS[0]
