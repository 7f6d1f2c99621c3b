"""An engine in a process of its own, behind `EngineApi`: the server's side. Its process is a `keeper`'s."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from dataclasses import fields, replace
from typing import Final, TypeVar

from ....artifacts.errors import EngineBusyError
from ..embeddings import EmbeddingRequest
from ..generation import DeviceStats, EngineStats, GenerationRequest, Inbox
from ..lifecycle import EngineMetrics, Observer
from .calls import Call, Calls
from .keeper import Keeper
from .pending import Pending, RemoteEmbedding, RemoteGeneration
from .spawn import WorkerProcess
from .wire import AskStats, Cancel, Start, Submit

STATS_SECONDS: Final = 0.5  # that `stats` waits for the worker's own figures; then the last ones must do

_Pending = TypeVar("_Pending", bound=Pending)


class RemoteEngine:
    """An `EngineApi` over a worker. Call `start` and `wait` to serve, `stop` to end."""

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
        self._device = start.device
        self._calls = Calls(metrics, observer)
        self._keeper = Keeper(start, self._calls, first)
        self._ids = itertools.count(1) if request_ids is None else request_ids

    @property
    def max_context(self) -> int:
        """See `EngineApi`."""
        return self._keeper.ready.max_context

    @property
    def vocab_size(self) -> int:
        """See `EngineApi`."""
        return self._keeper.ready.vocab_size

    @property
    def block_size(self) -> int:
        """Tokens of a block of its KV cache."""
        return self._keeper.ready.block_size

    @property
    def max_sequences(self) -> int:
        """Most sequences of a step."""
        return self._keeper.ready.max_sequences

    @property
    def restarts(self) -> int:
        """Workers that were started in the place of a lost one."""
        return self._keeper.restarts

    @property
    def pid(self) -> int | None:
        """Number of the worker's process, where there is one."""
        return self._keeper.pid

    @property
    def serving(self) -> bool:
        """Whether there is a worker that takes requests."""
        return self._keeper.serving

    @property
    def load(self) -> int:
        """Requests that have not ended."""
        return self._calls.ledger.load

    def start(self) -> None:
        """Have the first worker begin to load; see `wait`."""
        self._keeper.start()

    def wait(self) -> None:
        """Return once the first worker serves.

        Raises:
            RocmforgeError: it cannot load the bundle; it has ended.
        """
        self._keeper.wait()

    def stop(self, timeout: float) -> None:
        """Refuse new requests, let those in flight finish for `timeout` seconds, cancel the rest, end the worker."""
        self._keeper.stop(timeout)

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
        return next(number for number in self._ids if self._calls.ledger.find(number) is None)

    def _submit(
        self, made: list[_Pending], requests: tuple[GenerationRequest, ...] | tuple[EmbeddingRequest, ...]
    ) -> list[_Pending]:
        if made:
            call = Call(made)
            self._keeper.ask(call, lambda number: Submit(number, tuple(one.request_id for one in made), requests))
            call.answered.wait()  # if not by this worker, then by its end
            if call.error is not None:
                raise call.error
        return made

    def _cancel(self, request_id: int) -> None:
        self._keeper.tell(Cancel(request_id))

    def find(self, request_id: int) -> RemoteGeneration | None:
        """See `EngineApi`."""
        return self._calls.ledger.find(request_id)

    def stats(self) -> EngineStats:
        """See `EngineApi`."""
        stats = self._ask_stats() or EngineStats(
            False, 0, 0, 0, 0, 0, 0.0, self._keeper.problem is None, 0, 0, problem=self._keeper.problem
        )
        taken = {one.name: getattr(stats, one.name) for one in fields(DeviceStats) if hasattr(stats, one.name)}
        return replace(stats, devices=(DeviceStats(device=self._device, restarts=self._keeper.restarts, **taken),))

    def _ask_stats(self) -> EngineStats | None:
        """What the worker says, or said last; None where there is none."""
        call = Call()
        try:
            self._keeper.ask(call, AskStats)
        except EngineBusyError:
            return None
        call.answered.wait(STATS_SECONDS)
        return None if call.error is not None else call.stats or self._calls.last_stats
