"""The OpenAPI document of all routes, made from the schemas."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import falcon
import msgspec

from .... import __version__
from .errors import ErrorFormat, Errors
from .resources import Context, ReadResource, answer
from .routes import Operation, Route

_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")


def openapi_document(routes: Sequence[Route], errors: Errors) -> dict[str, object]:
    """OpenAPI 3.1 of the routes. Source: the OpenAPI specification 3.1.0.

    Args:
        routes: all of them.
        errors: what is said of errors at their paths.
    """
    schemas = _Schemas(routes, errors)
    paths: dict[str, dict[str, object]] = {}
    for route in routes:
        path = _PARAMETER.sub(r"{\1}", route.path)
        entry = paths.setdefault(path, {})
        for method in ("get", "post", "delete"):
            operation = getattr(route, method)
            if operation is not None:
                if route.forwarded:
                    operation = replace(operation, errors=(*operation.errors, 502))
                entry[method] = _operation(route, method, operation, schemas, errors.format_of(route.path))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ROCmForge",
            "version": __version__,
            "description": "The native API, and those of OpenAI, Ollama, Anthropic, llama.cpp and LM Studio.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


class _Schemas:
    """JSON schemas of all types of the routes."""

    def __init__(self, routes: Sequence[Route], errors: Errors) -> None:
        operations = [op for route in routes for op in (route.get, route.post, route.delete) if op is not None]
        types = [t for op in operations for t in (op.request, op.response, op.stream) if t is not None]
        types += [one.schema for one in errors.formats]
        self._types = list(dict.fromkeys(types))
        made, self.components = msgspec.json.schema_components(self._types, ref_template="#/components/schemas/{name}")
        self._made = dict(zip(self._types, made, strict=True))

    def of(self, kind: Any) -> object:
        """Schema of a type, or a reference to it."""
        return self._made[kind]


def _operation(
    route: Route, method: str, operation: Operation, schemas: _Schemas, errors: ErrorFormat
) -> dict[str, object]:
    content: dict[str, object] = {}
    if operation.response is not None:
        content[operation.media_type] = {"schema": schemas.of(operation.response)}
    elif operation.media_type != "application/json":
        content[operation.media_type] = {"schema": {"type": "string"}}
    if operation.stream is not None:
        content[operation.stream_media_type] = {"schema": _event_schema(operation, schemas)}
    document: dict[str, object] = {
        "summary": operation.summary,
        "operationId": f"{method}_{re.sub(r'[^a-zA-Z0-9]+', '_', route.path).strip('_') or 'index'}",
        "tags": [errors.api],
        "responses": {
            "200": {"description": "Done.", "content": content},
            **_error_responses(operation, schemas.of(errors.schema)),
        },
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": dict(route.path_schema)}
        for name in _PARAMETER.findall(route.path)
    ]
    parameters += [
        {"name": name, "in": "query", "required": False, "schema": schema} for name, schema in operation.query
    ]
    if parameters:
        document["parameters"] = parameters
    if operation.request is not None:
        body = {"application/json": {"schema": schemas.of(operation.request)}}
        document["requestBody"] = {"required": not operation.body_optional, "content": body}
    return document


def _event_schema(operation: Operation, schemas: _Schemas) -> object:
    """Of one event or line: OpenAPI 3.1 has no word for a stream of them."""
    if operation.stream_media_type != "text/event-stream":
        return schemas.of(operation.stream)
    encoded = {"contentMediaType": "application/json", "contentSchema": schemas.of(operation.stream)}
    data: dict[str, object] = {"type": "string"}
    data |= encoded if operation.stream_end is None else {"anyOf": [{"const": operation.stream_end}, encoded]}
    return {"type": "object", "properties": {"event": {"type": "string"}, "data": data}, "required": ["data"]}


_STATUSES = {
    400: "The request cannot be served as asked.",
    401: "No key, or a wrong one.",
    403: "The key may not do this.",
    404: "Not here.",
    413: "The body is too large.",
    415: "The body is compressed.",
    429: "Too many requests; see Retry-After.",
    500: "The engine failed.",
    502: "The server that has the model cannot be reached.",
    503: "Busy, or without its device; see Retry-After.",
}


def _error_responses(operation: Operation, schema: object) -> dict[str, object]:
    statuses = {400, 401, 403, 404, 429, 500, 503, *operation.errors}
    if operation.request is not None:
        statuses |= {413, 415}
    content = {"application/json": {"schema": schema}}
    return {str(s): {"description": _STATUSES[s], "content": content} for s in sorted(statuses)}


class OpenApi(ReadResource):
    """`GET /openapi.json`."""

    def __init__(self, context: Context, routes: Sequence[Route]) -> None:
        super().__init__(context)
        self._routes = routes
        self._document: dict[str, object] | None = None  # takes 30 ms: made when it is asked for

    def on_get(self, req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
        """Answer with the document."""
        if self._document is None:  # two threads may both come here: they make the same
            self._document = openapi_document(self._routes, self.context.errors)
        answer(resp, self._document)
