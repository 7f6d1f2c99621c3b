"""Which drafts of next tokens are worth computing: by what was accepted, and by what steps take. Policy, no device.

Drafts come of two sources: the text itself, which costs nothing (`prompt_lookup`), and a program beside the one that
is served, of which each draft costs a step of its own: a small model (`draft_model`), or a head that the served model
brings (`draft_head`). The served model judges both in the step that computes them, so that neither ever costs a token.

Accepted drafts are taken to be independent, as in Leviathan et al., "Fast Inference from Transformers via Speculative
Decoding", equation 1: of k drafts, each accepted with probability a where those before it were, a step makes
(1 - a^(k+1)) / (1 - a) tokens.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import field
from typing import Final

from ...artifacts.dataclass import dataclass
from ...artifacts.manifest import HEAD_PART
from .generation import DraftStats

LOOKUP: Final = "lookup"
MODEL: Final = "model"
MTP: Final = "mtp"
EAGLE: Final = HEAD_PART
SOURCES: Final = (LOOKUP, MODEL, MTP, EAGLE)

DEFAULT_DRAFTS: Final = 8  # most at once of a draft model, where nobody says
RETRY_SECONDS: Final = (1.0, 2.0, 5.0, 10.0, 30.0)  # before a draft model that failed is tried again; the last for ever
_FIRST_DRAFTS: Final = 4  # before anything was measured
_PROBE_DRAFTS: Final = 2  # to see whether drafts pay by now
_PROBE_TOKENS: Final = (16, 512)  # between probes: at first, then twice as many each time, and at most
_PROBE_SHARE: Final = 4  # and at first one in so many of the tokens that the draft model may have to catch up with
_LEAST_GAIN: Final = 1.05  # of tokens a second, or there are no drafts: figures are measured, and not exact
_PRIOR: Final = {LOOKUP: 0.8, MODEL: 0.7, MTP: 0.7, EAGLE: 0.7}
_WEIGHT: Final = 1 / 16  # of the latest draft in a running acceptance
_WEIGHT_OF_ALL: Final = 1 / 128
_MOST: Final = 0.98  # acceptance that is believed
_STEPS: Final = 15  # of the draft model, whose median counts
_WINDOW: Final = 1 / 32  # weight of the latest step in the costs of the served model's
_RIDGE: Final = 1.0  # tokens^2: steps of about the same size say little of what a token more costs


def expected_tokens(acceptance: float, drafts: int) -> float:
    """Tokens that a step with so many drafts makes of a sequence, on average."""
    return (1 - acceptance ** (drafts + 1)) / (1 - acceptance)


@dataclass(slots=True)
class DraftHistory:
    """What became of the drafts of one sequence.

    Attributes:
        acceptance: of a source, how likely a draft is accepted where those before it were; once it was asked for.
        skipped: tokens since the model made drafts for it.
        pause: tokens until it is probed again.
    """

    acceptance: dict[str, float] = field(default_factory=dict)
    skipped: int = 0
    pause: int = 0


def _moved(acceptance: float, weight: float, proposed: int, accepted: int) -> float:
    """What an acceptance becomes where so many drafts were accepted, and the next was not, if there was one."""
    for _ in range(accepted):
        acceptance += weight * (1 - acceptance)
    return acceptance - weight * acceptance * (accepted < proposed)


class StepCosts:
    """Seconds of steps: of the draft model one figure, of the served model a line over the tokens in a step."""

    def __init__(self) -> None:
        """Nothing is known."""
        self._draft: deque[float] = deque(maxlen=_STEPS)
        self._weight = self._tokens = self._seconds = 0.0  # the latter two: running means
        self._variance = self._covariance = 0.0
        self._slope = 0.0

    @property
    def known(self) -> bool:
        """Whether both were seen."""
        return bool(self._draft) and self._weight > 0

    @property
    def draft(self) -> float:
        """Of a step of the draft model."""
        ordered = sorted(self._draft)
        half = len(ordered) // 2
        return (ordered[half] + ordered[~half]) / 2

    @property
    def of_token(self) -> float:
        """That a token more adds to a step of the served model: no less than nothing, no more than its mean share."""
        return min(max(self._slope, 0.0), self._seconds / max(self._tokens, 1.0))

    def of_step(self, tokens: int) -> float:
        """Of a step of the served model."""
        return self._seconds + self.of_token * (tokens - self._tokens)

    def observe_draft(self, seconds: float) -> None:
        """A step of the draft model took so long."""
        self._draft.append(seconds)

    def observe_step(self, tokens: int, seconds: float) -> None:
        """A step of the served model, in which all sequences decode, took so long."""
        if self._weight > 8 * _WINDOW:  # a hiccup of the machine is not what steps cost
            seconds = min(seconds, 4 * self.of_step(tokens))
        self._weight = min(1.0, self._weight + _WINDOW)
        share = _WINDOW / self._weight
        off_tokens, off_seconds = tokens - self._tokens, seconds - self._seconds
        self._tokens += share * off_tokens
        self._seconds += share * off_seconds
        self._variance = (1 - share) * (self._variance + share * off_tokens * off_tokens)
        self._covariance = (1 - share) * (self._covariance + share * off_tokens * off_seconds)
        self._slope = (self._covariance + _RIDGE * self._slope) / (self._variance + _RIDGE)


class DraftPolicy:
    """How many drafts a model makes for whom. One engine's; of its thread, but `problem` and the counts may be read.

    Attributes:
        model: name of the draft model.
        source: of its drafts, one of `SOURCES`.
        problem: why it makes none at the moment.
        proposed: drafts of its that were judged,
        accepted: and how many of these were accepted.
    """

    def __init__(self, model: str, max_drafts: int, source: str = MODEL) -> None:
        """Args: what the draft model is called; most drafts for a sequence at once, at least 1; their source."""
        self.model = model
        self.source = source
        self.problem: str | None = None
        self.proposed = self.accepted = 0
        self.costs = StepCosts()
        self._max_drafts = max_drafts
        self._acceptance = _PRIOR[source]  # of all sequences
        self._failures = 0
        self._resume_at = 0.0

    def _accepted(self, history: DraftHistory, source: str) -> float:
        """How likely a draft is accepted; of a sequence that begins, what became of others' is the best guess."""
        return history.acceptance.setdefault(source, self._acceptance if source == self.source else _PRIOR[source])

    @property
    def pays(self) -> bool:
        """Whether a sequence that begins will have drafts, by all that is known: then its prompt is computed too."""
        if self.paused:
            return False
        return not self.costs.known or self._best([_believed(self._acceptance)], 1, 1) != [0]

    def prefers_lookup(self, history: DraftHistory, drafts: int) -> bool:
        """Whether so many drafts that the text gave are better than the model's own, by tokens a second."""
        if self.paused or not self.costs.known:
            return True
        of_lookup, of_model = (_believed(self._accepted(history, source)) for source in (LOOKUP, self.source))
        most = max(self._rate(of_model, count, self.costs.draft) for count in range(self._max_drafts + 1))
        if self._rate(of_lookup, drafts, 0.0) >= most:
            return True
        # It is not tried, so that nothing says when it would be right again: time does.
        history.acceptance[LOOKUP] += _WEIGHT_OF_ALL * (_PRIOR[LOOKUP] - history.acceptance[LOOKUP])
        return False

    def _rate(self, acceptance: float, drafts: int, draft_seconds: float) -> float:
        seconds = self.costs.of_step(1 + drafts) + drafts * draft_seconds
        return expected_tokens(acceptance, drafts) / max(seconds, 1e-9)

    def plan(self, histories: Sequence[DraftHistory], lengths: Sequence[int], decoding: int, tokens: int) -> list[int]:
        """How many drafts to make for each of some sequences that decode together.

        Args:
            histories: theirs.
            lengths: tokens that each has.
            decoding: sequences in the step that decode, these and others.
            tokens: of the step without these drafts.
        """
        if self.paused:
            return [0] * len(histories)
        if not self.costs.known:
            return [min(_FIRST_DRAFTS, self._max_drafts)] * len(histories)
        counts = self._best(
            [_believed(self._accepted(history, self.source)) for history in histories], decoding, tokens
        )
        for index, (history, length) in enumerate(zip(histories, lengths, strict=True)):
            if counts[index]:
                history.skipped = history.pause = 0
            else:
                counts[index] = self._probe(history, length)
        return counts

    def _best(self, acceptances: Sequence[float], decoding: int, tokens: int) -> list[int]:
        """The numbers of drafts by which a step makes most tokens a second; none where that gains too little."""
        costs = self.costs
        base, of_token, draft = costs.of_step(tokens), costs.of_token, costs.draft
        best = [0] * len(acceptances)
        best_rate = plain = decoding / max(base, 1e-9)
        for depth in range(1, self._max_drafts + 1) if acceptances else ():
            counts = [min(depth, _worth(acceptance, plain * of_token)) for acceptance in acceptances]
            more = sum(expected_tokens(a, n) - 1 for a, n in zip(acceptances, counts, strict=True))
            seconds = base + of_token * sum(counts) + draft * max(counts)
            rate = (decoding + more) / max(seconds, 1e-9)
            if rate > best_rate and rate > _LEAST_GAIN * plain:
                best, best_rate = counts, rate
        return best

    def _probe(self, history: DraftHistory, length: int) -> int:
        """A few drafts now and then where they do not pay: the text may have become easier, or the machine idle."""
        least, most = _PROBE_TOKENS
        history.pause = history.pause or max(least, length // _PROBE_SHARE)
        history.skipped += 1
        if history.skipped <= history.pause:
            return 0
        history.skipped, history.pause = 0, max(history.pause, min(2 * history.pause, most))
        return min(_PROBE_DRAFTS, self._max_drafts)

    def judged(self, history: DraftHistory, source: str, proposed: int, accepted: int) -> None:
        """What became of a sequence's drafts."""
        history.acceptance[source] = _moved(self._accepted(history, source), _WEIGHT, proposed, accepted)
        if source == self.source:
            self.proposed += proposed
            self.accepted += accepted
            self._acceptance = _moved(self._acceptance, _WEIGHT_OF_ALL, proposed, accepted)

    def failed(self, problem: str) -> float:
        """The draft model failed; returns the seconds for which there are no drafts of it."""
        pause = RETRY_SECONDS[min(self._failures, len(RETRY_SECONDS) - 1)]
        self._failures += 1
        self.problem, self._resume_at = problem, time.monotonic() + pause
        return pause

    def worked(self) -> bool:
        """The draft model has made drafts; returns whether it had failed before."""
        recovered, self.problem, self._failures = self.problem is not None, None, 0
        return recovered

    def stats(self) -> DraftStats:
        """What is told of the draft model."""
        return DraftStats(self.model, self.problem, self.proposed, self.accepted)

    @property
    def paused(self) -> bool:
        """Whether it failed a moment ago, and there are no drafts."""
        return self.problem is not None and time.monotonic() < self._resume_at


def _believed(acceptance: float) -> float:
    return min(acceptance, _MOST)


def _worth(acceptance: float, least: float) -> int:
    """Up to which draft one is accepted with a probability of `least`, what its place in the step would make else."""
    if not 0 < least < 1:
        return 0 if least >= 1 else 1 << 10
    return int(math.log(least) / math.log(acceptance)) if acceptance > 0 else 0
