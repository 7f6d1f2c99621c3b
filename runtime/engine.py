"""The engine: one thread that owns the device. schedule -> step -> postprocess."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import OrderedDict, deque
from typing import Protocol

from ..artifacts.errors import RocmforgeError, printable
from .batch import Program
from .generation import (
    FINISH_CANCELLED,
    FINISH_FAILED,
    EngineBusyError,
    EngineStats,
    GenerationRequest,
    RequestError,
)
from .kv_cache import BlockPool
from .logprobs import TokenLogprobs, token_logprobs
from .scheduler import Chunk, admit, make_batch, schedule
from .sequence import Sequence
from .tokenizer import Tokenizer

log = logging.getLogger(__name__)

MAX_QUEUE = 256
KEPT_FINISHED = 1024  # finished requests that /status still knows
CANCEL_SECONDS = 5.0  # for the last step, once all requests are cancelled


class EngineMetrics(Protocol):
    """What the engine counts."""

    def request_started(self) -> None:
        """A request was queued."""

    def request_finished(self, reason: str) -> None:
        """A request ended: length, stop, eos, cancelled or failed."""

    def tokens_generated(self, count: int) -> None:
        """So many tokens were generated."""

    def observe_prefill(self, seconds: float) -> None:
        """From admission to the first token."""

    def observe_decode(self, seconds: float) -> None:
        """From the first token to the last."""

    def observe_total(self, seconds: float) -> None:
        """From submission to the end."""

    def observe_ttft(self, seconds: float) -> None:
        """From submission to the first token."""


class Engine:
    """Continuous batching over a program. Public methods may be called from any thread.

    The lock guards the queues, the pool and what is known; the engine's thread holds it for the policy and for
    taking tokens, never while the device works.
    """

    def __init__(self, program: Program, tokenizer: Tokenizer, max_context: int, metrics: EngineMetrics) -> None:
        """Takes over `program`; call `start` to serve and `stop` to end."""
        self._program = program
        self._tokenizer = tokenizer
        self._max_context = max_context
        self._metrics = metrics
        self._pool = BlockPool(program.num_blocks, program.layout.kv.block_size)
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._known: OrderedDict[int, Sequence] = OrderedDict()
        self._wake = threading.Condition()  # and the lock
        self._next_id = 1
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._rate = _Rate()

    @property
    def max_context(self) -> int:
        """See `EngineApi`."""
        return self._max_context

    @property
    def vocab_size(self) -> int:
        """See `EngineApi`."""
        return self._program.layout.vocab_size

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

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
                for sequence in (*self._running, *self._waiting):
                    sequence.cancel()
            self._thread.join(CANCEL_SECONDS)
        if self._thread.is_alive():
            log.error("the device did not finish its step within %g s; left alone", CANCEL_SECONDS)
        else:
            self._program.close()

    def submit(self, request: GenerationRequest) -> Sequence:
        """See `EngineApi`."""
        self._check(request)
        seed = request.sampling.seed
        with self._wake:
            if self._stopping:
                raise EngineBusyError("the server is stopping")
            if len(self._waiting) >= MAX_QUEUE:
                raise EngineBusyError(f"the queue is full ({MAX_QUEUE} requests)")
            sequence = Sequence(self._next_id, request, secrets.randbits(64) if seed is None else seed, self._tokenizer)
            self._next_id += 1
            self._remember(sequence)
            self._waiting.append(sequence)
            self._metrics.request_started()
            self._wake.notify_all()
        return sequence

    def _check(self, request: GenerationRequest) -> None:
        ids = request.prompt_token_ids
        if not ids:
            raise RequestError("prompt", "expected at least one token, found none")
        if min(ids) < 0 or max(ids) >= self.vocab_size:
            raise RequestError("prompt", f"expected token ids from 0 to {self.vocab_size - 1}")
        if request.max_tokens < 1:
            raise RequestError("max_tokens", f"expected at least 1, found {request.max_tokens}")
        if len(ids) + request.max_tokens > self._max_context:
            raise RequestError(
                "max_tokens",
                f"prompt ({len(ids)}) and max_tokens ({request.max_tokens}) exceed the context of {self._max_context}",
            )
        needed = self._pool.blocks_for(len(ids) + request.max_tokens)
        if needed > self._pool.num_blocks:
            raise RequestError("max_tokens", f"needs {needed} KV blocks, the cache has {self._pool.num_blocks}")

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
        free, total = self._program.memory()
        with self._wake:
            return EngineStats(
                running=self._thread.is_alive() and not self._stopping,
                active=len(self._running),
                queued=len(self._waiting),
                pages_used=self._pool.num_blocks - self._pool.num_free,
                pages_total=self._pool.num_blocks,
                active_sequences=len(self._running),
                tokens_per_second=self._rate.value(),
                device_available=True,
                memory_free_bytes=free,
                memory_total_bytes=total,
            )

    def _run(self) -> None:
        while chunks := self._next_chunks():
            try:
                tokens = self._program.step(make_batch(chunks)).tolist()
                self._take(chunks, tokens, self._logprobs(chunks, tokens))
            except Exception as error:  # whatever a step does, the next requests are served
                self._fail(chunks, error)

    def _next_chunks(self) -> list[Chunk]:
        """Wait for work and choose the next step; empty where the engine is stopping and all is done."""
        layout = self._program.layout
        with self._wake:
            while True:
                self._drop_cancelled()
                for sequence in admit(self._waiting, self._running, self._pool, layout.max_sequences):
                    sequence.admitted_at = time.monotonic()
                chunks = schedule(self._running, layout.max_batch_tokens)
                if chunks or self._stopping:
                    return chunks
                self._wake.wait()

    def _logprobs(self, chunks: list[Chunk], tokens: list[int]) -> list[TokenLogprobs | None]:
        """Of the step's tokens, where they were asked for."""
        asked = [chunk.sequence.request.logprobs for chunk in chunks if chunk.completes]
        if all(count is None for count in asked):
            return [None] * len(tokens)
        rows = self._program.logits(len(tokens))
        return [
            None if count is None or token < 0 else token_logprobs(row, token, count)
            for row, token, count in zip(rows, tokens, asked, strict=True)
        ]

    def _take(self, chunks: list[Chunk], tokens: list[int], logprobs: list[TokenLogprobs | None]) -> None:
        completing = [chunk.sequence for chunk in chunks if chunk.completes]
        with self._wake:
            for chunk in chunks:
                chunk.sequence.num_computed += chunk.count
            for sequence, token, logprob in zip(completing, tokens, logprobs, strict=True):
                self._take_token(sequence, token, logprob)
            self._rate.add(len(tokens))
        self._metrics.tokens_generated(sum(token >= 0 for token in tokens))

    def _fail(self, chunks: list[Chunk], error: Exception) -> None:
        """End the requests of a step that failed: what it left in their pages is not known."""
        if isinstance(error, RocmforgeError):
            log.error("step failed: %s", error)
        else:
            log.exception("step failed")
        reason = str(error) if isinstance(error, RocmforgeError) else f"internal error: {printable(repr(error))}"
        with self._wake:
            for sequence in [chunk.sequence for chunk in chunks if not chunk.sequence.finished]:
                self._finish(sequence, FINISH_FAILED, reason)

    def _take_token(self, sequence: Sequence, token: int, logprobs: TokenLogprobs | None) -> None:
        now = time.monotonic()
        if sequence.first_token_at is None:
            sequence.first_token_at = now
            self._metrics.observe_ttft(now - sequence.submitted_at)
            self._metrics.observe_prefill(now - (sequence.admitted_at or now))
        if token < 0:
            self._finish(sequence, FINISH_FAILED, "the model's logits are not finite numbers (NaN or infinity)")
            return
        is_eos = token in self._tokenizer.config.eos_token_ids and not sequence.request.ignore_eos
        sequence.append(token, is_eos, logprobs)
        if sequence.finished:
            self._release(sequence)

    def _drop_cancelled(self) -> None:
        for sequence in [s for s in (*self._running, *self._waiting) if s.cancel_requested]:
            self._finish(sequence, FINISH_CANCELLED)

    def _finish(self, sequence: Sequence, reason: str, error: str | None = None) -> None:
        sequence.finish(reason, error)
        self._release(sequence)

    def _release(self, sequence: Sequence) -> None:
        if sequence in self._running:
            self._running.remove(sequence)
        else:
            self._waiting.remove(sequence)
        self._pool.give_back(sequence.blocks)
        sequence.blocks = []
        now = time.monotonic()
        if sequence.first_token_at is not None:
            self._metrics.observe_decode(now - sequence.first_token_at)
        self._metrics.observe_total(now - sequence.submitted_at)
        self._metrics.request_finished(sequence.finish_reason or FINISH_FAILED)


class _Rate:
    """Tokens a second over the last seconds."""

    WINDOW_SECONDS = 5.0

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque(maxlen=4096)

    def add(self, tokens: int) -> None:
        self._samples.append((time.monotonic(), tokens))

    def value(self) -> float:
        since = time.monotonic() - self.WINDOW_SECONDS
        recent = [(at, tokens) for at, tokens in list(self._samples) if at >= since]
        if len(recent) < 2:
            return 0.0
        return sum(tokens for _, tokens in recent[1:]) / max(recent[-1][0] - recent[0][0], 1e-6)
