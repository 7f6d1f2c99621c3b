"""An engine in a process of its own, behind `EngineApi`: the server's side, which starts a lost worker again."""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import field, fields, replace
from typing import Final, TypeVar, cast

from ....artifacts.dataclass import dataclass
from ....artifacts.errors import DeviceError, EngineBusyError, RocmforgeError, printable
from ..embeddings import EmbeddingRequest
from ..engine import CANCEL_SECONDS
from ..generation import DeviceStats, EngineStats, GenerationRequest, Inbox
from ..lifecycle import EngineMetrics, Observer, RequestEvent
from .channel import Channel
from .ledger import Ledger
from .pending import Pending, RemoteEmbedding, RemoteGeneration
from .spawn import WorkerProcess
from .wire import (
    STARTING,
    Answer,
    AskStats,
    Cancel,
    Event,
    Heartbeat,
    Logged,
    Lost,
    Ping,
    Ready,
    Start,
    StepDone,
    Stop,
    Submit,
    error_of,
)

log = logging.getLogger(__name__)

RESTART_SECONDS = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)  # between the end of a worker and the next; the last again and again
STEADY_SECONDS = 60.0  # a worker that has served for so long ended by a new fault, not by the last one again
SILENCE_SECONDS = 60.0  # without a word, or without taking one, after which a worker counts as hung
LOAD_SECONDS = 60.0  # that a worker in the place of another may take to serve, or so many times what the first took:
LOAD_TIMES: Final = 10
ASK_SECONDS = 1.0  # how often a worker is asked how it is
STATS_SECONDS: Final = 0.5  # that `stats` waits for the worker's own figures; then the last ones must do
EXIT_SECONDS: Final = 2.0  # for a process to end by itself
STOP_SECONDS: Final = 2.0  # for all else that stopping takes
_STOPPING: Final = "the server is stopping"

_Pending = TypeVar("_Pending", bound=Pending)


@dataclass(slots=True)
class _Call:
    """A message that is to be answered, and the requests that it submits."""

    requests: Sequence[Pending] = ()
    answered: threading.Event = field(default_factory=threading.Event)
    stats: EngineStats | None = None
    error: RocmforgeError | None = None

    def answer(self, stats: EngineStats | None, error: RocmforgeError | None) -> None:
        self.stats, self.error = stats, error
        self.answered.set()


class RemoteEngine:
    """An `EngineApi` over a worker. Call `start` and `wait` to serve, `stop` to end.

    One thread starts workers and reads what they say, so it alone ends requests; another one sees that they live.
    """

    def __init__(
        self,
        start: Start,
        metrics: EngineMetrics,
        *,
        observer: Observer | None = None,
        request_ids: Iterator[int] | None = None,
        first: WorkerProcess | None = None,
    ) -> None:
        """Args: what to run; what counts; who is told the turns of each request; their numbers (None: 1, 2, 3 and so
        on); a process that was started early."""
        self._start = start
        self._device = start.device
        self._metrics = metrics
        self._ledger = Ledger(metrics, observer)
        self._ids = itertools.count(1) if request_ids is None else request_ids
        self._first = first
        self._changed = threading.Condition()  # and the lock of what follows
        self._process: WorkerProcess | None = None
        self._channel: Channel | None = None  # of a worker that serves
        self._ready: Ready | None = None  # as the last one said
        self._problem: str | None = "the worker has not started yet"
        self._failure: RocmforgeError | None = None  # why the last one did not start
        self._stopping = False
        self._calls: dict[int, _Call] = {}
        self._call_numbers = itertools.count(1)
        self._last_stats: EngineStats | None = None
        self._cause: RocmforgeError | None = None  # why the worker is ended, where that is known
        self._restarts = 0
        self._started_at = self._serving_since = self._lost_at = self._heard_at = 0.0
        self._load_seconds = 0.0  # that the first worker took to serve
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)
        self._watchdog = threading.Thread(target=self._watch, name="worker's watchdog", daemon=True)

    # What callers ask.

    @property
    def max_context(self) -> int:
        """See `EngineApi`."""
        return self._said().max_context

    @property
    def vocab_size(self) -> int:
        """See `EngineApi`."""
        return self._said().vocab_size

    @property
    def block_size(self) -> int:
        """Tokens of a block of its KV cache."""
        return self._said().block_size

    @property
    def max_sequences(self) -> int:
        """Most sequences of a step."""
        return self._said().max_sequences

    @property
    def restarts(self) -> int:
        """Workers that were started in the place of a lost one."""
        return self._restarts

    @property
    def pid(self) -> int | None:
        """Number of the worker's process, where there is one."""
        process = self._process
        return None if process is None else process.pid

    @property
    def serving(self) -> bool:
        """Whether there is a worker that takes requests."""
        return self._channel is not None

    @property
    def load(self) -> int:
        """Requests that have not ended."""
        return self._ledger.load

    def _said(self) -> Ready:
        if self._ready is None:
            raise RuntimeError("asked before `start`")
        return self._ready

    def start(self) -> None:
        """Have the first worker begin to load; see `wait`."""
        self._thread.start()

    def wait(self) -> None:
        """Return once the first worker serves.

        Raises:
            RocmforgeError: it cannot load the bundle; it has ended.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ready is not None or self._failure is not None)
            if self._ready is not None:
                self._watchdog.start()
                return
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()
        assert self._failure is not None
        raise self._failure

    def submit(self, request: GenerationRequest) -> RemoteGeneration:
        """See `EngineApi`."""
        return self.submit_all([request])[0]

    def submit_all(self, requests: Collection[GenerationRequest]) -> list[RemoteGeneration]:
        """See `EngineApi`."""
        inbox = Inbox(hurried=False)
        made = [
            RemoteGeneration(self._new_id(), request, self._cancel, index, inbox)
            for index, request in enumerate(requests)
        ]
        return self._submit(made, tuple(requests))

    def embed(self, requests: Collection[EmbeddingRequest]) -> list[RemoteEmbedding]:
        """See `EngineApi`."""
        made = [RemoteEmbedding(self._new_id(), request, self._cancel) for request in requests]
        return self._submit(made, tuple(requests))

    def _new_id(self) -> int:
        return next(number for number in self._ids if self._ledger.find(number) is None)

    def _submit(
        self, made: list[_Pending], requests: tuple[GenerationRequest, ...] | tuple[EmbeddingRequest, ...]
    ) -> list[_Pending]:
        if made:
            call = _Call(made)
            self._ask(call, lambda number: Submit(number, tuple(one.request_id for one in made), requests))
            call.answered.wait()  # if not by this worker, then by its end
            if call.error is not None:
                raise call.error
        return made

    def _ask(self, call: _Call, message: Callable[[int], object]) -> None:
        """Send a message; it is answered, or failed with its worker.

        Raises:
            EngineBusyError: there is no worker, or it is to end.
        """
        with self._changed:
            channel = self._channel
            if self._stopping:
                raise EngineBusyError(_STOPPING)
            if channel is None:
                raise EngineBusyError(f"the model is not available: {self._problem}")
            number = next(self._call_numbers)
            self._calls[number] = call
            self._ledger.expect(call.requests)
        try:
            channel.send(message(number))
        except BlockingIOError:
            self._kill(channel, f"the device's process has taken no message for {SILENCE_SECONDS:g} s")
        except OSError:
            pass  # it has ended: the thread that reads will see how, and answer
        except BaseException:
            with self._changed:
                self._calls.pop(number, None)
                self._ledger.forget(call.requests)
            raise

    def _cancel(self, request_id: int) -> None:
        channel = self._channel
        if channel is not None:
            with contextlib.suppress(OSError):  # its worker ends, and so does it
                channel.send(Cancel(request_id))

    def find(self, request_id: int) -> RemoteGeneration | None:
        """See `EngineApi`."""
        return self._ledger.find(request_id)

    def stats(self) -> EngineStats:
        """See `EngineApi`."""
        stats = self._ask_stats() or EngineStats(
            False, 0, 0, 0, 0, 0, 0.0, self._problem is None, 0, 0, problem=self._problem
        )
        taken = {one.name: getattr(stats, one.name) for one in fields(DeviceStats) if hasattr(stats, one.name)}
        return replace(stats, devices=(DeviceStats(device=self._device, restarts=self._restarts, **taken),))

    def _ask_stats(self) -> EngineStats | None:
        """What the worker says, or said last; None where there is none."""
        call = _Call()
        try:
            self._ask(call, AskStats)
        except EngineBusyError:
            return None
        call.answered.wait(STATS_SECONDS)
        return None if call.error is not None else call.stats or self._last_stats

    def stop(self, timeout: float) -> None:
        """Refuse new requests, let those in flight finish for `timeout` seconds, cancel the rest, end the worker."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            channel, process = self._channel, self._process
        if channel is not None:
            with contextlib.suppress(OSError):
                channel.send(Stop(timeout))
            self._thread.join(timeout + CANCEL_SECONDS + STOP_SECONDS)
        if self._thread.is_alive() and process is not None:
            process.kill()
        if self._thread.ident is not None:
            self._thread.join(STOP_SECONDS)

    # The thread that starts workers and reads what they say.

    def _run(self) -> None:
        lost = -1
        while True:
            served = self._serve_once()
            lost = 0 if served >= STEADY_SECONDS else lost + 1
            with self._changed:
                if self._ready is None:
                    return  # the first has not started: that is for `start` to tell
                pause = RESTART_SECONDS[min(lost, len(RESTART_SECONDS) - 1)]
                if self._changed.wait_for(lambda: self._stopping, pause):
                    return

    def _serve_once(self) -> float:
        """Start a worker and read what it says until it ends; returns for how many seconds it served."""
        try:
            process = self._first or WorkerProcess()
        except RocmforgeError as error:
            self._lose(error)
            return 0.0
        self._first = None
        channel = Channel(process.socket, SILENCE_SECONDS, listen=process.bell)
        with self._changed:
            self._process, self._cause, self._started_at = process, None, time.monotonic()
            if self._stopping:
                process.kill()
        with contextlib.suppress(OSError):
            channel.send(self._start)
        while self._read(channel):
            pass
        how = process.end(EXIT_SECONDS)
        with self._changed:
            since = self._serving_since if self._channel is channel else None
            cause = self._cause or DeviceError(f"the device's process {how}")
        self._lose(cause)
        served = 0.0 if since is None else time.monotonic() - since
        channel.close()
        process.wait_until_gone()  # and with it what it held of the device's memory
        return served

    def _read(self, channel: Channel) -> bool:
        """Take the next frame; returns whether there was one."""
        try:
            frame = channel.receive()
            if frame is None:
                return False
            self._heard_at = time.monotonic()  # first, for the watchdog looks as soon as `_take` says that it serves
            self._take(frame, channel)
        except Exception as error:  # a worker out of its mind
            log.exception("the device's process says what cannot be understood")
            self._kill(channel, f"the device's process says what cannot be understood: {printable(repr(error))}")
        return True

    def _take(self, frame: tuple[object, ...], channel: Channel) -> None:
        """All of a frame: first what is counted, so that whoever sees a request end finds it counted."""
        events: list[Event] = []
        for message in frame:
            if type(message) is tuple:  # most are: plain tokens
                events.append(cast(Event, message))
            elif isinstance(message, RequestEvent):
                self._ledger.turn(message)
            elif isinstance(message, StepDone):
                getattr(self._metrics, message.name)(*message.arguments)
            elif isinstance(message, Answer):
                self._answer(message)
            elif isinstance(message, Logged):
                logger = logging.getLogger(message.logger)
                if logger.isEnabledFor(message.level):
                    logger.log(message.level, "%s", message.message)
            elif isinstance(message, Ready):
                self._begin(message, channel)
            elif isinstance(message, Lost):
                self._kill(channel, message.problem)
            elif not isinstance(message, Heartbeat):
                events.append(cast(Event, message))
        for message in events:
            self._ledger.take(message)

    def _begin(self, ready: Ready, channel: Channel) -> None:
        now = time.monotonic()
        with self._changed:
            if self._ready is None:
                self._load_seconds = now - self._started_at
            else:
                self._restarts += 1
                log.info("the device is available again, after %.1f s", now - self._lost_at)
            self._start = replace(self._start, device=ready.device, stamps=ready.stamps)
            self._ready, self._channel, self._problem, self._serving_since = ready, channel, None, now
            self._changed.notify_all()

    def _answer(self, answer: Answer) -> None:
        error = None if answer.fault is None else error_of(answer.fault)
        with self._changed:
            if answer.call == STARTING:
                self._cause = error
                return
            call = self._calls.pop(answer.call)
            if error is not None:
                self._ledger.forget(call.requests)
            if answer.stats is not None:
                self._last_stats = answer.stats
        call.answer(answer.stats, error)

    def _lose(self, cause: RocmforgeError) -> None:
        """There is no worker any more: what it had not ended has failed, each request once."""
        problem = str(cause)
        with self._changed:
            if self._stopping:
                problem = _STOPPING
            elif self._channel is not None:
                log.error("the device is lost, and %d requests with it: %s", self._ledger.load, problem)
                self._lost_at = time.monotonic()
            elif self._ready is not None:
                log.error("not available: %s", problem)
            self._process = self._channel = None
            self._problem, self._failure = problem, cause
            calls, self._calls = self._calls, {}
            self._changed.notify_all()
        for call in calls.values():
            taken = call.requests and self._ledger.took(call.requests)  # then their ends say the rest
            call.answer(None, None if taken else EngineBusyError(f"the model is not available: {problem}"))
        self._ledger.fail(problem)

    # What ends a worker.

    def _kill(self, channel: Channel, problem: str) -> None:
        """End the worker of a channel, if it is still the one; the thread that reads sees its end."""
        with self._changed:
            process = self._process if self._channel in (None, channel) else None
            if process is not None:
                self._cause = self._cause or DeviceError(problem)
                process.kill()

    def _end_what_does_not_load(self) -> None:
        limit = max(LOAD_SECONDS, LOAD_TIMES * self._load_seconds)
        with self._changed:
            process = self._process if self._channel is None else None
            if process is not None and time.monotonic() - self._started_at > limit:
                self._cause = self._cause or DeviceError(f"the device's process does not serve after {limit:.0f} s")
                process.kill()

    def _watch(self) -> None:
        """See that the worker comes to serve, that it lives, and that its engine has not lost its device without being
        able to say so. Silence counts when it is seen twice, with a question between: where this process was stopped
        for long, the worker had nothing to answer."""
        asked: _Call | None = None
        was_silent = False
        while True:
            with self._changed:
                if self._changed.wait_for(lambda: self._stopping, ASK_SECONDS):
                    return
                channel = self._channel
            if channel is None:
                asked, was_silent = None, False
                self._end_what_does_not_load()
                continue
            problem = asked.stats.problem if asked is not None and asked.stats is not None else None
            silent = time.monotonic() - self._heard_at > SILENCE_SECONDS
            if silent and was_silent:
                problem = f"the device's process has not answered for {SILENCE_SECONDS:g} s"
            if problem is not None:
                self._kill(channel, problem)
                continue
            was_silent = silent
            with contextlib.suppress(OSError, EngineBusyError):
                channel.send(Ping())
                if asked is None or asked.answered.is_set():
                    asked = _Call()
                    self._ask(asked, AskStats)
