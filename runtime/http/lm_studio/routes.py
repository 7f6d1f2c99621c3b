"""LM Studio's API, as the application takes it: its errors are Ollama's, whose paths are around its own."""

from __future__ import annotations

from ..core.routes import Api
from . import models

API = Api(tuple(models.ROUTES))
