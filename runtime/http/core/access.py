"""Who asks, and what their key is good for, as the gate has noted it."""

from __future__ import annotations

from enum import StrEnum

import falcon


class Scope(StrEnum):
    """What a key is good for."""

    USE = "use"
    METRICS = "metrics"
    ADMIN = "admin"  # everything


def demand(req: falcon.Request, scope: Scope) -> None:
    """Check that whoever asks may do what needs `scope`; for handlers, where not the path but the body tells.

    Raises:
        HTTPForbidden: the key lacks it.
    """
    if not req.context.scopes & {scope, Scope.ADMIN}:
        raise falcon.HTTPForbidden(description=f"this key lacks the scope {scope}")


def may_see(req: falcon.Request, client: str) -> bool:
    """Whether whoever asks may see and end what `client` asked for: itself, or a key with the scope `admin`.

    Without keys there is no administrator, as anybody who reaches the server would be one.
    """
    return bool(getattr(req.context, "sees_all", False)) or client == getattr(req.context, "client", "")


def client_of(req: falcon.Request) -> str:
    """Who asks, as `auth.Gate` has noted it: the key's name or the address; "" without a gate."""
    return str(getattr(req.context, "client", ""))


def cache_space_of(req: falcon.Request) -> str:
    """With whom it shares what was computed of prompts, as `auth.Gate` has noted it; "" for all."""
    return str(getattr(req.context, "cache_space", ""))
