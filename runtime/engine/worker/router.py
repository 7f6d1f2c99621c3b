"""One bundle on several devices, a worker each: which of them a request goes to.

What a prompt begins with may lie in the KV cache of one device, which then need not compute it again. Which one that
is, the router knows by its own record of what it sent where; a worker that was lost has forgotten all.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Final, TypeVar

from ....artifacts.errors import EngineBusyError
from ..embeddings import EmbeddingRequest
from ..generation import EngineStats, GenerationRequest, add_stats
from ..kv_cache import add_block_keys, root_key
from .pending import RemoteEmbedding, RemoteGeneration
from .remote import RemoteEngine

RECORDED_PAGES: Final = 1 << 16
"""Of a device; the ones used least lately are forgotten first, as they are in its cache."""

_Made = TypeVar("_Made")


class _Record:
    """The KV blocks of prompts that one worker has been sent. Forgotten with that worker."""

    def __init__(self, engine: RemoteEngine) -> None:
        self.engine = engine
        self._restarts = engine.restarts
        self._pages: OrderedDict[bytes, None] = OrderedDict()

    def known(self, keys: Sequence[bytes]) -> int:
        """How many of a prompt's first blocks it has been sent."""
        if self._restarts != self.engine.restarts:
            self._restarts = self.engine.restarts
            self._pages.clear()
        return next((index for index, key in enumerate(keys) if key not in self._pages), len(keys))

    def note(self, keys: Sequence[bytes]) -> None:
        """It is sent these."""
        for key in reversed(keys):  # without those before them, the last are of no use: they go first
            self._pages[key] = None
            self._pages.move_to_end(key)
        while len(self._pages) > RECORDED_PAGES:
            self._pages.popitem(last=False)

    @property
    def full(self) -> bool:
        """Whether further requests would wait."""
        return self.engine.load >= self.engine.max_sequences


class RoutedEngine:
    """An `EngineApi` over several. What is submitted together goes to one device: it may share a prompt."""

    def __init__(self, engines: Sequence[RemoteEngine]) -> None:
        """Args: of the same bundle, and not yet started."""
        self._engines = engines
        self._lock = threading.Lock()  # of the records
        self._records: list[_Record] = [_Record(engine) for engine in engines]

    @property
    def max_context(self) -> int:
        """See `EngineApi`."""
        return min(engine.max_context for engine in self._engines)

    @property
    def vocab_size(self) -> int:
        """See `EngineApi`."""
        return self._engines[0].vocab_size

    def start(self) -> None:
        """See `RemoteEngine`."""
        for engine in self._engines:
            engine.start()

    def wait(self) -> None:
        """See `RemoteEngine`; of all."""
        for engine in self._engines:
            engine.wait()

    def stop(self, timeout: float) -> None:
        """See `RemoteEngine`; all at once."""
        threads = [threading.Thread(target=engine.stop, args=(timeout,)) for engine in self._engines]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def submit(self, request: GenerationRequest) -> RemoteGeneration:
        """See `EngineApi`."""
        return self.submit_all([request])[0]

    def submit_all(self, requests: Collection[GenerationRequest]) -> list[RemoteGeneration]:
        """See `EngineApi`."""
        first = next(iter(requests))
        return self._try(self._keys(first), lambda engine: engine.submit_all(requests))

    def embed(self, requests: Collection[EmbeddingRequest]) -> list[RemoteEmbedding]:
        """See `EngineApi`."""
        return self._try((), lambda engine: engine.embed(requests))

    def _keys(self, request: GenerationRequest) -> list[bytes]:
        """Of its prompt's blocks; those of other adapters and of other pictures are others, as in the caches."""

        def rows_of(start: int, end: int) -> bytes:
            return b"".join(one.digest for one in request.pictures if one.span[0] < end and start < one.span[1])

        size, ids = self._engines[0].block_size, request.prompt_token_ids
        root = root_key(request.cache_space, request.adapters)
        return add_block_keys([], root, ids, size, len(ids) // size, rows_of)

    def _try(self, keys: Sequence[bytes], submit: Callable[[RemoteEngine], list[_Made]]) -> list[_Made]:
        """Have the best of the devices take it, else the next: one may be lost meanwhile, or its queue be full."""
        tried: list[RemoteEngine] = []
        while True:
            with self._lock:
                record = self._choose(keys, tried)
                record.note(keys)
            try:
                return submit(record.engine)
            except EngineBusyError:
                tried.append(record.engine)
                if len(tried) == len(self._engines):
                    raise

    def _choose(self, keys: Sequence[bytes], tried: Sequence[RemoteEngine]) -> _Record:
        """The one that has most of the prompt's beginning, unless it alone is full; else the least loaded."""
        records = [record for record in self._records if record.engine not in tried]
        serving = [record for record in records if record.engine.serving] or records
        free = [record for record in serving if not record.full] or serving
        return max(free, key=lambda record: (record.known(keys), -record.engine.load))

    def find(self, request_id: int) -> RemoteGeneration | None:
        """See `EngineApi`."""
        return next((found for engine in self._engines if (found := engine.find(request_id)) is not None), None)

    def stats(self) -> EngineStats:
        """See `EngineApi`. It runs as long as one device does; `devices` tells of each."""
        stats = [engine.stats() for engine in self._engines]
        total = add_stats([one for one in stats if one.running] or stats)
        return replace(total, devices=tuple(device for one in stats for device in one.devices))
