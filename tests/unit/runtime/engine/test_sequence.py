"""One request: its events, its text, and how it ends."""

from __future__ import annotations

import copy
import secrets
import threading
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocmforge.artifacts.errors import RocmforgeError
from rocmforge.runtime.device.batch import UInt32
from rocmforge.runtime.device.token_masks import TokenMasks
from rocmforge.runtime.engine import sequence as module
from rocmforge.runtime.engine.failure import Failure
from rocmforge.runtime.engine.generation import GenerationRequest, Inbox, SamplingParams, TokenEvent
from rocmforge.runtime.engine.logprobs import TokenLogprobs
from rocmforge.runtime.engine.sequence import ActiveSequence, seed_of
from rocmforge.tests.support.engine_harness import ids_of, make_sequence
from rocmforge.tests.support.tokenizers import TINY

EOS = 1


def feed(one: ActiveSequence, tokens: list[int]) -> list[TokenEvent]:
    """Append tokens until the sequence ends, then fail the test's script; the events so far."""
    sent = 0
    for token in tokens:
        assert not one.finished
        one.append(token, token == EOS)
        sent += 1
        if one.finished:
            break
    events = one.events(timeout=5)
    return [event for event in (next(events) for _ in range(sent)) if event is not None]


def text_of(events: list[TokenEvent]) -> str:
    return "".join(event.text for event in events)


def test_each_token_has_its_event() -> None:
    one = make_sequence(max_tokens=3)
    events = feed(one, ids_of("abcdef"))
    assert [(event.token, event.text, event.finished) for event in events] == [
        (2 + 97, "a", False),
        (2 + 98, "b", False),
        (2 + 99, "c", True),
    ]
    assert events[-1].finish_reason == "length"
    assert one.state().tokens == tuple(ids_of("abc"))
    assert (one.state().text, one.state().finish_reason, one.state().prompt_tokens) == ("abc", "length", 1)


def test_eos_ends_and_has_no_text() -> None:
    one = make_sequence()
    events = feed(one, [*ids_of("ab"), EOS, *ids_of("c")])
    assert [(event.token, event.text, event.finish_reason) for event in events] == [
        (2 + 97, "a", None),
        (2 + 98, "b", None),
        (EOS, "", "eos"),
    ]


@pytest.mark.parametrize(
    "stop, output, text, reason",
    [
        pytest.param(("lo w",), "hello world", "hel", "stop", id="across-tokens"),
        pytest.param(("zz", "wo"), "hello world", "hello ", "stop", id="one-of-two"),
        pytest.param(("hello",), "hello", "", "stop", id="at-once"),
        pytest.param(("world!",), "hello world", "hello world", "length", id="only-begun"),
        pytest.param(("abcd", "bc"), "abc", "a", "stop", id="hidden-by-a-longer-one-that-stays-open"),
        pytest.param(("abcd", "bc"), "abcd", "", "stop", id="the-longer-one-that-begins-earlier"),
        pytest.param(("é",), "caf\u00e9", "caf", "stop", id="inside-a-character-of-two-bytes"),
        pytest.param(("",), "ab", "ab", "length", id="empty"),
    ],
)
def test_stop_strings(stop: tuple[str, ...], output: str, text: str, reason: str) -> None:
    one = make_sequence(max_tokens=len(output.encode()), stop=stop)
    events = feed(one, ids_of(output))
    assert (text_of(events), events[-1].finish_reason) == (text, reason)
    assert one.state().text == text
    assert events[-1].finished


def test_text_that_may_begin_a_stop_string_waits() -> None:
    events = feed(make_sequence(max_tokens=5, stop=("bcd",)), ids_of("abcxy"))
    assert [event.text for event in events] == ["a", "", "", "bcx", "y"]


def test_eos_releases_what_was_held_back() -> None:
    events = feed(make_sequence(stop=("bcd",)), [*ids_of("abc"), EOS])
    assert [(event.text, event.finish_reason) for event in events] == [
        ("a", None),
        ("", None),
        ("", None),
        ("bc", "eos"),
    ]


@given(st.text(min_size=1, max_size=30), st.lists(st.text(min_size=1, max_size=4), max_size=3))
def test_characters_are_never_halved_and_the_text_ends_before_the_first_stop(text: str, stops: list[str]) -> None:
    whole = text.encode()
    one = make_sequence(max_tokens=len(whole), stop=tuple(stops))
    events = feed(one, ids_of(whole))
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    assert text_of(events) == (text[: min(found)] if found else text)
    assert events[-1].finish_reason == ("stop" if found else "length")
    assert [event.finished for event in events] == [False] * (len(events) - 1) + [True]


@given(st.lists(st.integers(2, TINY.config.vocab_size - 1), min_size=1, max_size=40))
def test_any_tokens_give_the_text_that_decode_gives(ids: list[int]) -> None:
    assert text_of(feed(make_sequence(max_tokens=len(ids)), ids)) == TINY.decode(ids)


def test_half_a_character_at_the_end_is_shown_as_such() -> None:
    events = feed(make_sequence(max_tokens=2), ids_of("\u20ac".encode()[:2]))
    assert [event.text for event in events] == ["", "\ufffd"]


@pytest.mark.parametrize("reason, error", [("cancelled", None), ("failed", Failure("the device is lost"))])
def test_an_end_without_a_token(reason: str, error: Failure | None) -> None:
    one = make_sequence(stop=("bcd",))
    feed(one, ids_of("abc"))
    one.finish(reason, error)
    last = next(one.events(timeout=5))
    assert last == TokenEvent(None, "bc", True, reason, error)
    state = one.state()
    assert (state.text, state.finished, state.finish_reason, state.error) == ("abc", True, reason, error)
    assert state.tokens == tuple(ids_of("abc"))


def test_cancel_is_a_wish_that_any_thread_may_utter() -> None:
    one = make_sequence()
    thread = threading.Thread(target=one.cancel)
    thread.start()
    thread.join()
    assert one.cancel_requested
    assert not one.finished


def test_events_report_silence() -> None:
    one = make_sequence()
    events = one.events(timeout=0.01)
    assert next(events) is None
    one.append(2 + 97, False)
    one.finish("cancelled")
    rest = [event for event in events if event is not None]
    assert [event.finish_reason for event in rest] == [None, "cancelled"]


def test_sampling_of_a_row() -> None:
    one = make_sequence(prompt="aab", temperature=0.5, top_k=3, top_p=0.9, min_p=0.1, frequency_penalty=0.25)
    feed(one, ids_of("acc"))
    row = one.row_samplings()[0]
    assert (row.temperature, row.top_k, row.top_p, row.min_p) == (0.5, 3, 0.9, 0.1)
    assert (row.repetition_penalty, row.presence_penalty, row.frequency_penalty) == (1.0, 0.0, 0.25)
    assert (row.seed, row.counter) == (77, 3)
    assert row.seen_tokens is not None
    assert row.seen_counts is not None
    # Tokens of the prompt are known, and only those of the output are counted.
    seen = dict(zip(row.seen_tokens.tolist(), row.seen_counts.tolist(), strict=True))
    assert seen == {2 + ord("a"): 1, 2 + ord("b"): 0, 2 + ord("c"): 2}


def test_drafts_are_counted_in_the_rows_after_them() -> None:
    one = make_sequence(prompt="aab", frequency_penalty=0.25)
    feed(one, ids_of("ac"))
    rows = one.row_samplings(ids_of("cb"))
    counts = []
    for row in rows:
        assert row.seen_tokens is not None
        assert row.seen_counts is not None
        counts.append(dict(zip((row.seen_tokens - 2).tobytes()[::4].decode(), row.seen_counts.tolist(), strict=True)))
    assert counts == [{"a": 1, "b": 0, "c": 1}, {"a": 1, "b": 0, "c": 2}, {"a": 1, "b": 1, "c": 2}]
    assert [row.counter for row in rows] == [2, 3, 4]
    assert len(one.row_samplings()) == 1


@pytest.mark.parametrize("penalty", ["repetition_penalty", "presence_penalty", "frequency_penalty"])
def test_any_penalty_asks_for_what_was_seen(penalty: str) -> None:
    penalties: dict[str, Any] = {penalty: 1.5}
    assert make_sequence(**penalties).row_samplings()[0].seen_tokens is not None
    assert make_sequence().row_samplings()[0].seen_tokens is None


def test_lengths() -> None:
    one = make_sequence(prompt="abc", max_tokens=4)
    assert (one.num_prompt_tokens, one.num_generated, one.max_length) == (3, 0, 7)
    feed(one, ids_of("xy"))
    assert (one.num_generated, one.max_length) == (2, 7)


class Anything:
    """A constraint that allows every token, and is complete after `length` of them."""

    def __init__(self, length: int) -> None:
        self.left = length

    def mask(self) -> UInt32:
        return np.full(9, 0xFFFFFFFF, np.uint32)

    def take(self, token: int) -> bool:
        self.left -= 1
        return self.left == 0

    def copy(self) -> Anything:
        return copy.copy(self)


@pytest.mark.parametrize("how", ["complete", "length", "cancelled"])
def test_an_ended_request_holds_its_constraint_no_longer(how: str) -> None:
    constraint = Anything(3 if how == "complete" else 10)
    held = weakref.ref(constraint)
    one = ActiveSequence(
        1, GenerationRequest(tuple(ids_of("p")), 3 if how == "length" else 9, constraint=constraint), 7, TINY
    )
    del constraint
    for token in ids_of("ab"):
        one.append(token, False)
    assert held() is not None
    if how == "cancelled":
        one.finish("cancelled")
    else:
        one.append(ids_of("c")[0], False)
    assert one.finish_reason == {"complete": "stop"}.get(how, how)
    assert held() is None


def of_request(**more: Any) -> ActiveSequence:
    prompt = tuple(ids_of("prompt"))
    return ActiveSequence(1, GenerationRequest(prompt, more.pop("max_tokens", 9), **more), 77, TINY)


def test_a_request_that_has_just_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: 12.5))
    inbox = Inbox()
    request = GenerationRequest(tuple(ids_of("ab")), 9, client="me")
    one = ActiveSequence(5, request, 77, TINY, 3, inbox)
    assert (one.request_id, one.client, one.inbox, one.seed) == (5, "me", inbox, 77)
    assert (one.submitted_at, one.admitted_at, one.first_token_at) == (12.5, None, None)
    assert (one.num_computed, one.num_uncomputed, one.blocks, one.block_keys) == (0, 2, [], [])
    assert (one.cached_tokens, one.prefilling, one.cancel_requested, one.finished) == (0, False, False, False)
    assert (one.samples, one.ends_with_prompt, one.mask_error()) == (True, False, None)
    one.append(ids_of("x")[0], False)
    assert one.num_uncomputed == 3
    assert inbox.get(5) == TokenEvent(2 + ord("x"), "x", index=3)
    only_prompt = of_request(max_tokens=0)
    assert (only_prompt.samples, only_prompt.ends_with_prompt) == (False, True)


@pytest.mark.parametrize(
    "admitted, deadline, waited, expected",
    [
        (None, None, 5.0, ("failed", "waited 5 s in the queue")),
        (None, None, 4.75, None),
        (1.0, None, 100.0, None),
        (None, 3.0, 2.75, None),
        (None, 3.0, 3.0, ("cancelled", "the request's time limit of 3 s has passed")),
        (1.0, 3.5, 3.5, ("cancelled", "the request's time limit of 3.5 s has passed")),
        (None, 3.0, 100.0, ("cancelled", "the request's time limit of 3 s has passed")),
        (None, 6.0, 5.0, ("failed", "waited 5 s in the queue")),
    ],
)
def test_when_it_is_overdue(
    admitted: float | None, deadline: float | None, waited: float, expected: tuple[str, str] | None
) -> None:
    one = of_request(deadline_seconds=deadline)
    one.submitted_at, one.admitted_at = 1000.0, admitted
    found = one.overdue(1000.0 + waited, 5.0)
    assert (None if found is None else (found[0], str(found[1]))) == expected


def test_guesses_that_can_be_of_use() -> None:
    one = make_sequence(max_tokens=4)
    assert one.max_drafts == 3  # with them comes a token that is none
    feed(one, ids_of("ab"))
    assert one.max_drafts == 1
    assert of_request(max_tokens=4, constraint=Anything(9)).max_drafts == 3


def test_what_of_a_prompt_has_yet_to_be_scored() -> None:
    one = of_request(prompt_logprobs=0)
    assert (one.unscored(0, 6), one.unscored(2, 4), one.unscored(5, 6)) == (range(5), range(2, 4), range(5, 5))
    assert not one.reuses_prefix
    one.take_scores([TokenLogprobs(at, 0.0) for at in range(4)])
    assert (one.num_scored, one.unscored(0, 6), one.unscored(0, 3)) == (4, range(4, 5), range(4, 4))
    assert not one.reuses_prefix
    one.take_scores([TokenLogprobs(4, -1.5)])
    assert (one.num_scored, one.reuses_prefix) == (5, True)
    one.append(ids_of("x")[0], False)
    one.append(ids_of("y")[0], False)
    first, second = one.inbox.get(5), one.inbox.get(5)
    assert first is not None
    assert second is not None
    assert [score.token for score in first.prompt_logprobs] == [0, 1, 2, 3, 4]
    assert second.prompt_logprobs == ()
    plain = of_request()
    assert (plain.unscored(2, 5), plain.reuses_prefix) == (range(2, 2), True)


def test_everything_that_says_how_a_row_is_drawn() -> None:
    penalties = {"repetition_penalty": 1.5, "presence_penalty": 0.25, "frequency_penalty": 0.75}
    drawn: dict[str, Any] = {"temperature": 0.5, "top_k": 3, "top_p": 0.9, "min_p": 0.1, "typical_p": 0.8, **penalties}
    params = SamplingParams(**drawn, logit_bias=((5, 1.5), (3, -100.0)))
    one = of_request(sampling=params, logprobs=0)
    [row] = one.row_samplings()
    assert (row.temperature, row.top_k, row.top_p, row.min_p, row.typical_p) == (0.5, 3, 0.9, 0.1, 0.8)
    assert (row.repetition_penalty, row.presence_penalty, row.frequency_penalty) == (1.5, 0.25, 0.75)
    assert row.bias_tokens is not None
    assert row.biases is not None
    assert row.bias_tokens.tolist() == [5, 3]
    assert row.biases.tolist() == [1.5, -100.0]
    assert [str(array.dtype) for array in (row.bias_tokens, row.biases)] == ["int32", "float32"]
    assert (row.seed, row.counter, row.mask, row.keep_logits) == (77, 0, None, True)
    [plain] = of_request().row_samplings()
    assert (plain.bias_tokens, plain.biases, plain.keep_logits) == (None, None, False)


def test_probabilities_are_those_of_the_output() -> None:
    one = of_request(logprobs=0)
    scores = [TokenLogprobs(token, -0.5) for token in ids_of("abc")]
    for token, score in zip(ids_of("ab"), scores, strict=False):
        one.append(token, False, score)
    one.append(EOS, True, scores[2])
    events = [one.inbox.get(5) for _ in range(3)]
    assert [(e.logprobs, e.end_logprobs) for e in events if e is not None] == [
        (scores[0], None),
        (scores[1], None),
        (None, scores[2]),
    ]
    assert one.state().logprobs == tuple(scores[:2])


@pytest.mark.parametrize("text, eos, reason, stop", [("ab", "", "stop", "b"), ("a", "\0", "stop", None)])
def test_what_it_ended_with(text: str, eos: str, reason: str, stop: str | None) -> None:
    one = of_request(stop=("b",), stop_token_ids=tuple(ids_of(eos)), logprobs=0)
    score = TokenLogprobs(7, -0.5)
    for token in ids_of(text + eos):
        one.append(token, False, score)
    events = [one.inbox.get(5) for _ in range(len(text + eos))]
    last = events[-1]
    assert last is not None
    assert (last.finish_reason, last.stop, last.text) == (reason, stop, "")
    assert (last.logprobs, last.end_logprobs) == ((score, None) if stop else (None, score))


def test_a_stop_string_that_only_the_end_shows_is_named() -> None:
    one = of_request(stop=("abcd", "bc"), max_tokens=3)
    for token in ids_of("abc"):
        one.append(token, False)
    events = [one.inbox.get(5) for _ in range(3)]
    assert [(e.text, e.finish_reason, e.stop) for e in events if e is not None] == [
        ("", None, None),
        ("", None, None),
        ("a", "stop", "bc"),
    ]


class Failing(Anything):
    """A constraint that gives up."""

    def take(self, token: int) -> bool:
        raise RocmforgeError("too much to do")


def test_a_constraint_that_gives_up_fails_its_request() -> None:
    one = of_request(constraint=Failing(9))
    one.append(ids_of("a")[0], False)
    event = one.inbox.get(5)
    assert event == TokenEvent(ids_of("a")[0], "a", True, "failed", Failure("too much to do"))
    assert one.state().error == Failure("too much to do")


def test_a_stop_string_ends_it_whatever_its_constraint_says() -> None:
    one = of_request(constraint=Failing(9), stop=("a",))
    one.append(ids_of("a")[0], False)
    assert (one.finish_reason, one.error) == ("stop", None)


def test_a_mask_is_begun_for_a_constraint_alone() -> None:
    class Broken(Anything):
        broken = False

        def mask(self) -> UInt32:
            if self.broken:
                raise RocmforgeError("no mask")
            return super().mask()

    masks, constraint = TokenMasks(TINY.config.vocab_size), Broken(9)
    try:
        plain = of_request()
        plain.begin_mask(masks)
        assert (plain.row_samplings()[0].mask, plain.mask_error()) == (None, None)
        one = of_request(constraint=constraint)
        first = one.row_samplings()[0].mask
        assert isinstance(first, np.ndarray)
        assert one.mask_error() is None
        one.begin_mask(masks)
        assert one.mask_error() is None
        constraint.broken = True
        one.begin_mask(masks)
        assert one.mask_error() == Failure("no mask")
    finally:
        masks.close()


def test_what_of_a_prompt_was_cached_is_no_more_than_the_prompt() -> None:
    one = of_request()
    for cached, told in ((0, 0), (5, 5), (6, 6), (7, 6)):
        one.cached_tokens = cached
        assert one.state().cached_tokens == told


def test_a_seed_is_the_requests_or_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def drawn(bits: int) -> int:
        asked.append(bits)
        return 123

    monkeypatch.setattr(secrets, "randbits", drawn)
    requests = [GenerationRequest((1,), 1, SamplingParams(seed=seed)) for seed in (0, 5, None)]
    assert ([seed_of(request) for request in requests], asked) == ([0, 5, 123], [64])
