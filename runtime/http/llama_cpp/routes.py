"""llama.cpp's API, as the application takes it."""

from __future__ import annotations

from ..core.routes import Api
from . import completion, embeddings, lora, properties, rerank
from .errors import LLAMA_CPP

API = Api((*properties.ROUTES, *completion.ROUTES, *lora.ROUTES), LLAMA_CPP, lora.needed_scope)
EMBEDDINGS = Api((*embeddings.ROUTES, *rerank.ROUTES))
