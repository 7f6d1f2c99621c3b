"""The OpenAPI document against a real server: thousands of generated requests, and no answer that it does not allow.

The generated model has random weights and a short context, so that a request takes milliseconds. How many requests a
route gets is set by $ROCMFORGE_OPENAPI_CASES; 120 come to more than 5,000 in all. Where it is set, they are others each
time; without it they are always the same, so that nobody's change fails for what was there before it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from rocmforge.tests.support.process import PATIENCE_SECONDS, Server, serving

ASKED_CASES = os.environ.get("ROCMFORGE_OPENAPI_CASES")
CASES = int(ASKED_CASES or "15")
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
GOOD: Any = {"prompt": "x", "max_tokens": 1, "temperature": 0}


@pytest.fixture(scope="module")
def tiny(small_bundle: Path) -> Iterator[Server]:
    with serving(small_bundle) as running:
        yield running


def make_likely(case: Any, model: str) -> None:
    """Have most requests ask for the model that is there, and for few tokens: else they end before the engine."""
    if isinstance(case.body, dict):
        if "model" in case.body and len(str(case.body["model"])) % 4:
            case.body["model"] = model
        for name in ("max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict"):
            value = case.body.get(name)
            if isinstance(value, int) and value > 16:
                case.body[name] = value % 16 + 1


def test_no_answer_that_the_document_does_not_allow(tiny: Server) -> None:
    model = requests.get(f"{tiny.url}/v1/models", timeout=PATIENCE_SECONDS).json()["data"][0]["id"]
    schema = schemathesis.openapi.from_url(f"{tiny.url}/openapi.json")
    statuses = Counter[int]()

    def check(case: Any) -> None:
        make_likely(case, model)
        response = case.call(timeout=PATIENCE_SECONDS)
        statuses[response.status_code] += 1
        case.validate_response(response, checks=CHECKS)
        if statuses.total() % 100 == 0:
            good = requests.post(f"{tiny.url}/generate", json=GOOD, timeout=PATIENCE_SECONDS)
            assert good.status_code == 200

    results: Any = schema.get_all_operations()
    for result in results:
        given = hypothesis.given(case=result.ok().as_strategy())
        limited = hypothesis.settings(
            max_examples=CASES,
            deadline=None,
            database=None,
            derandomize=not ASKED_CASES,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        limited(given(check))()
    print(dict(statuses))
    assert statuses.total() >= 10 * CASES
    assert statuses[200] > 0
    health = requests.get(f"{tiny.url}/health", timeout=PATIENCE_SECONDS).json()
    assert health["status"] == "healthy"
    assert health["checks"]["cache"]["pages_used"] == 0


_MESSAGES = [{"role": "user", "content": "x"}]
STREAMS = {
    "/generate/stream": GOOD,
    "/completion": {"prompt": "x", "n_predict": 2, "stream": True},
    "/v1/completions": {"prompt": "x", "max_tokens": 2, "stream": True},
    "/v1/chat/completions": {"messages": _MESSAGES, "max_tokens": 2, "stream": True},
    "/v1/responses": {"input": "x", "max_output_tokens": 2, "stream": True},
    "/v1/messages": {"messages": _MESSAGES, "max_tokens": 2, "stream": True},
}


@pytest.mark.parametrize("path", STREAMS)
def test_each_event_of_a_stream_is_as_the_document_says(tiny: Server, path: str) -> None:
    """Generated requests seldom come to a stream that ends well."""
    model = requests.get(f"{tiny.url}/v1/models", timeout=PATIENCE_SECONDS).json()["data"][0]["id"]
    body = STREAMS[path] | ({} if path == "/generate/stream" else {"model": model})
    operation: Any = schemathesis.openapi.from_url(f"{tiny.url}/openapi.json")[path]["POST"]
    case = operation.Case(body=body, media_type="application/json")
    response = case.call(timeout=PATIENCE_SECONDS)
    assert response.status_code == 200
    assert response.headers["content-type"][0].startswith("text/event-stream")
    case.validate_response(response, checks=CHECKS)
