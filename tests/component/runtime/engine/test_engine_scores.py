"""How likely a prompt's tokens are: the same bits alone, in a batch, in chunks, and where the tokens are generated."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rocmforge.artifacts.bundle import Bundle
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.runtime.device.batch import Batch
from rocmforge.runtime.engine.engine import Engine, EngineLimits
from rocmforge.runtime.engine.generation import (
    Generation,
    GenerationRequest,
    SamplingParams,
    events_of,
)
from rocmforge.runtime.text.tokenizer import Tokenizer
from rocmforge.tests.oracles.reference import ReferenceModel
from rocmforge.tests.support.engine_harness import (
    CONTEXT,
    EOS,
    ScriptedProgram,
    counting,
    load,
    random_ids,
    request,
    scores_of,
    serving,
)
from rocmforge.tests.support.programs import compiled, relative_tolerance
from rocmforge.tools.generate.fixtures import write_model

GREEDY = SamplingParams(0.0)


def assorted(tokenizer: Tokenizer) -> list[GenerationRequest]:
    """Prompts of all lengths, alike in part, scored and not, with and without an output."""
    text, made = random_ids(tokenizer, CONTEXT), []
    for number, prompt in enumerate((1, 2, 3, 16, 17, 40, 64, 65, 100, 130, 200)):
        made += [
            request(text[:prompt], 0, prompt_logprobs=number % 4),
            request(text[:prompt], 50, prompt_logprobs=2, logprobs=3, sampling=GREEDY, ignore_eos=True),
            request(text[:prompt], 30, sampling=SamplingParams(1.0, seed=number), ignore_eos=True),
            request(random_ids(tokenizer, prompt, number), 1, sampling=GREEDY, prompt_logprobs=0),
        ]
    return made


@pytest.mark.parametrize(
    "num_blocks, draft_tokens, limits",
    [
        pytest.param(400, 0, {}, id="whole"),
        pytest.param(60, 0, {"max_batch_tokens": 24, "max_sequences": 6}, id="in-chunks"),
        pytest.param(18, 3, {"max_batch_tokens": 40, "max_sequences": 7}, id="preempted-and-with-drafts"),
    ],
)
def test_scores_are_the_same_alone_and_in_a_batch(
    bundle: Bundle, tokenizer: Tokenizer, num_blocks: int, draft_tokens: int, limits: dict[str, int]
) -> None:
    requests = assorted(tokenizer)
    with serving(load(bundle, 16, 1), tokenizer) as engine:
        alone = [scores_of(engine.submit(one)) for one in requests]
    for one, (state, scores) in zip(requests, alone, strict=True):
        assert state.finish_reason == "length"
        wanted = one.prompt_token_ids[1:] if one.prompt_logprobs is not None else ()
        assert [entry.token for entry in scores] == list(wanted)
        assert all(len(entry.top) == one.prompt_logprobs for entry in scores)
    program = counting(load(bundle, num_blocks, 2, **limits))
    with serving(program, tokenizer, limits=EngineLimits(draft_tokens=draft_tokens)) as engine:
        together = [scores_of(generation) for generation in [engine.submit(one) for one in requests]]
        assert num_blocks > 18 or engine.stats().preemptions > 0
        assert engine.stats().pages_used == 0
    for (state, scores), (other, others) in zip(alone, together, strict=True):
        assert dataclasses.replace(other, request_id=state.request_id) == state
        assert others == scores


def test_a_token_has_the_score_with_which_it_was_generated(bundle: Bundle, tokenizer: Tokenizer) -> None:
    with serving(load(bundle, 64), tokenizer) as engine:
        for prompt in (1, 15, 50):
            one = request(random_ids(tokenizer, prompt), 60, sampling=GREEDY, logprobs=4, ignore_eos=True)
            written, _ = scores_of(engine.submit(one))
            whole = (*one.prompt_token_ids, *written.tokens)
            _, scores = scores_of(engine.submit(request(whole, 0, prompt_logprobs=4)))
            assert scores[prompt - 1 :] == written.logprobs
            assert {entry.rank for entry in written.logprobs} == {1}


def reference_scores(path: Path, prompt: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """float64[T - 1, vocab_size]: logarithms of the probabilities of what may follow each token but the last."""
    logits = ReferenceModel(path).forward(list(prompt)).astype(np.float64)[:-1]
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    found: npt.NDArray[np.float64] = np.log(exponentials / exponentials.sum(1, keepdims=True))
    return found


def test_scores_against_the_float32_reference(tokenizer: Tokenizer, build_cache: BuildCache, tmp_path: Path) -> None:
    """The bound is that of the logits (`relative_tolerance`), for a difference of two of them."""
    path = write_model(tmp_path / "model.gguf", context_length=CONTEXT)
    prompt = random_ids(tokenizer, 150)
    expected = reference_scores(path, prompt)
    levels = ("x86_64_v4", "x86_64_v3")  # of the same bits: the bound of single logits below is theirs
    with compiled(path, build_cache, levels=levels) as made, serving(load(made, 16), tokenizer) as engine:
        _, scores = scores_of(engine.submit(request(prompt, 0, prompt_logprobs=5)))
    rows = np.arange(len(prompt) - 1)
    error = np.array([entry.logprob for entry in scores]) - expected[rows, prompt[1:]]
    assert np.sqrt(np.mean(error**2)) < np.sqrt(2) * relative_tolerance("Q4_1") * np.std(expected)
    # Another order of two tokens is forgiven where they are about as likely.
    found = np.array([[token for token, _ in entry.top] for entry in scores])
    best = np.sort(expected, axis=1)[:, ::-1][:, :5]
    assert np.abs(np.take_along_axis(expected, found, 1) - best).max() < 0.5
    ranks = 1 + (expected > expected[rows, prompt[1:]][:, None]).sum(1)
    assert np.corrcoef(ranks, [entry.rank for entry in scores])[0, 1] > 0.99


def test_what_the_cache_knows_is_computed_all_the_same_and_shared_after(bundle: Bundle, tokenizer: Tokenizer) -> None:
    text = random_ids(tokenizer, 100)
    with serving(load(bundle, 64), tokenizer) as engine:
        first = scores_of(engine.submit(request(text, 1, sampling=GREEDY, prompt_logprobs=1)))
        again = scores_of(engine.submit(request(text, 1, sampling=GREEDY, prompt_logprobs=1)))
        assert again[1] == first[1] != ()
        assert (again[0].cached_tokens, engine.stats().prefix_hit_tokens) == (0, 0)
        plain, none = scores_of(engine.submit(request(text, 1, sampling=GREEDY)))
        assert (plain.cached_tokens, none, plain.tokens) == (96, (), first[0].tokens)


class ScoringProgram(ScriptedProgram):
    """Logits of 0 but for a 1 at the token that `script` says."""

    def logits(self, num_rows: int) -> npt.NDArray[np.float32]:
        rows = np.zeros((num_rows, self.layout.vocab_size), np.float32)
        rows[:, 5] = 1
        return rows


def logits_rows(batch: Batch) -> list[int]:
    """Positions of which a step gives logits."""
    return [int(batch.positions[row]) for row in batch.logits_rows]


def test_steps_hold_as_many_rows_of_logits_as_the_device_has() -> None:
    """8 rows: a prompt of 20 tokens goes in chunks of 8; a plain one beside it waits with its last token alone."""
    program = ScoringProgram(gated=True)
    with serving(program) as engine:
        generations = engine.submit_all([request(20, 1, prompt_logprobs=0), request(tuple(range(50, 60)), 1)])
        program.open()
        scores = next(event.prompt_logprobs for event in events_of(generations) if event and event.index == 0)
    assert [logits_rows(batch) for batch in program.batches] == [
        [*range(8)],
        [9, *range(8, 15)],
        [*range(15, 20)],
    ]
    assert [len(batch.token_ids) for batch in program.batches] == [8 + 9, 1 + 7, 5]
    assert [entry.token for entry in scores] == list(range(3, 22))
    normalizer = np.log(np.e + program.layout.vocab_size - 1)
    assert [entry.logprob for entry in scores] == pytest.approx([(e.token == 5) - normalizer for e in scores])
    assert [entry.rank for entry in scores] == [1 if e.token == 5 else e.token + 1 + (e.token < 5) for e in scores]


@pytest.mark.parametrize("fields, reason", [({}, "eos"), ({"stop_token_ids": (EOS,), "ignore_eos": True}, "stop")])
def test_the_token_that_ends_a_text_has_logprobs_of_its_own(fields: dict[str, Any], reason: str) -> None:
    script = [5, EOS]
    with serving(ScoringProgram(lambda batch: [script[row.counter] for row in batch.sampling])) as engine:
        first, last = [event for event in engine.submit(request(logprobs=0, **fields)).events() if event is not None]
    assert first.logprobs is not None
    assert (first.logprobs.token, first.end_logprobs) == (5, None)
    assert last.end_logprobs is not None
    assert (last.end_logprobs.token, last.logprobs, last.finish_reason) == (EOS, None, reason)


def test_a_prompt_whose_logits_are_not_finite_fails() -> None:
    """In its second chunk; the next request is served."""
    bad = [False]
    program = ScoringProgram(lambda batch: [-1 if bad[0] and p == 11 else 3 for p in logits_rows(batch)])
    with serving(program) as engine:
        bad[0] = True
        state, _ = scores_of(engine.submit(request(20, 0, prompt_logprobs=0)))
        assert (state.finish_reason, str(state.error and state.error.message)) == (
            "failed",
            "the model's logits are not finite numbers (NaN or infinity)",
        )
        bad[0] = False
        state, scores = scores_of(engine.submit(request(20, 0, prompt_logprobs=0)))
        assert (state.finish_reason, len(scores), engine.stats().pages_used) == ("length", 19, 0)


def step_into(program: ScoringProgram, engine: Engine, **fields: float) -> Generation:
    """A scored request of 20 tokens whose first step has ended, and whose second waits."""
    generation = engine.submit(request(20, 0, prompt_logprobs=0, **fields))
    program.wait_for_step()
    program.let(1)
    program.wait_for_step()
    return generation


def test_scoring_ends_where_it_is_cancelled_or_its_time_is_over() -> None:
    program = ScoringProgram(gated=True)
    with serving(program) as engine:
        cancelled = step_into(program, engine)
        cancelled.cancel()
        program.let(1)
        assert scores_of(cancelled)[0].finish_reason == "cancelled"
        late = step_into(program, engine, deadline_seconds=0.05)
        time.sleep(0.05)
        program.let(1)
        assert (scores_of(late)[0].finish_reason, engine.stats().pages_used) == ("cancelled", 0)
