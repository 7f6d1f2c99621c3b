"""Several models in one process: loaded when they are asked for, unloaded when nobody has used them for a while."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import field
from typing import Final, Protocol

from ..artifacts.dataclass import dataclass
from ..artifacts.errors import DeviceError, EngineBusyError, UsageError, printable
from .http.core.registry import Lease, find_card
from .http.core.service import ServedModel, Service

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0  # how often idle models are looked for
NEVER: Final = float("inf")


class LoadedModel(Protocol):
    """A model on its device."""

    @property
    def service(self) -> Service:
        """What handlers work with."""

    def stop(self, timeout: float) -> None:
        """Let its requests end for so many seconds, cancel the rest, free its memory."""


Load = Callable[[], LoadedModel]


@dataclass(slots=True)
class _Entry:
    """A model that can be served. All but `loading` is guarded by the pool's lock."""

    card: ServedModel
    load: Load
    loading: threading.Lock = field(default_factory=threading.Lock)  # one thread loads, the others wait for it
    loaded: LoadedModel | None = None
    leases: int = 0
    used_at: float = 0.0
    keep_seconds: float | None = None  # as the last client asked; None: as the pool has it


class ModelPool:
    """Models by name. Thread-safe. `close` it.

    One at a time is loaded or unloaded: each takes what memory it finds, and what is on its way out still has some.

    Args:
        models: what can be served and how each is loaded; the first is the default.
        idle_seconds: after which a model that nobody uses is unloaded.
        max_loaded: models loaded at once; the one unused for longest makes room.

    Raises:
        UsageError: two have the same name.
    """

    def __init__(
        self, models: Sequence[tuple[ServedModel, Load]], idle_seconds: float = NEVER, max_loaded: int | None = None
    ) -> None:
        self._entries = [_Entry(card, load) for card, load in models]
        names = [card.name for model, _ in models for card in model.variants()]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UsageError(f"two bundles have the name {printable(twice)}: rename one")
        self._idle_seconds = idle_seconds
        self._max_loaded = max_loaded or len(models)
        self._lock = threading.Lock()
        self._changing = threading.Lock()  # held while a model is loaded or unloaded; before `_lock`
        self._closed = threading.Event()
        self._janitor = threading.Thread(target=self._look, name="idle models", daemon=True)
        if len(models) > 1 or idle_seconds != NEVER:
            self._janitor.start()

    def cards(self) -> list[ServedModel]:
        """See `Models`."""
        return [card for entry in self._entries for card in entry.card.variants()]

    def card(self, name: str | None) -> ServedModel:
        """See `Models`."""
        return find_card(self.cards(), name)

    def loaded(self) -> list[Service]:
        """See `Models`."""
        with self._lock:
            return [entry.loaded.service for entry in self._entries if entry.loaded is not None]

    def expires_in(self, name: str) -> float | None:
        """Seconds until it is unloaded unless it is used; None where it is not loaded, infinity where it stays."""
        entry = self._entry(name)
        with self._lock:
            if entry.loaded is None:
                return None
            return max(0.0, entry.used_at + self._keep(entry) - time.monotonic())

    def lease(self, name: str | None) -> Lease:
        """See `Models`.

        Raises:
            EngineBusyError: the pool is closed, or as many models as may be loaded are in use.
        """
        entry, card = self._entry(name), self.card(name)
        with self._lock:
            entry.leases += 1  # from now on it is not unloaded
        try:
            with entry.loading:
                if self._closed.is_set():
                    raise EngineBusyError("the server is stopping")
                if entry.loaded is None:
                    with self._changing:
                        self._load(entry)
                loaded = entry.loaded
        except BaseException:
            self._give_back(entry)
            raise
        if loaded is None:  # closed meanwhile
            self._give_back(entry)
            raise EngineBusyError("the server is stopping")
        service = loaded.service.named(card) if card.adapters else loaded.service
        return Lease(service, lambda: self._give_back(entry))

    def keep(self, name: str | None, seconds: float | None) -> None:
        """Have a model stay loaded for so long after its last use; None: as the pool has it. 0 unloads it at once."""
        entry = self._entry(name)
        with self._lock:
            entry.keep_seconds = seconds
        if seconds == 0 and self._changing.acquire(blocking=False):  # else the thread that looks finds it soon
            try:
                self._unload_idle()
            finally:
                self._changing.release()

    def close(self, timeout: float) -> None:
        """Unload all; each may take `timeout` seconds for what is in flight."""
        self._closed.set()
        for entry in self._entries:
            with entry.loading, self._lock:
                loaded, entry.loaded = entry.loaded, None
            if loaded is not None:
                loaded.stop(timeout)
        if self._janitor.ident is not None:
            self._janitor.join()

    def _entry(self, name: str | None) -> _Entry:
        root = self.card(name).root
        return next(entry for entry in self._entries if entry.card.name == root)

    def _keep(self, entry: _Entry) -> float:
        return self._idle_seconds if entry.keep_seconds is None else entry.keep_seconds

    def _give_back(self, entry: _Entry) -> None:
        with self._lock:
            entry.leases -= 1
            entry.used_at = time.monotonic()

    def _load(self, entry: _Entry) -> None:
        """Called with the entry's lock for loading, and while no other is loaded or unloaded."""
        if self._closed.is_set():
            raise EngineBusyError("the server is stopping")
        while sum(other.loaded is not None for other in self._entries) >= self._max_loaded:
            if not self._make_room():
                raise EngineBusyError(f"{self._max_loaded} models are loaded and in use, the most at a time")
        began = time.monotonic()
        while True:
            try:
                loaded = entry.load()
                break
            except DeviceError:  # no memory, maybe: others may have it and not need it
                if not self._make_room():
                    raise
        with self._lock:
            # What a client asked for ended with the model that it asked it of: else a 0 would unload it for ever.
            entry.loaded, entry.used_at, entry.keep_seconds = loaded, time.monotonic(), None
        level = logging.INFO if len(self._entries) > 1 else logging.DEBUG  # of one, that it is served says enough
        log.log(level, "loaded %s in %.1f s", printable(entry.card.name), time.monotonic() - began)

    def _make_room(self) -> bool:
        """Unload the model that nobody uses and that was used least lately; whether there was one."""
        with self._lock:
            idle = [entry for entry in self._entries if entry.loaded is not None and entry.leases == 0]
            if not idle:
                return False
            entry = min(idle, key=lambda one: one.used_at)
            loaded, entry.loaded = entry.loaded, None
        self._stop(entry, loaded)
        return True

    def _look(self) -> None:
        while not self._closed.wait(LOOK_SECONDS):
            with self._changing:
                self._unload_idle()

    def _unload_idle(self) -> None:
        """Called while no other is loaded or unloaded."""
        now = time.monotonic()
        for entry in self._entries:
            with self._lock:
                if entry.loaded is None or entry.leases or now - entry.used_at < self._keep(entry):
                    continue
                loaded, entry.loaded = entry.loaded, None
            self._stop(entry, loaded)

    def _stop(self, entry: _Entry, loaded: LoadedModel | None) -> None:
        if loaded is not None:
            loaded.stop(0.0)
            log.info("unloaded %s", printable(entry.card.name))
