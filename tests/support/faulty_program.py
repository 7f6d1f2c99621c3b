"""A program that fails on demand."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from rocmforge.artifacts.errors import DeviceError, EngineBusyError
from rocmforge.runtime.device.batch import Batch, DeviceFacts, Int32, Program
from rocmforge.runtime.engine.engine import Engine, EngineLimits
from rocmforge.runtime.engine.generation import Generation, GenerationRequest, SamplingParams
from rocmforge.runtime.text.tokenizer import Tokenizer
from rocmforge.tests.support.engine_harness import SECONDS, CountingMetrics, ended, serving, wait_until


class FaultyProgram:
    """A program, and before or after some of its steps a fault; `plan` says which."""

    def __init__(self, program: Program, plan: Iterator[str]) -> None:
        self.layout, self.num_blocks = program.layout, program.num_blocks
        self.num_state_slots = program.num_state_slots
        self._program = program
        self._plan = plan
        self.faults: Counter[str] = Counter()

    def step(self, batch: Batch) -> Int32:
        fault = next(self._plan)
        self.faults[fault] += fault != "none"
        if fault == "before":
            raise DeviceError("injected before the step")
        sampled = self._program.step(batch)
        if fault == "after":
            raise DeviceError("injected after the step")
        if fault == "defect":
            raise ZeroDivisionError
        if fault == "few":
            return sampled[:-1] if len(sampled) else np.zeros(1, np.int32)
        if fault == "nan" and len(sampled):
            sampled[len(sampled) // 2] = -1
        return sampled

    def logits(self, num_rows: int) -> npt.NDArray[np.float32]:
        return self._program.logits(num_rows)

    def tapped(self, first: int, count: int) -> npt.NDArray[np.float32]:
        return self._program.tapped(first, count)

    def hidden(self, first: int, count: int) -> npt.NDArray[np.float32]:
        return self._program.hidden(first, count)

    def check(self) -> None:
        self._program.check()

    def facts(self) -> DeviceFacts:
        return self._program.facts()

    def memory(self) -> tuple[int, int]:
        return self._program.memory()

    def close(self) -> None:
        self._program.close()


FAULTS = ("before", "after", "defect", "few", "nan")


def fault_plan(count: int, seed: int) -> Iterator[str]:
    """`count` faults, each after up to 12 good steps; then none."""
    random = np.random.default_rng(seed)
    for number in range(count):
        yield from ["none"] * int(random.integers(0, 13))
        yield FAULTS[number % len(FAULTS)]
    while True:
        yield "none"


def survive_failures(
    load_sound: Callable[[], Program],
    load_small: Callable[[], Program],
    tokenizer: Tokenizer,
    prompt_tokens: int,
    rebuilt: bool,
    limits: EngineLimits,
) -> None:
    """A hundred faults while 20 requests come again and again, 5 at a time, with prompts of up to `prompt_tokens`.

    Whoever survives has the tokens that it has alone; pages and requests come back; nobody waits for ever.
    """
    random = np.random.default_rng(3)
    prompts = [
        tuple(random.integers(3, tokenizer.config.vocab_size, int(random.integers(1, prompt_tokens))).tolist())
        for _ in range(10)
    ]
    requests = [
        GenerationRequest(prompts[n % 10], 5 + n, SamplingParams(float(n % 2), seed=n), ignore_eos=True)
        for n in range(20)
    ]
    with serving(load_sound(), tokenizer) as engine:
        expected = [ended(engine.submit(one)) for one in requests]
    plan = fault_plan(100, 7)
    made: list[FaultyProgram] = []

    def make() -> FaultyProgram:
        made.append(FaultyProgram(load_small(), plan))
        return made[-1]

    metrics, outcomes, submitted = CountingMetrics(), Counter[str](), 0
    more: dict[str, Any] = {"metrics": metrics, "limits": limits, "make_program": make if rebuilt else None}
    with serving(make(), tokenizer, **more) as engine:
        while sum(sum(program.faults.values()) for program in made) < 100 or submitted % 20:
            number = submitted % 20
            generations = []
            for one in requests[number : number + 5]:
                generations.append(submit_when_ready(engine, one))
            for generation, wanted in zip(generations, expected[number : number + 5], strict=True):
                state = ended(generation)
                outcomes[str(state.finish_reason)] += 1
                if state.finish_reason == "length":
                    assert dataclasses.replace(state, request_id=wanted.request_id) == wanted
                else:
                    assert state.error
                    assert state.tokens == wanted.tokens[: len(state.tokens)]
            submitted += 5
        wait_until(lambda: engine.stats().running)
        stats = engine.stats()
        assert (stats.pages_used, stats.active, stats.queued) == (0, 0, 0)
        assert (stats.draft_tokens > 0) == (limits.draft_tokens > 0)
        assert ended(submit_when_ready(engine, requests[0])).tokens == expected[0].tokens
    faults = sum((program.faults for program in made), Counter[str]())
    assert (sum(faults.values()), set(faults)) == (100, set(FAULTS))
    assert len(made) == 1 + (faults["before"] + faults["after"] if rebuilt else 0)
    assert set(outcomes) == {"length", "failed"}
    outcomes["length"] += 1
    assert metrics.finished == outcomes
    assert metrics.started == submitted + 1


def submit_when_ready(engine: Engine, one: GenerationRequest) -> Generation:
    """Submit, as often as the device is being set up again."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            return engine.submit(one)
        except EngineBusyError:
            assert time.monotonic() < deadline
            time.sleep(0.005)
