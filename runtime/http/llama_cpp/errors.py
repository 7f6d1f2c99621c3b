"""How llama.cpp says what went wrong."""

from __future__ import annotations

from ..core.errors import ErrorFormat, Problem
from .schema import LlamaError

# By status. Source: `format_error_response` of its server.
_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    503: "unavailable_error",
}
# Its paths; those that have `/v1` before them are OpenAI's, and so are their errors.
LLAMA_CPP_PATHS = frozenset(
    {
        "/apply-template",
        "/chat/completions",
        "/chat/completions/input_tokens",
        "/completion",
        "/completions",
        "/detokenize",
        "/embedding",
        "/embeddings",
        "/infill",
        "/lora-adapters",
        "/props",
        "/rerank",
        "/reranking",
        "/responses",
        "/slots",
        "/tokenize",
        "/v2/rerank",
    }
)


def _describe(problem: Problem) -> dict[str, object]:
    other = "server_error" if problem.status >= 500 else "invalid_request_error"
    error = {
        "code": problem.status,
        "message": problem.message,
        "type": _KINDS.get(problem.status, other),
    }
    if problem.too_long is not None:  # clients read the counts, and ask for less
        error["type"] = "exceed_context_size_error"
        error |= {"n_prompt_tokens": problem.too_long.prompt_tokens, "n_ctx": problem.too_long.context}
    return {"error": error}


LLAMA_CPP = ErrorFormat("llama.cpp", LlamaError, _describe, paths=LLAMA_CPP_PATHS)
