"""Anthropic's API, as the application takes it."""

from __future__ import annotations

from ..core.routes import Api
from . import messages
from .errors import ANTHROPIC

API = Api(tuple(messages.ROUTES), ANTHROPIC)
