"""The engine: one thread that owns the device. schedule -> step -> postprocess."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Final

from ...artifacts.errors import BundleError, DeviceError, EngineBusyError, RequestError, RocmforgeError
from ..device.batch import Float32, Program, changed_files, close_program, device_facts
from ..device.token_masks import TokenMasks
from ..text.tokenizer import Tokenizer
from .embedding_sequence import EmbeddingSequence, hidden_states
from .embeddings import EmbeddingRequest
from .generation import (
    FINISH_CANCELLED,
    FINISH_FAILED,
    FINISH_LENGTH,
    EngineStats,
    Failure,
    GenerationRequest,
    Inbox,
    failure_of,
)
from .kv_cache import BlockPool
from .lifecycle import FINISHED, FIRST_TOKEN, QUEUED, EngineMetrics, Lifecycle, Observer
from .logprobs import TokenLogprobs
from .rate import Rate
from .scheduler import Chunk, Scheduler, StepLimits, make_batch, step_logprobs
from .sequence import Sequence, seed_of

log = logging.getLogger(__name__)

KEPT_FINISHED = 1024  # finished requests that /status still knows
CANCEL_SECONDS = 5.0  # for the last step, once all requests are cancelled
REBUILD_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)  # between attempts at a new program; the last again and again
LOOK_SECONDS: Final = 0.25  # how often the watchdog looks, at least
_NOT_FINITE: Final = Failure("the model's logits are not finite numbers (NaN or infinity)")


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What bounds queue and steps.

    Attributes:
        max_queue: requests that may wait.
        queue_seconds: longest wait of a request that has not begun; it fails then.
        step_seconds: after which a step counts as hung; its requests fail then.
        prefill_tokens: tokens of prompts in a step in which others decode.
        draft_tokens: guesses at next tokens that a step computes for a sequence; 0: none.
    """

    max_queue: int = 256
    queue_seconds: float = 600.0
    step_seconds: float = 600.0
    prefill_tokens: int = 64
    draft_tokens: int = 0


class Engine:
    """Continuous batching over a program. Public methods may be called from any thread.

    The lock guards the scheduler and what is known; the engine's thread holds it for the policy and for taking
    tokens, never while the device works.
    """

    def __init__(
        self,
        program: Program,
        tokenizer: Tokenizer,
        max_context: int,
        metrics: EngineMetrics,
        *,
        limits: EngineLimits = EngineLimits(),
        make_program: Callable[[], Program] | None = None,
        observer: Observer | None = None,
        request_ids: Iterator[int] | None = None,
    ) -> None:
        """Takes over `program`; call `start` to serve and `stop` to end.

        Args:
            program: the model on its device.
            tokenizer: of the model.
            max_context: most tokens of a request.
            metrics: what counts.
            limits: of queue and steps.
            make_program: another such program, after the device failed; None: the same one is tried again.
            observer: told the turns of each request, under the lock: it must be quick and not call back.
            request_ids: numbers of its requests; None: 1, 2, 3 and so on.
        """
        self._program: Program | None = program
        self._layout = program.layout
        self._tokenizer = tokenizer
        self._max_context = max_context
        self._metrics = metrics
        self._limits = limits
        self._make_program = make_program
        self._life = Lifecycle(metrics, observer)
        self._masks = TokenMasks(program.layout.vocab_size)
        layout = self._layout
        steps = StepLimits(layout.max_batch_tokens, layout.max_sequences, limits.prefill_tokens, limits.draft_tokens)
        self._scheduler = Scheduler(self._new_pool(program.num_blocks), steps, self._life.tell)
        self._known: OrderedDict[int, Sequence] = OrderedDict()
        self._wake = threading.Condition()  # and the lock
        self._ids = itertools.count(1) if request_ids is None else request_ids
        self._stopping = False
        self._problem: str | None = None  # why there is no device
        self._in_step: list[Chunk] = []
        self._step_began = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(program,), name="engine", daemon=True)
        self._watchdog = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._rate = Rate()

    def _new_pool(self, num_blocks: int) -> BlockPool:
        return BlockPool(num_blocks, self._layout.kv.block_size)

    @property
    def max_context(self) -> int:
        """See `EngineApi`."""
        return self._max_context

    @property
    def vocab_size(self) -> int:
        """See `EngineApi`."""
        return self._layout.vocab_size

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()
        self._watchdog.start()

    def stop(self, timeout: float) -> None:
        """Refuse new requests, let those in flight finish for `timeout` seconds, cancel the rest.

        Returns after at most `timeout` + `CANCEL_SECONDS`; the program stays open where a step still runs then.
        """
        with self._wake:
            self._stopping = True
            self._wake.notify_all()
        if self._thread.ident is not None:
            self._thread.join(timeout)
            with self._wake:
                for sequence in self._live():
                    sequence.cancel()
            self._thread.join(CANCEL_SECONDS)
        if self._thread.is_alive():
            log.error("the device did not finish its step within %g s; left alone", CANCEL_SECONDS)
        else:
            self._ended.set()
            self._masks.close()
            close_program(self._program)

    def submit(self, request: GenerationRequest) -> Sequence:
        """See `EngineApi`."""
        return self.submit_all([request])[0]

    def submit_all(self, requests: Collection[GenerationRequest]) -> list[Sequence]:
        """See `EngineApi`."""
        for request in requests:
            self._check(request)
        inbox = Inbox()
        # Before the lock is taken: the first mask of a constraint takes time, and may fail.
        sequences = [
            Sequence(self._new_id(), request, seed_of(request), self._tokenizer, index, inbox)
            for index, request in enumerate(requests)
        ]
        with self._wake:
            self._queue(sequences)
            for sequence in sequences:
                self._remember(sequence)
        return sequences

    def embed(self, requests: Collection[EmbeddingRequest]) -> list[EmbeddingSequence]:
        """See `EngineApi`."""
        if self._layout.final_norm is None:
            raise RequestError("model", "its bundle gives no embeddings: compile it again")
        if len(requests) > self._limits.max_queue:
            raise RequestError("input", f"expected at most {self._limits.max_queue} at once, found {len(requests)}")
        for request in requests:
            self._check_embedding(request.prompt_token_ids)
        sequences = [EmbeddingSequence(self._new_id(), request, self._tokenizer) for request in requests]
        with self._wake:
            self._queue(sequences)
        return sequences

    def _new_id(self) -> int:
        """A number that none of those known has."""
        with self._wake:
            return next(number for number in self._ids if number not in self._known)

    def _queue(self, sequences: Collection[Sequence]) -> None:
        """All of them, or none."""
        self._check_room(len(sequences))
        for sequence in sequences:
            self._scheduler.waiting.push(sequence)
            self._life.tell(QUEUED, sequence, sequence.num_prompt_tokens)
        self._wake.notify_all()

    def _check_room(self, count: int) -> None:
        if self._stopping:
            raise EngineBusyError("the server is stopping")
        if self._problem is not None:
            raise EngineBusyError(f"the model is not available: {self._problem}")
        if len(self._scheduler.waiting) + count > self._limits.max_queue:
            raise EngineBusyError(f"the queue is full ({self._limits.max_queue} requests)")

    def _check(self, request: GenerationRequest) -> None:
        ids, more, limit = request.prompt_token_ids, request.max_tokens, self._max_context
        self._check_ids("prompt", ids)
        if more < 0:
            raise RequestError("max_tokens", f"expected at least 0, found {more}")
        if len(ids) + more > limit:
            raise RequestError("max_tokens", f"prompt ({len(ids)}) and max_tokens ({more}) exceed a context of {limit}")
        if problem := self._too_long(len(ids) + more):
            raise RequestError("max_tokens", problem)

    def _check_embedding(self, ids: Collection[int]) -> None:
        self._check_ids("input", ids)
        if len(ids) > self._max_context:
            raise RequestError("input", f"{len(ids)} tokens exceed the context of {self._max_context}")
        if problem := self._too_long(len(ids)):
            raise RequestError("input", problem)

    def _check_ids(self, parameter: str, ids: Collection[int]) -> None:
        if not ids:
            raise RequestError(parameter, "expected at least one token, found none")
        if min(ids) < 0 or max(ids) >= self.vocab_size:
            raise RequestError(parameter, f"expected token ids from 0 to {self.vocab_size - 1}")

    def _too_long(self, tokens: int) -> str | None:
        pool = self._scheduler.pool
        needed = pool.blocks_for(tokens)
        return f"needs {needed} KV blocks, the cache has {pool.num_blocks}" if needed > pool.num_blocks else None

    def _remember(self, sequence: Sequence) -> None:
        self._known[sequence.request_id] = sequence
        if len(self._known) > KEPT_FINISHED:
            oldest = next((s for s in self._known.values() if s.finished), None)
            if oldest is not None:
                del self._known[oldest.request_id]

    def find(self, request_id: int) -> Sequence | None:
        """See `EngineApi`."""
        with self._wake:
            return self._known.get(request_id)

    def stats(self) -> EngineStats:
        """See `EngineApi`."""
        free, total = self._memory()
        with self._wake:
            scheduler, pool = self._scheduler, self._scheduler.pool
            return EngineStats(
                running=self._thread.is_alive() and not self._stopping and self._problem is None,
                active=len(scheduler.running),
                queued=len(scheduler.waiting),
                pages_used=pool.num_blocks - pool.num_free,
                pages_total=pool.num_blocks,
                active_sequences=len(scheduler.running),
                tokens_per_second=self._rate.value(),
                device_available=self._problem is None,
                problem=self._problem,
                memory_free_bytes=free,
                memory_total_bytes=total,
                pages_cached=pool.num_cached,
                prefix_hit_tokens=scheduler.prefix_hit_tokens,
                preemptions=scheduler.preemptions,
                draft_tokens=scheduler.draft_tokens,
                draft_tokens_right=scheduler.draft_tokens_right,
                **asdict(device_facts(self._program)),
            )

    def _memory(self) -> tuple[int, int]:
        program = self._program
        if program is None or self._problem is not None:
            return 0, 0
        try:
            return program.memory()
        except DeviceError:  # lost just now, or long ago and not yet noticed
            return 0, 0

    def _run(self, program: Program | None) -> None:
        """The loop. Ends with `stop`, or when the watchdog has put another thread in its place."""
        while (program := program or self._rebuild()) and (chunks := self._next_chunks()):
            try:
                tokens = program.step(make_batch(chunks)).tolist()
                self._take(chunks, tokens, step_logprobs(program, chunks, tokens), hidden_states(program, chunks))
            except Exception as error:  # whatever a step does, the next requests are served
                program = self._fail(chunks, error, program)
        if self._replaced():
            close_program(program)

    def _next_chunks(self) -> list[Chunk]:
        """Wait for work and choose the next step; empty where the engine is stopping and all is done."""
        with self._wake:
            while not self._replaced():
                self._drop_ended()
                self._in_step, self._step_began = self._scheduler.next_chunks(), time.monotonic()
                if self._in_step or self._stopping:
                    return self._in_step
                self._wake.wait()
            return []

    def _take(
        self,
        chunks: list[Chunk],
        tokens: list[int],
        logprobs: list[TokenLogprobs | None],
        hidden: list[tuple[Chunk, EmbeddingSequence, Float32]],
    ) -> None:
        drawn = zip(tokens, logprobs, strict=True)
        seconds = time.monotonic() - self._step_began
        with self._wake:
            if self._given_up(chunks):
                return
            for chunk in chunks:
                self._scheduler.computed(chunk)
            taken = sum(self._take_rows(chunk, list(islice(drawn, chunk.num_logits))) for chunk in chunks)
            if next(drawn, None) is not None:
                raise ValueError("the device drew more tokens than were asked for")
            for chunk, embedding, states in hidden:
                embedding.take(chunk, states)
                if embedding.finished:
                    self._release(embedding)
            self._in_step = []
            self._rate.add(taken)
        self._metrics.tokens_generated(taken)
        self._metrics.observe_step(seconds, len(chunks), sum(chunk.num_tokens for chunk in chunks))

    def _take_rows(self, chunk: Chunk, rows: list[tuple[int, TokenLogprobs | None]]) -> int:
        """Take what rows of logits came to: scores of the prompt, then tokens; returns how many tokens."""
        if len(rows) < chunk.num_logits:
            raise ValueError("the device drew fewer tokens than were asked for")
        sequence, scored = chunk.sequence, rows[: len(chunk.scored)]
        if any(token < 0 for token, _ in scored):
            self._finish(sequence, FINISH_FAILED, _NOT_FINITE)
            return 0
        sequence.take_scores([score for _, score in scored if score is not None])
        taken = self._take_tokens(chunk, rows[len(scored) :])
        if chunk.completes and sequence.ends_with_prompt:
            self._finish(sequence, FINISH_LENGTH)
        return taken

    def _take_tokens(self, chunk: Chunk, drawn: list[tuple[int, TokenLogprobs | None]]) -> int:
        """Take the next token, and those after drafts that are right; returns how many that were."""
        sequence, before = chunk.sequence, chunk.sequence.num_generated
        right = 0
        for index, (token, logprob) in enumerate(drawn):
            self._take_token(sequence, token, logprob)
            if sequence.finished or chunk.drafts[index : index + 1] != (token,):
                break
            right += 1
        if chunk.drafts and not sequence.finished:
            self._scheduler.drafts_judged(chunk, right)
            self._metrics.drafts_judged(len(chunk.drafts), right)
        return sequence.num_generated - before

    def _take_token(self, sequence: Sequence, token: int, logprobs: TokenLogprobs | None) -> None:
        if sequence.first_token_at is None:
            self._life.tell(FIRST_TOKEN, sequence)
        if token < 0:
            self._finish(sequence, FINISH_FAILED, sequence.mask_error() or _NOT_FINITE)
            return
        is_eos = token in self._tokenizer.config.eos_token_ids and not sequence.request.ignore_eos
        sequence.append(token, is_eos, logprobs)
        if sequence.finished:
            self._release(sequence)
        else:
            sequence.begin_mask(self._masks)

    def _drop_ended(self) -> None:
        """End those that were cancelled, and those whose time is over."""
        now, queue_seconds = time.monotonic(), self._limits.queue_seconds
        for sequence in self._live():
            if sequence.cancel_requested:
                self._finish(sequence, FINISH_CANCELLED)
            elif (overdue := sequence.overdue(now, queue_seconds)) is not None:
                self._finish(sequence, *overdue)

    def _live(self) -> list[Sequence]:
        return [*self._scheduler.running, *self._scheduler.waiting]

    def _finish(self, sequence: Sequence, reason: str, error: Failure | None = None) -> None:
        sequence.finish(reason, error)
        self._release(sequence)

    def _release(self, sequence: Sequence) -> None:
        reason = sequence.finish_reason or FINISH_FAILED
        self._scheduler.release(sequence, trusted=reason != FINISH_FAILED)
        self._life.tell(FINISHED, sequence, sequence.num_generated, reason)

    # What goes wrong.

    def _fail(self, chunks: list[Chunk], error: Exception, program: Program) -> Program | None:
        """A step raised; returns the program to go on with, None: another is needed."""
        lost = isinstance(error, (DeviceError, BundleError)) and self._make_program is not None
        with self._wake:
            if self._given_up(chunks):
                return program
            self._fail_step(error)
            if lost:
                self._problem, self._program = str(error), None
        if not lost:
            return program
        close_program(program)
        return None

    def _fail_step(self, error: Exception) -> None:
        """End the requests of a step that failed, and start the others over: what it left in the cache is not known.
        Where the bundle is torn, end the others too: it may stay so."""
        if isinstance(error, RocmforgeError):
            log.error("step failed: %s", error)
        else:
            log.error("step failed", exc_info=error)
        failure = failure_of(error)
        chunks, self._in_step = self._in_step, []
        others = self._live() if isinstance(error, BundleError) else []
        for sequence in [*(chunk.sequence for chunk in chunks), *others]:
            if not sequence.finished:
                self._finish(sequence, FINISH_FAILED, failure)
        self._scheduler.start_over(self._new_pool(self._scheduler.pool.num_blocks))

    def _given_up(self, chunks: list[Chunk]) -> bool:
        """Whether the watchdog has failed this step already. Where the device came back after all, it is used again."""
        if self._in_step is chunks:
            return False
        if not self._replaced():
            self._problem = None
        return True

    def _replaced(self) -> bool:
        return self._thread is not threading.current_thread()

    def _watch(self) -> None:
        """The watchdog: fails a step that hangs, and sees changed files while there is no step that would. With
        `make_program`, another thread goes on with another program."""
        limit = self._limits.step_seconds
        while not self._ended.wait(min(LOOK_SECONDS, limit / 4)):
            program = self._program
            changed = changed_files(program)  # without the lock: the file system may hang
            with self._wake:
                if self._problem is not None:
                    self._drop_ended()  # the engine's thread hangs, or is busy with a new program
                if self._in_step and time.monotonic() - self._step_began >= limit:
                    error: RocmforgeError = DeviceError(f"the device did not finish its step within {limit:g} s")
                elif changed is not None and not self._in_step and self._program is program and self._problem is None:
                    error = changed
                else:
                    continue
                self._fail_step(error)
                self._problem = str(error)
                if self._make_program is not None and not self._stopping:
                    self._program = None
                    self._thread = threading.Thread(target=self._run, args=(None,), name="engine", daemon=True)
                    self._thread.start()
                    self._wake.notify_all()  # the thread before it, if it waits for work

    def _rebuild(self) -> Program | None:
        """A new program, however many attempts it takes; None where the engine stops before."""
        make = self._make_program
        delays = itertools.chain(REBUILD_SECONDS, itertools.repeat(REBUILD_SECONDS[-1]))
        while make is not None:
            try:
                program = make()
            except Exception as error:
                log.error("not available: %s", error, exc_info=None if isinstance(error, RocmforgeError) else error)
                if not self._wait_without_device(time.monotonic() + next(delays)):
                    break
            else:
                self._adopt(program)
                return program
        return None

    def _wait_without_device(self, until: float) -> bool:
        """Whether there is to be another attempt, at `until`; the watchdog drops what is cancelled meanwhile."""
        with self._wake:
            while (left := until - time.monotonic()) > 0:
                if self._stopping:
                    for sequence in self._live():
                        self._finish(sequence, FINISH_FAILED, Failure(self._problem or "the engine is stopping"))
                    return False
                self._wake.wait(left)
        return True

    def _adopt(self, program: Program) -> None:
        with self._wake:
            self._scheduler.start_over(self._new_pool(program.num_blocks))
            for sequence in self._live():
                problem = self._too_long(sequence.max_length)
                if problem is not None:
                    self._finish(sequence, FINISH_FAILED, Failure(problem))
            self._program, self._problem = program, None
        log.info("the device is available again")
