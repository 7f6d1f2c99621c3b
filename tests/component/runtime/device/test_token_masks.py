"""Masks of constraints that are computed while the device works: who waits for whom, and what a failure costs."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rocmforge.artifacts.bundle import Bundle
from rocmforge.runtime.device.batch import Batch, RowSampling
from rocmforge.runtime.device.hip.open_program import load_hip_program
from rocmforge.runtime.device.hip.step import SAMPLING, STEP
from rocmforge.runtime.device.host import HostProgram, load_host_program
from rocmforge.runtime.device.memory import KvSize
from rocmforge.runtime.device.token_masks import TokenMasks
from rocmforge.runtime.engine.engine import Engine, EngineLimits
from rocmforge.runtime.engine.failure import failure_of
from rocmforge.runtime.engine.generation import GenerationRequest, GenerationState, SamplingParams
from rocmforge.runtime.text.constraints import ConstraintError
from rocmforge.runtime.text.tokenizer import Tokenizer
from rocmforge.tests.support.engine_harness import CONTEXT, SECONDS, CountingMetrics
from rocmforge.tests.support.fake_hip import FakeHip
from rocmforge.tests.support.hip_bundle import LAYOUT, hip_bundle

Mask = npt.NDArray[np.uint32]
TEXT = tuple(b"a constraint's own words")


def only(vocab_size: int, *tokens: int) -> Mask:
    """A mask that allows these, of one word more than is needed, as llguidance gives them."""
    bits = np.zeros((vocab_size // 32 + 1) * 32, np.uint8)
    bits[list(tokens)] = 1
    return np.packbits(bits, bitorder="little").view(np.uint32)


class Source:
    """A mask that is made by a function."""

    def __init__(self, make: Callable[[], Mask]) -> None:
        self.mask = make


def raise_error(error: BaseException) -> Mask:
    raise error


@pytest.fixture
def masks() -> Iterator[TokenMasks]:
    made = TokenMasks(70)
    yield made
    made.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("token-masks")]


# The thread.


def test_a_mask_has_the_words_of_the_vocabulary(masks: TokenMasks) -> None:
    pending = masks.begin(Source(lambda: np.arange(5, dtype=np.uint32)))
    assert pending.wait().tolist() == [0, 1, 2]
    assert (pending.nbytes, pending.error()) == (12, None)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: raise_error(ConstraintError("response_format", "too complex")), "response_format: too complex"),
        (lambda: raise_error(ZeroDivisionError("a\nb")), r"internal error: ZeroDivisionError('a\nb')"),
        (lambda: raise_error(SystemExit(3)), "internal error: SystemExit(3)"),
        (lambda: np.zeros(2, np.uint32), "internal error: ValueError('expected a mask of 3 words, found 2')"),
    ],
)
def test_a_mask_that_fails_allows_nothing_and_says_why(
    masks: TokenMasks, make: Callable[[], Mask], message: str
) -> None:
    pending = masks.begin(Source(make))
    assert pending.wait().tolist() == [0, 0, 0]
    error = pending.error()
    assert error is not None
    assert str(failure_of(error)) == message
    assert masks.begin(Source(lambda: np.ones(3, np.uint32))).wait().tolist() == [1, 1, 1]


def test_only_what_nobody_foresaw_is_logged(masks: TokenMasks, caplog: pytest.LogCaptureFixture) -> None:
    masks.begin(Source(lambda: raise_error(ConstraintError("response_format", "too complex")))).error()
    masks.begin(Source(lambda: np.ones(3, np.uint32))).error()
    assert caplog.messages == []
    masks.begin(Source(lambda: raise_error(ZeroDivisionError("why")))).error()
    assert caplog.messages == ["a mask could not be computed"]
    assert "why" in caplog.text


def test_one_at_a_time_and_none_that_was_not_begun_at_the_end() -> None:
    masks, begun, go, made = TokenMasks(70), threading.Event(), threading.Event(), list[str]()

    def first() -> Mask:
        begun.set()
        assert go.wait(SECONDS)
        return np.ones(3, np.uint32)

    def second() -> Mask:
        made.append("second")
        return np.zeros(3, np.uint32)

    pending = masks.begin(Source(first))
    masks.begin(Source(second))
    assert begun.wait(SECONDS)
    threading.Timer(0.05, go.set).start()
    masks.close()
    assert pending.wait().tolist() == [1, 1, 1]
    assert made == []


# The host's program.


@pytest.fixture
def program(bundle: Bundle) -> Iterator[HostProgram]:
    made = load_host_program(bundle, 64, 1)
    yield made
    made.close()


@contextlib.contextmanager
def pending_masks(vocab_size: int) -> Iterator[TokenMasks]:
    with contextlib.closing(TokenMasks(vocab_size)) as made:
        yield made


def watch_forward(program: HostProgram, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """An event that is set when the device begins with the forward pass of a step, before any mask is waited for."""
    began, run = threading.Event(), program._library.step

    def watched(handle: int, step: int, first: int, end: int) -> None:
        if first == 0:
            began.set()
        run(handle, step, first, end)

    monkeypatch.setattr(program._library, "step", watched)
    return began


def batch(*sampling: RowSampling) -> Batch:
    """Sequences of one token each."""
    count = len(sampling)
    rows = np.arange(count, dtype=np.int32)
    return Batch(rows + 40, np.zeros(count, np.int32), rows, rows[:, None].copy(), rows, sampling)


def test_the_host_computes_before_the_mask_is_there(program: HostProgram, monkeypatch: pytest.MonkeyPatch) -> None:
    vocab_size = program.layout.vocab_size
    began = watch_forward(program, monkeypatch)

    def make() -> Mask:
        if not began.wait(SECONDS):
            raise ConstraintError("response_format", "the device waits for the mask")
        return only(vocab_size, 77)

    with pending_masks(vocab_size) as masks:
        pending = masks.begin(Source(make))
        assert program.step(batch(RowSampling(1.0, mask=pending))).tolist() == [77]
        assert pending.error() is None


def test_pending_masks_draw_the_same_tokens_and_leave_the_same_logits(program: HostProgram) -> None:
    """To the bit: rows without a mask, with one that is there, and with one that is pending or has failed."""
    vocab_size = program.layout.vocab_size
    random = np.random.default_rng(3)
    ready = [random.integers(0, 2**32, vocab_size // 32 + 1, np.uint32) for _ in range(3)]
    rows = [RowSampling(1.0, seed=seed, mask=mask) for seed, mask in enumerate((None, *ready))]
    expected, logits = program.step(batch(*rows)).tolist(), program.logits(4)
    assert min(expected) >= 0
    with pending_masks(vocab_size) as masks:
        for index in (2, 3):
            pending = masks.begin(Source(ready[index - 1].copy))
            rows[index] = dataclasses.replace(rows[index], mask=pending)
        assert program.step(batch(*rows)).tolist() == expected
        assert program.logits(4).tobytes() == logits.tobytes()
        failing = masks.begin(Source(lambda: raise_error(ConstraintError("response_format", "no"))))
        rows[1] = dataclasses.replace(rows[1], mask=failing)
        assert program.step(batch(*rows)).tolist() == [expected[0], -1, *expected[2:]]


# The GPU's program.


class WatchedHip(FakeHip):
    """Sets `began` when a graph or a kernel that is no sampling is queued; keeps the masks that sampling sees."""

    def __init__(self) -> None:
        super().__init__()
        self.began = threading.Event()
        self.masks: list[bytes] = []

    def hipGraphLaunch(self, executable: Any, stream: Any) -> int:
        self.began.set()
        return super().hipGraphLaunch(executable, stream)

    def hipModuleLaunchKernel(self, function: Any, *arguments: Any) -> int:
        if self.functions[function.value] != "sample":
            self.began.set()
        return super().hipModuleLaunchKernel(function, *arguments)

    def _run(self, kernel: str, *rest: Any) -> int:
        code = super()._run(kernel, *rest)
        if kernel == "sample":
            step = np.frombuffer(self.read(rest[2][0], STEP.itemsize), STEP)[0]
            records = self.read(int(step["sampling"]), int(step["num_logits"]) * SAMPLING.itemsize)
            for address in np.frombuffer(records, SAMPLING)["mask"].tolist():
                self.masks.append(self.read(address, -(-LAYOUT.vocab_size // 32) * 4) if address else b"")
        return code


@pytest.mark.parametrize("replays", [0, 2])
def test_the_gpu_is_at_work_before_the_mask_is_there(tmp_path: Path, replays: int) -> None:
    """Also where a graph that steps without masks made is replayed: masks have their place behind all else."""
    api, size = WatchedHip(), LAYOUT.vocab_size
    with hip_bundle(tmp_path) as bundle, pending_masks(size) as masks:
        program = load_hip_program(bundle, api, KvSize(20, 128), nodes=None)
        for _ in range(replays):
            program.step(batch(RowSampling(), RowSampling(), RowSampling()))
        api.began.clear()
        api.masks.clear()

        def make() -> Mask:
            if not api.began.wait(SECONDS):
                raise ConstraintError("response_format", "the device waits for the mask")
            return only(size, 3, 40)

        seen = np.array([4, 5], np.int32)
        rows = (
            RowSampling(mask=masks.begin(Source(make)), seen_tokens=seen, seen_counts=seen),
            RowSampling(),
            RowSampling(mask=np.array([7, 8], np.uint32), bias_tokens=seen, biases=seen.astype(np.float32)),
        )
        assert program.step(batch(*rows)).tolist() == [41, 42, 43]
        assert api.masks == [only(size, 3, 40).tobytes(), b"", np.array([7, 8], np.uint32).tobytes()]
        assert api.calls["hipGraphInstantiate"] == 1
        program.close()
    assert api.held() == 0


# The engine.


class Script:
    """A constraint that allows one text. `hold`: before each mask but the first, for the test to let it go."""

    def __init__(self, vocab_size: int, hold: Callable[[], object] = lambda: None) -> None:
        self.vocab_size = vocab_size
        self.hold = hold
        self.taken: list[int] = []
        self.used_by: list[str] = []

    def mask(self) -> Mask:
        if self.taken:
            self.hold()
        self.used_by.append(threading.current_thread().name)
        return only(self.vocab_size, TEXT[len(self.taken)])

    def take(self, token: int) -> bool:
        self.taken.append(token)
        return len(self.taken) == len(TEXT)

    def copy(self) -> Script:
        raise NotImplementedError  # nothing is drafted


@pytest.fixture
def engine(program: HostProgram, tokenizer: Tokenizer) -> Iterator[Engine]:
    made = Engine(program, tokenizer, CONTEXT, CountingMetrics(), limits=EngineLimits(draft_tokens=4))
    made.start()
    yield made
    made.stop(SECONDS)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("token-masks")]
    program._handle = None  # the engine has closed it


def request(constraint: Script | None, max_tokens: int = 40) -> GenerationRequest:
    sampling = SamplingParams(1.0, seed=5)
    return GenerationRequest((40, 41, 42), max_tokens, sampling, ignore_eos=True, constraint=constraint)


def ended(generation: Any) -> GenerationState:
    for event in generation.events(SECONDS):
        assert event is not None
    state: GenerationState = generation.state()
    return state


def test_tokens_obey_masks_that_the_device_did_not_wait_for(
    engine: Engine, program: HostProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each mask but the first is made only once the step that needs it has begun."""
    began = watch_forward(program, monkeypatch)

    def hold() -> None:
        if not began.wait(SECONDS):
            raise ConstraintError("response_format", "the device waits for the mask")

    script = Script(program.layout.vocab_size, hold)
    take = script.take

    def take_after_step(token: int) -> bool:
        began.clear()
        return take(token)

    monkeypatch.setattr(script, "take", take_after_step)
    state = ended(engine.submit(request(script)))
    assert (state.tokens, state.finish_reason, state.error) == (TEXT, "stop", None)
    # The first by the thread that submits; none for a token that is not to come.
    assert script.used_by == [threading.current_thread().name] + ["token-masks_0"] * (len(TEXT) - 1)
    assert engine.stats().draft_tokens == 0


def test_a_mask_that_fails_fails_its_own_request_alone(engine: Engine, program: HostProgram) -> None:
    def hold() -> None:
        if len(bad.taken) == 3:
            raise ConstraintError("response_format", "too complex")

    bad = Script(program.layout.vocab_size, hold)
    good = engine.submit(request(Script(program.layout.vocab_size)))
    free = engine.submit(request(None, 12))
    state = ended(engine.submit(request(bad)))
    assert (state.tokens, state.finish_reason, str(state.error)) == (TEXT[:3], "failed", "response_format: too complex")
    assert ended(good).tokens == TEXT
    assert len(ended(free).tokens) == 12
    assert engine.stats().pages_used == 0


def test_a_request_is_cancelled_while_its_mask_is_in_the_making(engine: Engine, program: HostProgram) -> None:
    held, go = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        assert go.wait(SECONDS)

    generation = engine.submit(request(Script(program.layout.vocab_size, hold)))
    assert held.wait(SECONDS)
    generation.cancel()
    go.set()
    state = ended(generation)
    assert state.finish_reason == "cancelled"
    assert state.tokens == TEXT[: len(state.tokens)]
    assert ended(engine.submit(request(Script(program.layout.vocab_size)))).tokens == TEXT


def test_no_mask_is_made_after_the_last_token(engine: Engine, program: HostProgram) -> None:
    script = Script(program.layout.vocab_size)
    assert ended(engine.submit(request(script, 3))).finish_reason == "length"
    assert len(script.used_by) == 3
