"""The engine: one thread that owns the device. schedule -> step -> postprocess."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from ...artifacts.dataclass import dataclass
from ...artifacts.errors import EngineBusyError, RequestError
from ...artifacts.layout import Layout
from ..device.batch import Program, close_program
from ..device.token_masks import TokenMasks
from ..text.tokenizer import Tokenizer
from .checks import check_embedding, check_generation, check_pictures, too_long
from .drafts import DraftPolicy
from .embedding_sequence import EmbeddingSequence
from .embeddings import EmbeddingRequest
from .generation import EngineStats, GenerationRequest, Inbox
from .kv_cache import BlockPool
from .lifecycle import EngineMetrics, Lifecycle, Observer
from .rate import Rate
from .recovery import Recovery
from .request_table import RequestTable
from .scheduler import Chunk, Scheduler, StepLimits
from .sequence import ActiveSequence, seed_of
from .state_slots import slots_for
from .step import StepOutput, run_step

if TYPE_CHECKING:
    from ..device.head import EmbeddingHead
    from .picture_encoder import PictureEncoder
    from .pictures import PromptPictures

log = logging.getLogger(__name__)

CANCEL_SECONDS = 5.0  # for the last step, once all requests are cancelled


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What bounds queue and steps.

    Attributes:
        max_queue: requests that may wait.
        queue_seconds: longest wait of a request that has not begun; it fails then.
        step_seconds: after which a step counts as hung; its requests fail then.
        prefill_tokens: tokens of prompts in a step in which others decode; more where several wait for each of these.
        draft_tokens: drafts of next tokens that a step computes for a sequence; 0: none.
        mtp: a block that the model brings makes such drafts, where its bundle has one.
    """

    max_queue: int = 256
    queue_seconds: float = 600.0
    step_seconds: float = 600.0
    prefill_tokens: int = 64
    draft_tokens: int = 0
    mtp: bool = True


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
        limits: EngineLimits = EngineLimits(),  # noqa: B008 (frozen)
        make_program: Callable[[], Program] | None = None,
        observer: Observer | None = None,
        request_ids: Iterator[int] | None = None,
        head: EmbeddingHead | None = None,
        policy: DraftPolicy | None = None,
        encoder: PictureEncoder | None = None,
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
            head: what makes vectors or scores of hidden states, where the model has one.
            policy: that of the program's draft model, where it has one.
            encoder: of pictures, where the model sees; closed with the program.
        """
        layout = program.layout
        self._layout = layout
        self._tokenizer = tokenizer
        self._max_context = max_context
        self._metrics = metrics
        self._limits = limits
        self._head = head
        self._policy = policy
        self._encoder = encoder
        steps = StepLimits(
            layout.max_batch_tokens,
            layout.max_sequences,
            limits.prefill_tokens,
            0 if layout.both_ways else limits.draft_tokens,
            layout.both_ways,
        )
        life, pool = Lifecycle(metrics, observer), BlockPool(program.num_blocks, layout.kv.block_size)
        self._scheduler = Scheduler(pool, steps, life.tell, slots_for(layout, program.num_state_slots), policy)
        masks = TokenMasks(layout.vocab_size)
        self._requests = RequestTable(self._scheduler, life, metrics, masks, tokenizer.config.eos_token_ids)
        seconds = limits.step_seconds, limits.queue_seconds
        self._recovery = Recovery(program, make_program, self._requests, *seconds, run=self._run)
        self._wake = self._recovery.wake
        self._ids = itertools.count(1) if request_ids is None else request_ids
        self._rate = Rate()

    @property
    def max_context(self) -> int:
        """See `EngineApi`."""
        return self._max_context

    @property
    def layout(self) -> Layout:
        """That of its programs."""
        return self._layout

    @property
    def vocab_size(self) -> int:
        """See `EngineApi`."""
        return self._layout.vocab_size

    def start(self) -> None:
        """Begin to serve."""
        self._recovery.start()

    def stop(self, timeout: float) -> None:
        """Refuse new requests, let those in flight finish for `timeout` seconds, cancel the rest.

        Returns after at most `timeout` + `CANCEL_SECONDS`; the program stays open where a step still runs then.
        """
        recovery = self._recovery
        with self._wake:
            recovery.stopping = True
            self._wake.notify_all()
        if recovery.thread.ident is not None:
            recovery.thread.join(timeout)
            with self._wake:
                for sequence in self._requests.live():
                    sequence.cancel()
            recovery.thread.join(CANCEL_SECONDS)
        if recovery.thread.is_alive():
            log.error("the device did not finish its step within %g s; left alone", CANCEL_SECONDS)
        else:
            self._requests.masks.close()
            if self._encoder is not None:
                self._encoder.close()
            recovery.close()

    def submit(self, request: GenerationRequest) -> ActiveSequence:
        """See `EngineApi`."""
        return self.submit_all([request])[0]

    def submit_all(self, requests: Collection[GenerationRequest]) -> list[ActiveSequence]:
        """See `EngineApi`."""
        if self._layout.both_ways and self._layout.head is not None:  # an encoder's logits are nobody's words
            raise RequestError("model", "it was made to embed or to rank texts, and generates none")
        for request in requests:
            check_generation(request, self._layout, self._max_context, self._scheduler.pool)
            check_pictures(request, self._layout, None if self._encoder is None else self._encoder.vision)
        inbox = Inbox()
        # Before the lock is taken: pictures, and the first mask of a constraint, take time, and may fail.
        pictures = self._encoded(requests)
        sequences = [
            ActiveSequence(self._new_id(), request, seed_of(request), self._tokenizer, index, inbox, pictures[index])
            for index, request in enumerate(requests)
        ]
        with self._wake:
            self._queue(sequences)
            for sequence in sequences:
                self._requests.remember(sequence)
        return sequences

    def _encoded(self, requests: Collection[GenerationRequest]) -> list[PromptPictures | None]:
        """Of each request, once where it is several times the same prompt."""
        if self._encoder is None:
            return [None] * len(requests)
        prompts = {(one.pictures, len(one.prompt_token_ids)) for one in requests}
        found = {prompt: self._encoder.of_prompt(*prompt) for prompt in prompts}
        return [found[one.pictures, len(one.prompt_token_ids)] for one in requests]

    def embed(self, requests: Collection[EmbeddingRequest]) -> list[EmbeddingSequence]:
        """See `EngineApi`."""
        if self._layout.final_norm is None:
            raise RequestError("model", "its bundle gives no embeddings: compile it again")
        if len(requests) > self._limits.max_queue:
            raise RequestError("input", f"expected at most {self._limits.max_queue} at once, found {len(requests)}")
        for request in requests:
            check_embedding(request, self._layout, self._max_context, self._scheduler.pool)
        if any(request.rank for request in requests) and not (self._head is not None and self._head.ranks):
            raise RequestError("model", "it is not made to rank texts")
        sequences = [EmbeddingSequence(self._new_id(), request, self._tokenizer, self._head) for request in requests]
        with self._wake:
            self._queue(sequences)
        return sequences

    def _new_id(self) -> int:
        """A number that none of those known has."""
        with self._wake:
            return next(number for number in self._ids if self._requests.find(number) is None)

    def _queue(self, sequences: Collection[ActiveSequence]) -> None:
        """All of them, or none."""
        if self._recovery.stopping:
            raise EngineBusyError("the server is stopping")
        if self._recovery.problem is not None:
            raise EngineBusyError(f"the model is not available: {self._recovery.problem}")
        if len(self._scheduler.waiting) + len(sequences) > self._limits.max_queue:
            raise EngineBusyError(f"the queue is full ({self._limits.max_queue} requests)")
        for sequence in sequences:  # they were held against the cache before; a lost device may have left a smaller one
            if problem := too_long(sequence.max_length, self._scheduler.pool):
                raise EngineBusyError(problem)
        self._requests.queue(sequences)
        self._wake.notify_all()

    def find(self, request_id: int) -> ActiveSequence | None:
        """See `EngineApi`."""
        with self._wake:
            return self._requests.find(request_id)

    def stats(self) -> EngineStats:
        """See `EngineApi`."""
        recovery = self._recovery
        free, total = recovery.memory()
        with self._wake:
            scheduler, pool = self._scheduler, self._scheduler.pool
            slots = None if scheduler.states is None else scheduler.states.pool
            return EngineStats(
                running=recovery.thread.is_alive() and not recovery.stopping and recovery.problem is None,
                active=len(scheduler.running),
                queued=len(scheduler.waiting),
                pages_used=pool.num_blocks - pool.num_free,
                pages_total=pool.num_blocks,
                active_sequences=len(scheduler.running),
                tokens_per_second=self._rate.value(),
                device_available=recovery.problem is None,
                problem=recovery.problem,
                memory_free_bytes=free,
                memory_total_bytes=total,
                pages_cached=pool.num_cached,
                prefix_hit_tokens=scheduler.prefix_hit_tokens,
                preemptions=scheduler.preemptions,
                draft_tokens=scheduler.draft_tokens,
                draft_tokens_accepted=scheduler.draft_tokens_accepted,
                **asdict(recovery.facts()),
                state_slots_used=0 if slots is None else slots.size - slots.num_free,
                state_slots_total=0 if slots is None else slots.size,
                state_slots_cached=0 if slots is None else slots.num_cached,
                draft=None if self._policy is None else self._policy.stats(),
            )

    def _run(self, program: Program | None) -> None:
        """The loop. Ends with `stop`, or when the watchdog has put another thread in its place."""
        recovery = self._recovery
        while (program := program or recovery.rebuild()) and (chunks := self._next_chunks()):
            try:
                self._take(chunks, run_step(program, chunks))
            except Exception as error:  # whatever a step does, the next requests are served
                program = recovery.step_failed(chunks, error, program)
        if recovery.replaced():
            close_program(program)

    def _next_chunks(self) -> list[Chunk]:
        """Wait for work and choose the next step; empty where the engine is stopping and all is done."""
        recovery = self._recovery
        with self._wake:
            while not recovery.replaced():
                try:
                    self._requests.drop_ended(self._limits.queue_seconds)
                    chunks = self._scheduler.next_chunks()
                except Exception as error:  # as for want of memory: the next requests are served
                    recovery.choice_failed(error)
                    continue
                recovery.begin_step(chunks)
                if chunks or recovery.stopping:
                    return chunks
                self._wake.wait()
            return []

    def _take(self, chunks: list[Chunk], output: StepOutput) -> None:
        seconds = self._recovery.step_seconds()
        with self._wake:
            if self._recovery.given_up(chunks):
                return
            taken = self._requests.take(chunks, output)
            self._recovery.end_step()
            self._rate.add(taken)
        self._metrics.tokens_generated(taken)
        self._metrics.observe_step(seconds, len(chunks), sum(chunk.num_tokens for chunk in chunks))
