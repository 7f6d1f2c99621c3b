"""ROCmForge's own API, as the application takes it."""

from __future__ import annotations

from ..core.routes import Api
from . import generate, health, metrics, models
from .errors import NATIVE

API = Api((*generate.ROUTES, *health.ROUTES, *metrics.ROUTES, *models.ROUTES), NATIVE, metrics.needed_scope)
