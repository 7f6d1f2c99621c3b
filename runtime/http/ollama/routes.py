"""Ollama's API, as the application takes it."""

from __future__ import annotations

from ..core.routes import Api
from . import generate, models
from .errors import OLLAMA

API = Api((*generate.ROUTES, *models.ROUTES), OLLAMA)
