"""Every error leaves through here, in the shape that clients of its path expect."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any, ClassVar

import falcon

from ....artifacts.dataclass import dataclass
from ....artifacts.errors import EngineBusyError, RequestError, RocmforgeError, printable
from ...engine.failure import Failure

log = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 1
CLIENT_GONE_STATUS = "499 Client Closed Request"  # nobody reads it but the access log


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


class UnreachableError(RocmforgeError):
    """A server that has the model cannot be reached, or answers nonsense (HTTP 502)."""


class ClientGoneError(Exception):
    """The client hung up; there is nobody to answer."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What there is to say of an error, in whosever words.

    Attributes:
        status: of HTTP.
        message: one line.
        parameter: at fault, or None.
        code: a word that clients of /v1 know, or None.
        too_long: the error, where prompt and output do not fit into the context.
    """

    status: int
    message: str
    parameter: str | None = None
    code: str | None = None
    too_long: ContextLengthError | None = None


@dataclass(frozen=True, slots=True)
class ErrorFormat:
    """How an API says what went wrong.

    Attributes:
        api: name of the API, and its tag in the OpenAPI document.
        schema: type of the document.
        describe: makes the document.
        paths: that are the API's.
        prefixes: as are those that begin so, whoever answers there, or nobody; the longest counts.
    """

    api: str
    schema: Any
    describe: Callable[[Problem], dict[str, object]]
    paths: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()


class Errors:
    """All errors leave through here, each in the format that clients of its path expect."""

    def __init__(self, formats: Iterable[ErrorFormat]) -> None:
        """`formats` of all APIs, one of which has the prefix "": it has what is nobody's."""
        # Those of single paths last: so the OpenAPI document has had their schemas.
        self.formats = sorted(formats, key=lambda one: bool(one.paths))
        self._by_path = {path: one for one in self.formats for path in one.paths}
        prefixes = ((prefix, one) for one in self.formats for prefix in one.prefixes)
        self._by_prefix = sorted(prefixes, key=lambda pair: len(pair[0]), reverse=True)

    def format_of(self, path: str) -> ErrorFormat:
        """The format of a path."""
        found = self._by_path.get(path)
        return found or next(one for prefix, one in self._by_prefix if f"{path}/".startswith(prefix))

    def document(
        self, path: str, status: int, message: str, parameter: str | None = None, code: str | None = None
    ) -> dict[str, object]:
        """JSON of an error."""
        return self.format_of(path).describe(Problem(status, message, parameter, code))

    def text(self, path: str, status: int, message: str) -> str:
        """`document` as text."""
        return json.dumps(self.document(path, status, message))

    def of(self, path: str, error: BaseException) -> tuple[int, dict[str, object]]:
        """Status and JSON of one of our errors, or of an unexpected one, whose text stays inside."""
        problem = _problem_of(error)
        return problem.status, self.format_of(path).describe(problem)

    def install(self, app: falcon.App[Any, Any]) -> None:
        """Make `app` answer all errors so."""
        app.set_error_serializer(self._serialize_http_error)
        app.add_error_handler(Exception, self._on_exception)
        app.add_error_handler(falcon.HTTPError, self._on_http_error)
        app.add_error_handler(RocmforgeError, self._on_our_error)
        app.add_error_handler(ClientGoneError, _on_client_gone)

    def _serialize_http_error(self, req: falcon.Request, resp: falcon.Response, error: falcon.HTTPError) -> None:
        resp.content_type = falcon.MEDIA_JSON
        resp.text = self.text(req.path, error.status_code, _describe(req, error))

    def _on_http_error(self, req: falcon.Request, resp: falcon.Response, error: falcon.HTTPError, _: object) -> None:
        resp.status = error.status
        if error.headers is not None:
            resp.set_headers(error.headers)
        self._serialize_http_error(req, resp, error)

    def _on_our_error(self, req: falcon.Request, resp: falcon.Response, error: RocmforgeError, _: object) -> None:
        status, document = self.of(req.path, error)
        if status == 500:
            log.error("%s %s: %s", printable(req.method), printable(req.path), error)
        if status == 503:
            resp.set_header("Retry-After", str(RETRY_AFTER_SECONDS))
        resp.status = status
        resp.content_type = falcon.MEDIA_JSON
        resp.text = json.dumps(document)

    def _on_exception(self, req: falcon.Request, resp: falcon.Response, error: Exception, _: object) -> None:
        log.error("%s %s failed", printable(req.method), printable(req.path), exc_info=error)
        resp.status, document = self.of(req.path, error)
        resp.content_type = falcon.MEDIA_JSON
        resp.text = json.dumps(document)


def _problem_of(error: BaseException) -> Problem:
    if isinstance(error, RequestError):
        code = error.code if isinstance(error, CodedRequestError) else None
        too_long = error if isinstance(error, ContextLengthError) else None
        return Problem(400, str(error), error.parameter, code, too_long)
    if isinstance(error, NotFoundError):
        return Problem(404, str(error), error.parameter, error.code)
    if isinstance(error, EngineBusyError):
        return Problem(503, str(error))
    if isinstance(error, UnreachableError):
        return Problem(502, str(error))
    return Problem(500, str(error) if isinstance(error, RocmforgeError) else "internal server error")


def _describe(req: falcon.Request, error: falcon.HTTPError) -> str:
    status = error.status_code
    if status == 404:
        return f"no such path: {printable(req.path)}"
    if status == 405:
        allowed = dict(error.headers or {}).get("Allow", "")
        return f"{printable(req.method)} is not allowed here; allowed: {allowed}"
    return error.description or HTTPStatus(status).phrase


def _on_client_gone(_: falcon.Request, resp: falcon.Response, error: ClientGoneError, __: object) -> None:
    resp.status = CLIENT_GONE_STATUS
    resp.text = ""
