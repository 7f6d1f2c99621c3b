"""A worker: an engine on its device, and the messages that it is asked and answers by. Its first steps are in `spawn`.

One thread reads what the server asks, one sends what the engine's does not send itself: see `sender`.
"""

from __future__ import annotations

import importlib
import logging
import os
import socket
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Never, cast

from ....artifacts.bundle import Bundle, open_bundle
from ....artifacts.errors import BundleError, RocmforgeError, os_problem, printable
from ...device.hip.placement import WeightPlaces
from ...device.load import DeviceOptions, EmulatorMaker
from ...text.constraints import ConstraintCompiler
from ..drafts import LOOKUP
from ..embedding_sequence import EmbeddingSequence
from ..embeddings import EmbeddingError, EmbeddingRequest
from ..engine import Engine
from ..failure import failure_of
from ..generation import FINISH_CANCELLED, FINISH_FAILED, GenerationRequest, TokenEvent
from ..lifecycle import EngineMetrics, NoMetrics, RequestEvent
from ..loading import EngineOptions, chosen_device, load_engine, load_tokenizer
from ..sequence import ActiveSequence
from .channel import Channel
from .sender import Sender
from .wire import (
    STARTING,
    Answer,
    AskStats,
    Cancel,
    DeferredConstraint,
    Embedded,
    Generated,
    Heartbeat,
    Logged,
    Lost,
    Ping,
    Ready,
    Start,
    StepDone,
    Stop,
    Submit,
)

log = logging.getLogger(__name__)

CONSTRAINT_THREADS: Final = 4
_OUTSIDE_STEPS: Final = (FINISH_CANCELLED, FINISH_FAILED)  # reasons of ends that come between two steps


class _StepMetrics(NoMetrics):
    """What is counted once a step goes to the server; what is counted of a request, it counts itself by its turns."""

    def __init__(self, sender: Sender) -> None:
        self._put = sender.put_for_now
        self._sender = sender

    def tokens_generated(self, count: int) -> None:
        self._put(StepDone("tokens_generated", (count,)))

    def observe_step(self, seconds: float, sequences: int, tokens: int) -> None:
        """The last that is said of a step."""
        self._put(StepDone("observe_step", (seconds, sequences, tokens)))
        self._sender.send_now()

    def drafts_judged(self, drafts: int, accepted: int, source: str = LOOKUP) -> None:
        self._put(StepDone("drafts_judged", (drafts, accepted, source)))


class _GivenIds(threading.local):
    """The numbers of the requests that this thread submits: the server has chosen them."""

    def __init__(self) -> None:
        self.given: tuple[int, ...] = ()

    def __iter__(self) -> _GivenIds:
        return self

    def __next__(self) -> int:
        first, *rest = self.given
        self.given = tuple(rest)
        return first


class _ToServer(logging.Handler):
    """The log goes where the server's goes."""

    def __init__(self, put: Callable[[object], None]) -> None:
        super().__init__()
        self._put = put

    def emit(self, record: logging.LogRecord) -> None:
        self._put(Logged(record.name, record.levelno, record.getMessage()))
        if record.exc_info:
            for line in "".join(traceback.format_exception(*record.exc_info)).splitlines():
                self._put(Logged(record.name, record.levelno, f"    {line}"))


class Worker:
    """An engine, and the server that asks it."""

    def __init__(self, channel: Channel, sender: Sender) -> None:
        self._channel = channel
        self._put = sender.put
        self._sender = sender
        self._ids = _GivenIds()
        self._live: dict[int, ActiveSequence] = {}
        self._asides = ThreadPoolExecutor(1, "stats")  # a device that hangs may not say what memory it has
        self._compiles = ThreadPoolExecutor(CONSTRAINT_THREADS, "constraints")
        self._engine: Engine
        self._compiler: ConstraintCompiler

    def load(self, start: Start) -> None:
        """Load the engine and have it begin.

        Raises:
            RocmforgeError: the bundle or the device is unavailable.
        """
        bundle = _open(start.bundle, start.digest, start.stamps)
        draft = None if start.draft is None else _open(start.draft, start.draft_digest, start.draft_stamps)
        places = WeightPlaces(start.gpu_layers, start.cpu_experts)
        emulator = _emulator(start.emulator)
        device = DeviceOptions(
            start.device, start.threads, emulator, graphs=start.graphs, places=places, state_slots=start.state_slots
        )
        tokenizer = load_tokenizer(bundle)
        self._compiler = ConstraintCompiler(tokenizer)
        self._engine = load_engine(
            bundle,
            EngineOptions(device, start.max_context, start.kv_tokens, start.limits),
            tokenizer,
            cast(EngineMetrics, _StepMetrics(self._sender)),
            log.info,
            observer=self._turned,
            request_ids=self._ids,
            draft=draft,
            make_program=self._give_up,
        )
        ready = self._ready(start.device, bundle)
        self._engine.start()
        self._put(ready)

    def _ready(self, asked: str, bundle: Bundle) -> Ready:
        device = chosen_device(asked, self._engine.stats().runtime)
        context, layout = self._engine.max_context, self._engine.layout
        size = layout.kv.block_size
        return Ready(device, bundle.weights_stamps, context, layout.vocab_size, size, layout.max_sequences)

    def _give_up(self) -> Never:
        """In the place of another program: the engine's device is lost, and with this process all that it held."""
        self._put(Lost(self._engine.stats().problem or "the device is lost"))
        threading.Event().wait()
        raise AssertionError

    def serve(self) -> None:
        """Answer until the server is gone."""
        while (frame := self._channel.receive()) is not None:
            for message in frame:
                self._handle(message)

    def _handle(self, message: object) -> None:
        if isinstance(message, Submit):
            if any(isinstance(one, GenerationRequest) and (one.constraint or one.pictures) for one in message.requests):
                self._compiles.submit(self._submit, message)  # takes time, and a cancel must not wait for it
            else:
                self._submit(message)
        elif isinstance(message, Cancel):
            sequence = self._live.get(message.request_id)
            if sequence is not None:
                sequence.cancel()
        elif isinstance(message, AskStats):
            self._asides.submit(self._answer_stats, message.call)
        elif isinstance(message, Ping):
            self._put(Heartbeat())
        elif isinstance(message, Stop):
            threading.Thread(target=self._stop, args=(message.seconds,), name="stop", daemon=True).start()

    def _answer_stats(self, call: int) -> None:
        self._put(Answer(call, self._engine.stats()))

    def _submit(self, message: Submit) -> None:
        try:
            groups = self._queue(message)
        except RocmforgeError as error:
            self._put(Answer(message.call, fault=failure_of(error)))
        except Exception as error:
            log.exception("a request could not be queued")
            self._put(Answer(message.call, fault=failure_of(error)))
        else:
            for group in groups:
                self._live.update((one.request_id, one) for one in group)
                group[0].inbox.hand_on(partial(self._pass_on, group))
            self._sender.put_for_now(Answer(message.call))
            self._sender.send_now()  # sooner than the thread that sends

    def _queue(self, message: Submit) -> Sequence[Sequence[ActiveSequence]]:
        """Groups that share an inbox."""
        self._ids.given = message.ids
        first = message.requests[0]
        if isinstance(first, EmbeddingRequest):
            return [[one] for one in self._engine.embed(cast("Sequence[EmbeddingRequest]", message.requests))]
        requests = cast("Sequence[GenerationRequest]", message.requests)
        return [self._engine.submit_all([self._with_constraint(one) for one in requests])]

    def _with_constraint(self, request: GenerationRequest) -> GenerationRequest:
        deferred = request.constraint
        if not isinstance(deferred, DeferredConstraint):
            return request
        return replace(request, constraint=self._compiler.compile(deferred.spec()))

    def _turned(self, event: RequestEvent) -> None:
        """A turn of a request. To wake the thread that sends is for what no step's end or answer follows."""
        (self._put if event.reason in _OUTSIDE_STEPS else self._sender.put_for_now)(event)

    def _pass_on(self, group: Sequence[ActiveSequence], event: TokenEvent) -> None:
        """An event of the engine's, on the engine's thread."""
        one = group[event.index]
        if event.finished:
            self._live.pop(one.request_id, None)
        if isinstance(one, EmbeddingSequence):
            self._put(partial(_embedded, one))
        elif event.finish_reason in _OUTSIDE_STEPS:
            self._put(Generated(one.request_id, event, _cached(one)))
        elif event.finished or event.token is None or event.logprobs or event.prompt_logprobs or one.num_generated == 1:
            self._sender.put_for_now(Generated(one.request_id, event, _cached(one)))  # `observe_step` follows
        else:
            self._sender.put_for_now((one.request_id, event.token, event.text))

    def _stop(self, seconds: float) -> None:
        self._engine.stop(seconds)
        self._sender.finish()
        os._exit(0)


def _cached(one: ActiveSequence) -> int:
    return min(one.cached_tokens, one.num_prompt_tokens)


def _embedded(one: EmbeddingSequence) -> Embedded:
    """Its end, on the thread that sends: the result is there a moment after the event."""
    try:
        vector = one.result()
    except EmbeddingError as error:
        return Embedded(one.request_id, None, error.reason, str(error))
    reason = one.finish_reason or FINISH_FAILED
    return Embedded(one.request_id, None if vector is None else vector.tobytes(), reason, None)


def _open(path: str, digest: str, stamps: tuple[tuple[int, int], ...] | None) -> Bundle:
    """The bundle as the server has it.

    Raises:
        BundleError: it is another one by now, or damaged.
    """
    bundle = open_bundle(Path(path))
    if bundle.manifest.bundle_digest != digest:
        found = printable(bundle.manifest.bundle_digest)
        raise BundleError(bundle.path, "digest", f"expected {digest}, as it was served, found {found}")
    if stamps is not None:
        bundle.trust_weights(stamps)
    return bundle


def _emulator(name: str | None) -> EmulatorMaker | None:
    if name is None:
        return None
    module, _, attribute = name.partition(":")
    maker: EmulatorMaker = getattr(importlib.import_module(module), attribute)
    return maker


def _problem(error: Exception) -> RocmforgeError:
    """What a worker that cannot load says."""
    if isinstance(error, RocmforgeError):
        return error
    if isinstance(error, MemoryError):
        return RocmforgeError("out of memory")
    if isinstance(error, OSError):
        return RocmforgeError(os_problem(error))
    log.error("the engine could not be loaded", exc_info=error)
    return RocmforgeError(f"the engine could not be loaded: {printable(repr(error))}")


def serve(ours: socket.socket, bell: int) -> None:
    """Be the worker at this end of a socket pair, until the other end is closed."""
    channel = Channel(ours, ring=bell)
    frame = channel.receive()
    if frame is None:  # it was started early, and not needed
        return
    start: Any = frame[0]
    sender = Sender(channel)
    logging.basicConfig(level=start.log_level, handlers=[_ToServer(sender.put)])
    worker = Worker(channel, sender)
    try:
        worker.load(start)
    except Exception as error:
        sender.put(Answer(STARTING, fault=failure_of(_problem(error))))
        sender.finish()
        os._exit(1)
    worker.serve()
    os._exit(0)
