"""The models that are served, by the names that clients call them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol, Self

import falcon

from ....artifacts.errors import printable
from ...engine.generation import EngineStats, add_stats
from .access import Scope
from .errors import NotFoundError
from .service import ServedModel, Service


class Lease:
    """A model in use, which is not unloaded until it is given back: at the end of its `with`, or by whoever kept it."""

    def __init__(self, service: Service, on_release: Callable[[], None] | None = None) -> None:
        self.service = service
        self._on_release = on_release
        self._kept = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._kept:
            self.release()

    def keep(self) -> Self:
        """Do not give it back at the end of `with`: the one that this is passed to does."""
        self._kept = True
        return self

    def release(self) -> None:
        """Give it back; again is harmless."""
        release, self._on_release = self._on_release, None
        if release is not None:
            release()


class Models(Protocol):
    """What handlers ask of the models."""

    def cards(self) -> list[ServedModel]:
        """All that can be served, loaded or not; the default first."""

    def card(self, name: str | None) -> ServedModel:
        """One of them; None: the default.

        Raises:
            NotFoundError: none has that name.
        """

    def lease(self, name: str | None) -> Lease:
        """Have a model loaded, if it is not, and keep it so.

        Raises:
            NotFoundError: none has that name.
            RocmforgeError: it cannot be loaded.
        """

    def loaded(self) -> list[Service]:
        """Those that are loaded now; the default first where it is."""

    def keep(self, name: str | None, seconds: float | None) -> None:
        """Have a model stay loaded for so long after its last use; None: as the server has it. 0 unloads it at once."""

    def expires_in(self, name: str) -> float | None:
        """Seconds until it is unloaded unless it is used; None where it is not loaded, infinity where it stays."""


class RemoteModels(Protocol):
    """Models of other servers, which are offered beside ours."""

    def find(self, model: str) -> object | None:
        """The server that has a model; None: none has."""

    def get_all_models(self) -> list[dict[str, Any]]:
        """All of them, as /v1 lists them."""


class OneModel:
    """A registry of one model that is always loaded."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def cards(self) -> list[ServedModel]:
        """See `Models`."""
        return self._service.model.variants()

    def card(self, name: str | None) -> ServedModel:
        """See `Models`."""
        return find_card(self.cards(), name)

    def lease(self, name: str | None) -> Lease:
        """See `Models`."""
        card = self.card(name)
        return Lease(self._service.named(card) if card.adapters else self._service)

    def loaded(self) -> list[Service]:
        """See `Models`."""
        return [self._service]

    def keep(self, name: str | None, seconds: float | None) -> None:
        """See `Models`; it stays whatever is asked for."""
        self.card(name)

    def expires_in(self, name: str) -> float | None:
        """See `Models`."""
        self.card(name)
        return math.inf


def find_card(cards: list[ServedModel], name: str | None) -> ServedModel:
    """The model of a name, which may end with Ollama's `:latest`; the first where there is no name.

    Raises:
        NotFoundError: none has that name.
    """
    if not name:
        return cards[0]
    asked = {name, name.removesuffix(":latest")}
    for card in cards:
        if not asked.isdisjoint((card.name, card.path, *card.aliases)):
            return card
    known = ", ".join(card.name for card in cards[:8])
    raise NotFoundError(
        f"model {printable(name, 100)} not found; here: {printable(known, 300)}", "model", "model_not_found"
    )


def total_stats(models: Models) -> EngineStats:
    """Counts of all loaded models together: of one, its own."""
    stats = [service.engine.stats() for service in models.loaded()]
    if not stats:  # all are unloaded, and will be loaded when they are asked for
        return EngineStats(True, 0, 0, 0, 0, 0, 0.0, True, 0, 0)
    return add_stats(stats)


def keep(req: falcon.Request, models: Models, name: str | None, seconds: float | None) -> None:
    """Have a model stay loaded as the client asks, where its key lets it decide for all; else as the server has it."""
    if Scope.ADMIN in getattr(req.context, "scopes", ()):
        models.keep(name, seconds)
