"""OpenAI's API, as the application takes it."""

from __future__ import annotations

from ..core.routes import Api
from . import chat_completions, completions, embeddings, models, responses
from .errors import OPENAI

API = Api((*models.ROUTES, *completions.ROUTES, *chat_completions.ROUTES, *embeddings.ROUTES), OPENAI)
RESPONSES = Api(tuple(responses.ROUTES))
