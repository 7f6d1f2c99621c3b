"""Every error leaves through here, in the shape that clients of its path expect."""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from typing import Any, ClassVar

import falcon

from ....artifacts.errors import EngineBusyError, RequestError, RocmforgeError, printable
from ...engine.generation import Failure
from ..proxy.manager import IntegrationError

log = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 1
# Type and code of errors of /v1 that are no fault of the request itself.
KINDS = {
    401: ("authentication_error", "invalid_api_key"),
    403: ("permission_error", "insufficient_permissions"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
}
CLIENT_GONE_STATUS = "499 Client Closed Request"  # nobody reads it but the access log


# Anthropic's words for its errors, by status. Source: its API reference, "Errors".
_ANTHROPIC_KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
}


# llama.cpp's words for its errors, by status. Source: `format_error_response` of its server.
_LLAMA_CPP_KINDS = {
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
    }
)


class CodedRequestError(RequestError):
    """A refused request with a `code` that clients of /v1 know."""

    code: ClassVar[str]


class ContextLengthError(CodedRequestError):
    """Prompt and output do not fit into the context.

    Args:
        parameter: at fault.
        problem: what is said of it.
        prompt_tokens: found.
        most: tokens of the prompt, or of prompt and output together where `max_tokens` is given.
        max_tokens: the output asked for, where the prompt alone would fit.
        context: tokens of prompt and output together; None: `most`.
    """

    code = "context_length_exceeded"

    def __init__(
        self,
        parameter: str,
        problem: str,
        prompt_tokens: int,
        most: int,
        max_tokens: int | None = None,
        context: int | None = None,
    ):
        super().__init__(parameter, problem)
        self.prompt_tokens = prompt_tokens
        self.most = most
        self.max_tokens = max_tokens
        self.context = most if context is None else context


class UnsupportedError(CodedRequestError):
    """A parameter that the API knows and this server does not honour yet."""

    code = "unsupported_parameter"

    def __init__(self, parameter: str, problem: str = "not supported yet"):
        super().__init__(parameter, problem)


class CancelledError(CodedRequestError):
    """A blocking request of /v1 that `/cancel` ended; a 400, for clients retry a 5xx."""

    code = "request_cancelled"

    def __init__(self) -> None:
        super().__init__("request", "cancelled")


class NotFoundError(RocmforgeError):
    """A request or model that is not here (HTTP 404)."""

    def __init__(self, message: str, parameter: str | None = None, code: str | None = None):
        super().__init__(message)
        self.parameter = parameter
        self.code = code


class GenerationFailedError(RocmforgeError):
    """The engine gave a request up (HTTP 500)."""


class RequestFailedError(RequestError):
    """A generation that failed by the request's own fault, after it had begun (HTTP 400: clients retry a 5xx)."""

    def __init__(self, failure: Failure):
        RocmforgeError.__init__(self, failure.message)
        self.parameter = failure.parameter or "request"


def generation_error(failure: Failure | None) -> RocmforgeError:
    """What to raise of a generation that failed."""
    if failure is None:
        return GenerationFailedError("generation failed")
    return GenerationFailedError(failure.message) if failure.parameter is None else RequestFailedError(failure)


class ClientGoneError(Exception):
    """The client hung up; there is nobody to answer."""


def error_document(
    path: str, status: int, message: str, parameter: str | None = None, code: str | None = None
) -> dict[str, object]:
    """Return the JSON of an error, by the path that was asked."""
    if path == "/v1" or path.startswith("/v1/"):
        kind, usual_code = KINDS.get(status, ("server_error" if status >= 500 else "invalid_request_error", None))
        error = {"message": message, "type": kind, "param": parameter, "code": code or usual_code}
        if _is_anthropic(path):  # Anthropic's shape, with the fields of /v1 beside it
            return {"type": "error", "error": {**error, "type": _ANTHROPIC_KINDS.get(status, "invalid_request_error")}}
        return {"error": error}
    if path == "/api" or path.startswith("/api/"):
        return {"error": message}
    if path in LLAMA_CPP_PATHS:
        kind = _LLAMA_CPP_KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
        return {"error": {"code": status, "message": message, "type": kind}}
    return {"error": message, "status": "error"}


def _is_anthropic(path: str) -> bool:
    return path.startswith("/v1/messages")


def _of_context(path: str, error: ContextLengthError, document: dict[str, Any]) -> dict[str, object]:
    """What is said of a context that is too short. Clients read it and ask for less: by Anthropic's words on its path
    (Claude Code), by llama.cpp's counts on its paths.
    """
    if _is_anthropic(path):
        document["error"]["message"] = _anthropic_text(error)
    if path in LLAMA_CPP_PATHS:
        counts = {"n_prompt_tokens": error.prompt_tokens, "n_ctx": error.context}
        document["error"] |= {"type": "exceed_context_size_error", **counts}
    return document


def _anthropic_text(error: ContextLengthError) -> str:
    if error.max_tokens is None:
        return f"prompt is too long: {error.prompt_tokens} tokens > {error.most} maximum"
    sum_and_limit = f"{error.prompt_tokens} + {error.max_tokens} > {error.most}"
    return (
        f"input length and `max_tokens` exceed context limit: {sum_and_limit}, "
        "decrease input length or `max_tokens` and try again"
    )


def error_text(path: str, status: int, message: str) -> str:
    """Return `error_document` as text."""
    return json.dumps(error_document(path, status, message))


def error_of(path: str, error: BaseException) -> tuple[int, dict[str, object]]:
    """Return status and JSON of one of our errors, or of an unexpected one, whose text stays inside."""
    if isinstance(error, RequestError):
        code = error.code if isinstance(error, CodedRequestError) else None
        document = error_document(path, 400, str(error), error.parameter, code)
        return 400, _of_context(path, error, document) if isinstance(error, ContextLengthError) else document
    if isinstance(error, EngineBusyError):
        return 503, error_document(path, 503, str(error))
    if isinstance(error, IntegrationError):
        return 502, error_document(path, 502, str(error))
    if isinstance(error, NotFoundError):
        return 404, error_document(path, 404, str(error), error.parameter, error.code)
    if isinstance(error, RocmforgeError):
        return 500, error_document(path, 500, str(error))
    return 500, error_document(path, 500, "internal server error")


def install(app: falcon.App[Any, Any]) -> None:
    """Make `app` answer all errors in our shapes."""
    app.set_error_serializer(_serialize_http_error)
    app.add_error_handler(Exception, _on_exception)
    app.add_error_handler(falcon.HTTPError, _on_http_error)
    app.add_error_handler(RocmforgeError, _on_our_error)
    app.add_error_handler(ClientGoneError, _on_client_gone)


def _describe(req: falcon.Request, error: falcon.HTTPError) -> str:
    status = error.status_code
    if status == 404:
        return f"no such path: {printable(req.path)}"
    if status == 405:
        allowed = dict(error.headers or {}).get("Allow", "")
        return f"{printable(req.method)} is not allowed here; allowed: {allowed}"
    return error.description or HTTPStatus(status).phrase


def _serialize_http_error(req: falcon.Request, resp: falcon.Response, error: falcon.HTTPError) -> None:
    resp.content_type = falcon.MEDIA_JSON
    resp.text = error_text(req.path, error.status_code, _describe(req, error))


def _on_http_error(req: falcon.Request, resp: falcon.Response, error: falcon.HTTPError, _: object) -> None:
    resp.status = error.status
    if error.headers is not None:
        resp.set_headers(error.headers)
    _serialize_http_error(req, resp, error)


def _on_our_error(req: falcon.Request, resp: falcon.Response, error: RocmforgeError, _: object) -> None:
    status, document = error_of(req.path, error)
    if status == 500:
        log.error("%s %s: %s", printable(req.method), printable(req.path), error)
    if status == 503:
        resp.set_header("Retry-After", str(RETRY_AFTER_SECONDS))
    resp.status = status
    resp.content_type = falcon.MEDIA_JSON
    resp.text = json.dumps(document)


def _on_exception(req: falcon.Request, resp: falcon.Response, error: Exception, _: object) -> None:
    log.error("%s %s failed", printable(req.method), printable(req.path), exc_info=error)
    resp.status, document = error_of(req.path, error)
    resp.content_type = falcon.MEDIA_JSON
    resp.text = json.dumps(document)


def _on_client_gone(_: falcon.Request, resp: falcon.Response, error: ClientGoneError, __: object) -> None:
    resp.status = CLIENT_GONE_STATUS
    resp.text = ""
