"""What an API declares: its routes, and what each of them answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import falcon

from ....artifacts.dataclass import dataclass
from .access import Scope
from .errors import ErrorFormat
from .resources import Resource


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of a route.

    Attributes:
        summary: one line.
        request: type of its body; None: it takes none.
        response: type of its JSON answer; None: it is text.
        stream: type of one event, where it can stream.
        media_type: of the answer, where it is not JSON.
        stream_media_type: of the stream.
        stream_end: data of the last event, where that is no JSON.
        query: names of parameters to their JSON schemas.
        errors: statuses beside those that all operations may answer.
        body_optional: whether the body may be left out.
    """

    summary: str
    request: Any = None
    response: Any = None
    stream: Any = None
    media_type: str = "application/json"
    stream_media_type: str = "text/event-stream"
    stream_end: str | None = None
    query: tuple[tuple[str, dict[str, object]], ...] = ()
    errors: tuple[int, ...] = ()
    body_optional: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """A path, who answers it, and what it answers.

    Attributes:
        path: as Falcon has it: `/status/{request_id}`.
        resource: class of the resource.
        get: its operation, or None; HEAD is as GET.
        post: its operation, or None.
        delete: its operation, or None.
        path_schema: JSON schema of its path's parameter.
        aliases: other paths that mean the same; not in the document.
        open: whether it asks for no key, and is not counted.
        urgent: whether threads of their own answer it, whatever keeps the others busy: it must be short.
        private: whether it tells of other clients, or acts on them: open CORS does not hold for it.
        forwarded: whether a server that has the model asked for answers in our place.
    """

    path: str
    resource: type[Resource]
    get: Operation | None = None
    post: Operation | None = None
    delete: Operation | None = None
    path_schema: tuple[tuple[str, object], ...] = (("type", "string"), ("minLength", 1))
    aliases: tuple[str, ...] = ()
    open: bool = False
    urgent: bool = False
    private: bool = False
    forwarded: bool = False

    @property
    def paths(self) -> tuple[str, ...]:
        """All its paths."""
        return (self.path, *self.aliases)


# The scope that a request needs, where an API has more to say of it than that it is for use; else None.
NeededScope = Callable[[falcon.Request], Scope | None]


@dataclass(frozen=True, slots=True)
class Api:
    """An API, as the application takes it.

    Attributes:
        routes: all it serves.
        errors: how it says what went wrong; None: as the API does whose paths its routes have.
        needed_scope: see `NeededScope`.
    """

    routes: tuple[Route, ...]
    errors: ErrorFormat | None = None
    needed_scope: NeededScope | None = None


class Paths:
    """What APIs declare of their paths, for those who see a request before its resource does.

    Attributes:
        open: see `Route`, and so are the others.
        urgent: as they come in a request's first line.
        forwarded: also aliases, to the path that they mean.
    """

    def __init__(self, apis: Sequence[Api]) -> None:
        """Of all APIs."""
        routes = [route for api in apis for route in api.routes]
        self.open = frozenset(path for route in routes if route.open for path in route.paths)
        self.urgent = frozenset(path for route in routes if route.urgent for path in route.paths)
        self.forwarded = {path: route.path for route in routes if route.forwarded for path in route.paths}
        private = [route.path for route in routes if route.private]
        self._private = frozenset(path for path in private if "{" not in path)
        self._private_prefixes = tuple(path.partition("{")[0] for path in private if "{" in path)
        self._needed_scopes = [api.needed_scope for api in apis if api.needed_scope is not None]

    def is_private(self, path: str) -> bool:
        """Whether open CORS does not hold for a path."""
        return path in self._private or path.startswith(self._private_prefixes)

    def needed_scope(self, req: falcon.Request) -> Scope:
        """The scope that a request needs."""
        return next(filter(None, (needed(req) for needed in self._needed_scopes)), Scope.USE)
