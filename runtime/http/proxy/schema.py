"""Other servers whose models are listed beside ours."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class IntegrationList(Struct, kw_only=True):
    """`GET /v1/integrations`."""

    integrations: list[str]
    available: list[str]


class IntegrationHealth(Struct, kw_only=True):
    """How another server is."""

    available: bool
    version: str | None
    status: Literal["healthy", "unhealthy"]
