"""What a caller asks of the engine and what it gets back: the seam between HTTP and engine."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import field
from typing import Final, Protocol

from ...artifacts.dataclass import dataclass
from ...artifacts.sampling import SamplingNumbers
from ..device.batch import UInt32
from .embeddings import AdapterScales, EmbeddingRequest, PendingEmbedding
from .failure import Failure
from .logprobs import TokenLogprobs
from .pictures import PlacedPicture

FINISH_LENGTH = "length"
FINISH_STOP = "stop"
FINISH_EOS = "eos"
FINISH_CANCELLED = "cancelled"
FINISH_FAILED = "failed"


@dataclass(frozen=True, slots=True)
class SamplingParams(SamplingNumbers):
    """How the next token is chosen.

    `seed` None: the engine draws one. `logit_bias` are token ids, each once, and what is added to their logits before
    the penalties.
    """

    seed: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()


class Constraint(Protocol):
    """What the output must match. One request owns it: it goes forward with the tokens."""

    def mask(self) -> UInt32:
        """A bit a token, the lowest first: those that may come next.

        Raises:
            RocmforgeError: it cannot be said.
        """

    def take(self, token: int) -> bool:
        """Go on by a token; returns whether nothing but the end can follow.

        Raises:
            RocmforgeError: it cannot go on.
        """

    def copy(self) -> Constraint:
        """Return another one at the same place, which goes on by drafts while this one waits."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A prompt, already tokenized, and the conditions under which its continuation ends.

    `max_tokens` 0: the prompt is computed, and its KV blocks may be shared, but no token is drawn.
    `stop_token_ids` end it as stop strings do: their text is not part of it. `logprobs`: give each token's
    log-probability and those of so many of the likeliest; None: give none. `prompt_logprobs`: the same for all of
    the prompt's tokens but the first; they are computed for that, whatever lies in the cache.
    `client` names who asks: clients are served in turn. `deadline_seconds` after which it is cancelled, wherever it is.
    `cache_space`: those of one space share what was computed of their prompts, and others do not see that it was.
    `kept_tokens`: control tokens whose text the output keeps, for who reads it by them.
    `adapters`: names of those that the model is computed with, each once, and what each is multiplied by.
    `pictures` whose rows stand for tokens of the prompt, which are `PICTURE_TOKEN` there, in their order.
    """

    prompt_token_ids: tuple[int, ...]
    max_tokens: int
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    stop_token_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    constraint: Constraint | None = None
    client: str = ""
    deadline_seconds: float | None = None
    prompt_logprobs: int | None = None
    cache_space: str = ""
    kept_tokens: tuple[int, ...] = ()
    adapters: AdapterScales = ()
    pictures: tuple[PlacedPicture, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One generated token, or the end of a generation.

    `text` holds only whole characters, and never a part of a stop string; a token whose text is
    not yet decided has `text` "" and the text arrives with a later event. The last event
    has `finished` True; `token` is None where the end came without a new token (a cancel, a failure).
    `error` says why where `finish_reason` is "failed", or "cancelled" by a time limit. `logprobs` are there
    where they were asked for and the token is a part of the output: those that end it are not. `index` is the
    request's place among those submitted with it; `stop` the stop string that ended it, where one did.
    `end_logprobs` are those of a token that ended it and is no part of it.
    `prompt_logprobs`, where they were asked for, come with the first event and are kept nowhere else: they may be
    large.
    """

    token: int | None
    text: str
    finished: bool = False
    finish_reason: str | None = None
    error: Failure | None = None
    logprobs: TokenLogprobs | None = None
    index: int = 0
    stop: str | None = None
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    end_logprobs: TokenLogprobs | None = None


class Inbox:
    """Events on their way from the engine to who waits for them. Thread-safe.

    They are kept until `get` fetches them; or `hand_on` names who takes them as they come, in the thread that puts.
    """

    def __init__(self, hurried: bool = True) -> None:
        """Args: whether the thread that puts is the engine's, whose next step waits while somebody takes."""
        self.hurried = hurried
        self._events: queue.SimpleQueue[TokenEvent] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._taker: Callable[[TokenEvent], None] | None = None

    def put(self, event: TokenEvent) -> None:
        """The next event."""
        with self._lock:
            (self._taker or self._events.put)(event)

    def get(self, timeout: float | None = None) -> TokenEvent:
        """Wait for the next event.

        Raises:
            queue.Empty: none came within `timeout` seconds.
        """
        return self._events.get(timeout=timeout)

    def hand_on(self, taker: Callable[[TokenEvent], None]) -> None:
        """Have `taker` called with the events that wait and each that comes; quick where it is `hurried`."""
        with self._lock:
            while not self._events.empty():
                taker(self._events.get())
            self._taker = taker

    def close(self) -> None:
        """Nobody waits any more: forget who took them, and drop what comes. The engine knows its requests for long."""
        self.hand_on(_drop)


def _drop(_: TokenEvent) -> None:
    pass


@dataclass(frozen=True, slots=True)
class GenerationState:
    """A snapshot of one request: everything generated so far. `cached_tokens` of its prompt lay in the prefix cache."""

    request_id: int
    text: str
    tokens: tuple[int, ...]
    prompt_tokens: int
    finished: bool
    finish_reason: str | None
    error: Failure | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()
    cached_tokens: int = field(default=0, compare=False)  # how it was computed, not what it came to


class Generation(Protocol):
    """A submitted request, seen from the thread that waits for it."""

    @property
    def request_id(self) -> int:
        """Number by which `/status` and `/cancel` know it."""

    @property
    def client(self) -> str:
        """Who asked for it, as `GenerationRequest` has it."""

    @property
    def inbox(self) -> Inbox:
        """Where its events arrive, and those of all that were submitted with it; each is there once."""

    def events(self, timeout: float | None = None) -> Iterator[TokenEvent | None]:
        """Yield events as they come, and None each time `timeout` seconds pass without one.

        For a request submitted alone; `events_of` is for several.
        """

    def state(self) -> GenerationState:
        """What has been generated up to now."""

    def cancel(self) -> None:
        """Ask for the end; the last event says "cancelled" within a step. Harmless when finished."""


def events_of(generations: Sequence[Generation], timeout: float | None = None) -> Iterator[TokenEvent | None]:
    """Yield the events of all, in the order of their coming, until the last has finished.

    Args:
        generations: all that one call of `submit_all` returned; their events are read by nobody else.
        timeout: seconds without an event after which None is yielded, again and again; None: wait for ever.
    """
    unfinished = len(generations)
    while unfinished:
        try:
            event = generations[0].inbox.get(timeout=timeout)
        except queue.Empty:
            yield None
            continue
        unfinished -= event.finished
        yield event


@dataclass(frozen=True, slots=True)
class DeviceStats:
    """Of one device whose engine has a process of its own; `restarts` of that. The others as in `EngineStats`."""

    device: str
    restarts: int
    running: bool
    problem: str | None
    active: int
    queued: int
    pages_used: int
    pages_total: int
    tokens_per_second: float
    memory_free_bytes: int
    memory_total_bytes: int


@dataclass(frozen=True, slots=True)
class DraftStats:
    """Of a draft model: its name, why it makes no drafts at the moment, and how many of its drafts were accepted."""

    model: str
    problem: str | None = None
    proposed: int = 0
    accepted: int = 0


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counts for `/health` and the gauges of `/metrics`.

    `state_slots_used` of `state_slots_total` are held by requests, `state_slots_cached` are snapshots, held or not;
    all 0 where the model has no recurrent state.

    `pages_used` are KV blocks held by requests; `pages_cached` known for their content, held or not. Since the engine
    began `prefix_hit_tokens` did not have to be computed, `preemptions` took place, and of `draft_tokens`
    `draft_tokens_accepted` were accepted. `device_available` is false, and so is `running`, while a step hangs, a lost
    device is set up again or the bundle is torn; `problem` says which. `runtime`, `graphs`, `graph_mismatches` and
    `host_weight_bytes` are those of `DeviceFacts`. `devices`: each of those that have a process of their own. `draft`:
    the draft model, where there is one; its drafts are among `draft_tokens`.
    """

    running: bool
    active: int
    queued: int
    pages_used: int
    pages_total: int
    active_sequences: int
    tokens_per_second: float
    device_available: bool
    memory_free_bytes: int
    memory_total_bytes: int
    pages_cached: int = 0
    prefix_hit_tokens: int = 0
    preemptions: int = 0
    draft_tokens: int = 0
    draft_tokens_accepted: int = 0
    problem: str | None = None
    runtime: str = ""
    graphs: str = ""
    graph_mismatches: int = 0
    devices: tuple[DeviceStats, ...] = ()
    host_weight_bytes: int = 0
    state_slots_used: int = 0
    state_slots_total: int = 0
    state_slots_cached: int = 0
    draft: DraftStats | None = None


_SUMMED: Final = (
    "active",
    "queued",
    "pages_used",
    "pages_total",
    "active_sequences",
    "tokens_per_second",
    "pages_cached",
    "prefix_hit_tokens",
    "preemptions",
    "draft_tokens",
    "draft_tokens_accepted",
    "graph_mismatches",
    "host_weight_bytes",
    "state_slots_used",
    "state_slots_total",
    "state_slots_cached",
)


def add_stats(stats: Sequence[EngineStats]) -> EngineStats:
    """Counts of several engines, one at least, together. Memory is that of the device that has most of it."""
    if len(stats) == 1:
        return stats[0]
    memory = max(stats, key=lambda one: one.memory_total_bytes)
    sums = {name: sum(getattr(one, name) for one in stats) for name in _SUMMED}
    return EngineStats(
        **sums,
        running=all(one.running for one in stats),
        device_available=all(one.device_available for one in stats),
        problem=next((one.problem for one in stats if one.problem is not None), None),
        memory_free_bytes=memory.memory_free_bytes,
        memory_total_bytes=memory.memory_total_bytes,
        runtime=memory.runtime,
        graphs=next((one.graphs for one in stats if one.graphs.startswith("off")), memory.graphs),
        devices=tuple(device for one in stats for device in one.devices),
        draft=_add_drafts([one.draft for one in stats if one.draft is not None]),
    )


def _add_drafts(stats: Sequence[DraftStats]) -> DraftStats | None:
    """Of the same draft model on several devices."""
    if not stats:
        return None
    problem = next((one.problem for one in stats if one.problem is not None), None)
    proposed, accepted = sum(one.proposed for one in stats), sum(one.accepted for one in stats)
    return DraftStats(stats[0].model, problem, proposed, accepted)


class EngineApi(Protocol):
    """What the HTTP layer needs of the engine."""

    @property
    def max_context(self) -> int:
        """Most tokens, prompt and output together, of one request."""

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""

    def submit(self, request: GenerationRequest) -> Generation:
        """Queue a request.

        Raises:
            RequestError: the prompt is empty, has an id outside the vocabulary, or exceeds the context.
            EngineBusyError: no room in the queue, or the engine is stopping.
        """

    def submit_all(self, requests: Sequence[GenerationRequest]) -> Sequence[Generation]:
        """Queue all of the requests or, where one cannot be, none; `events_of` yields their events.

        Raises:
            RequestError, EngineBusyError: see `submit`.
        """

    def embed(self, requests: Sequence[EmbeddingRequest]) -> Sequence[PendingEmbedding]:
        """Queue all of the requests for embeddings or, where one cannot be, none.

        Raises:
            RequestError: a text is empty, has an id outside the vocabulary, or exceeds the context; they are more than
                the queue holds; or the bundle is too old to give embeddings.
            EngineBusyError: see `submit`.
        """

    def find(self, request_id: int) -> Generation | None:
        """A live or recently finished request, or None."""

    def stats(self) -> EngineStats:
        """Current counts; never blocks on the device."""
