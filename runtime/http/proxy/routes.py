"""Models of other servers, as the application takes them."""

from __future__ import annotations

from ..core.routes import Api
from . import integrations

API = Api(tuple(integrations.ROUTES), needed_scope=integrations.needed_scope)
