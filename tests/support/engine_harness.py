"""Programs that do what a test of the engine needs of them, and what such tests share."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rocmforge.artifacts.bundle import Bundle
from rocmforge.artifacts.errors import BundleError
from rocmforge.artifacts.layout import KvLayout, Layout
from rocmforge.runtime.device.batch import Batch, DeviceFacts, Int32, Program
from rocmforge.runtime.device.host import HostProgram, choose_variant
from rocmforge.runtime.engine.engine import Engine
from rocmforge.runtime.engine.generation import Generation, GenerationRequest, GenerationState, SamplingParams
from rocmforge.runtime.engine.logprobs import TokenLogprobs
from rocmforge.runtime.engine.sequence import ActiveSequence
from rocmforge.runtime.text.tokenizer import Tokenizer
from rocmforge.tests.support.tokenizers import TINY

SECONDS = 60.0  # after which a test gives up; nothing here takes one
CONTEXT = 256
EOS = 1


class CountingMetrics:
    """Counts what the engine reports."""

    def __init__(self) -> None:
        self.started = 0
        self.tokens = 0
        self.finished: Counter[str] = Counter()
        self.observed: Counter[str] = Counter()
        self.steps: list[tuple[int, int]] = []  # sequences and tokens of each
        self.hit_tokens = 0
        self.preemptions = 0
        self.drafts: list[tuple[int, int]] = []  # made and right, of each that was judged
        self.sources: list[str] = []  # of these

    def request_started(self) -> None:
        self.started += 1

    def request_finished(self, reason: str) -> None:
        self.finished[reason] += 1

    def tokens_generated(self, count: int) -> None:
        self.tokens += count

    def drafts_judged(self, drafts: int, right: int, source: str = "lookup") -> None:
        self.drafts.append((drafts, right))
        self.sources.append(source)

    def observe_prefill(self, seconds: float) -> None:
        self._observe("prefill", seconds)

    def observe_decode(self, seconds: float) -> None:
        self._observe("decode", seconds)

    def observe_total(self, seconds: float) -> None:
        self._observe("total", seconds)

    def observe_ttft(self, seconds: float) -> None:
        self._observe("ttft", seconds)

    def observe_step(self, seconds: float, sequences: int, tokens: int) -> None:
        assert seconds >= 0
        self.steps.append((sequences, tokens))

    def prefix_hit(self, tokens: int) -> None:
        self.hit_tokens += tokens

    def preempted(self) -> None:
        self.preemptions += 1

    def _observe(self, name: str, seconds: float) -> None:
        assert seconds >= 0
        self.observed[name] += 1


class ScriptedProgram:
    """A program whose tokens come from a function of the batch; steps wait for permits where `gated`."""

    def __init__(self, script: Callable[[Batch], list[int]] | None = None, num_blocks: int = 64, gated: bool = False):
        self.layout = Layout(
            tensors=(),
            buffers=(),
            launches=(),
            kv=KvLayout(num_layers=1, num_kv_heads=1, head_dim=8, block_size=16, dtype="f16"),
            max_batch_tokens=32,
            max_sequences=8,
            vocab_size=TINY.config.vocab_size,
            hidden_size=8,
            max_seq_len=CONTEXT,
        )
        self.num_blocks, self.num_state_slots = num_blocks, 0
        self.batches: list[Batch] = []
        self.closed = 0
        self.problem: BundleError | None = None
        self._script = script or (lambda batch: [2 + ord("x")] * len(batch.logits_rows))
        self._gated = gated
        self._permits = threading.Semaphore(0)
        self._begun = threading.Semaphore(0)

    def step(self, batch: Batch) -> Int32:
        self.batches.append(batch)
        self._begun.release()
        if self._gated:
            assert self._permits.acquire(timeout=SECONDS)
        return np.array(self._script(batch), np.int32)

    def wait_for_step(self) -> None:
        """Until the next step has begun."""
        assert self._begun.acquire(timeout=SECONDS)

    def let(self, steps: int) -> None:
        """Let that many steps end."""
        self._permits.release(steps)

    def open(self) -> None:
        """Let all steps end."""
        self._gated = False
        self._permits.release(1000)

    def logits(self, num_rows: int) -> npt.NDArray[np.float32]:
        raise NotImplementedError

    def tapped(self, first: int, count: int) -> npt.NDArray[np.float32]:
        raise NotImplementedError

    def hidden(self, first: int, count: int) -> npt.NDArray[np.float32]:
        raise NotImplementedError

    def check(self) -> None:
        if self.problem is not None:
            raise self.problem

    def facts(self) -> DeviceFacts:
        return DeviceFacts()

    def memory(self) -> tuple[int, int]:
        return 1, 2

    def close(self) -> None:
        self.closed += 1


@contextlib.contextmanager
def serving(
    program: Program,
    tokenizer: Tokenizer = TINY,
    context: int = CONTEXT,
    metrics: CountingMetrics | None = None,
    **options: Any,
) -> Iterator[Engine]:
    engine = Engine(program, tokenizer, context, metrics or CountingMetrics(), **options)
    engine.start()
    try:
        yield engine
    finally:
        if isinstance(program, ScriptedProgram):
            program.open()
        engine.stop(0)


def waiting_steps(program: Program, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Have a program's steps wait until this is set: all requests are there then, however fast steps are."""
    submitted, step = threading.Event(), program.step

    def wait(batch: Batch) -> Int32:
        assert submitted.wait(SECONDS)
        return step(batch)

    monkeypatch.setattr(program, "step", wait)
    return submitted


def request(prompt: int | tuple[int, ...] = 3, max_tokens: int = 4, **fields: Any) -> GenerationRequest:
    """Sampled by a seed of its own, so that it ends in the same way whenever it is run."""
    ids = tuple(range(2, 2 + prompt)) if isinstance(prompt, int) else prompt
    fields.setdefault("sampling", SamplingParams(seed=1))
    return GenerationRequest(ids, max_tokens, **fields)


def ended(generation: Generation) -> GenerationState:
    """The state after the last event; what the events said must be what the state says."""
    text, tokens, deadline = "", [], time.monotonic() + SECONDS
    for event in generation.events(timeout=0.5):
        assert time.monotonic() < deadline
        if event is None:
            continue
        text += event.text
        tokens += [] if event.token is None else [event.token]
        if event.finished:
            state = generation.state()
            assert (state.text, state.tokens, state.finish_reason) == (text, tuple(tokens), event.finish_reason)
            assert (state.finished, state.error) == (True, event.error)
    return generation.state()


# A real program.


def load(bundle: Bundle, num_blocks: int = 64, threads: int = 1, slots: int = 0, **limits: int) -> HostProgram:
    """A program of the bundle, its layout's limits changed; `slots`: of state."""
    target = choose_variant(bundle.manifest.targets)
    layout, file = dataclasses.replace(bundle.layout_of(target), **limits), target.file  # type: ignore[arg-type]
    return HostProgram(
        layout, bundle.map_weights(target.backend), bundle.open_code(file), file, num_blocks, threads, slots
    )


def assorted_requests(tokenizer: Tokenizer) -> list[GenerationRequest]:
    random = np.random.default_rng(11)
    samplings = (
        SamplingParams(0.0),
        SamplingParams(1.0, seed=5),
        SamplingParams(0.8, top_k=20, top_p=0.9, seed=6),
        SamplingParams(1.2, min_p=0.02, repetition_penalty=1.2, presence_penalty=0.3, frequency_penalty=0.2, seed=7),
        SamplingParams(0.0, repetition_penalty=1.3),
    )
    made = []
    for number in range(25):
        prompt = tuple(random.integers(3, tokenizer.config.vocab_size, int(random.integers(1, 130))).tolist())
        more = int(random.integers(1, 40))
        stop = ("e ", "zz") if number % 7 == 3 else ()
        made.append(GenerationRequest(prompt, more, samplings[number % 5], stop, ignore_eos=number % 2 == 0))
    return made


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


Scores = tuple[TokenLogprobs, ...]


def scores_of(generation: Generation) -> tuple[GenerationState, Scores]:
    """What a request comes to; the scores are there with its first event alone."""
    events = []
    for event in generation.events(SECONDS):
        assert event is not None
        events.append(event)
    assert not any(event.prompt_logprobs for event in events[1:])
    return generation.state(), events[0].prompt_logprobs


def random_ids(tokenizer: Tokenizer, count: int, seed: int = 1) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(3, tokenizer.config.vocab_size, count).tolist())


class CountingProgram(HostProgram):
    """Counts steps, and holds each to what a device takes: so many tokens, so many rows of logits."""

    steps = 0

    def step(self, batch: Batch, seconds: list[float] | None = None, end: int | None = None) -> Int32:
        assert len(batch.token_ids) <= self.layout.max_batch_tokens
        assert len(batch.logits_rows) == len(batch.sampling) <= self.layout.max_sequences
        self.steps += 1
        return super().step(batch, seconds, end)


def counting(program: HostProgram) -> CountingProgram:
    program.__class__ = CountingProgram
    assert isinstance(program, CountingProgram)
    return program


def ids_of(data: bytes | str) -> list[int]:
    """One token a byte."""
    return [2 + byte for byte in (data.encode() if isinstance(data, str) else data)]


def make_sequence(
    prompt: str = "p", max_tokens: int = 100, stop: tuple[str, ...] = (), **sampling: Any
) -> ActiveSequence:
    request = GenerationRequest(tuple(ids_of(prompt)), max_tokens, SamplingParams(**sampling), stop)
    return ActiveSequence(1, request, 77, TINY)
