"""`rfc serve --alias`: further names for a model, on every API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rocmforge.tests.support.killed import one_of_many
from rocmforge.tests.support.process import Server, refused, serving

MESSAGES = [{"role": "user", "content": "x"}]
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "x", "max_tokens": 1},
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": 1},
    "/v1/responses": {"input": "x", "max_output_tokens": 1},
    "/v1/embeddings": {"input": "x"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 1},
    "/v1/messages/count_tokens": {"messages": MESSAGES},
    "/api/chat": {"messages": MESSAGES, "stream": False, "options": {"num_predict": 1}},
    "/api/generate": {"prompt": "x", "stream": False, "options": {"num_predict": 1}},
    "/api/embed": {"input": "x"},
    "/api/show": {},
    "/completion": {"prompt": "x", "n_predict": 1},
}


@pytest.fixture(scope="module")
def server(small_bundle: Path) -> Iterator[Server]:
    with serving(small_bundle, "--alias", "claude-haiku=small", "--alias", "large:latest=small") as running:
        yield running


@pytest.mark.parametrize("path", REQUESTS)
@pytest.mark.parametrize("name", ["claude-haiku", "large:latest"])
def test_every_api_takes_it(server: Server, path: str, name: str) -> None:
    assert server.post(path, REQUESTS[path] | {"model": name}).status_code == 200
    assert server.post(path, REQUESTS[path] | {"model": f"{name}-2"}).status_code == 404


def test_it_is_listed(server: Server) -> None:
    listed = server.get("/v1/models").json()["data"]
    assert [model["id"] for model in listed] == ["small", "claude-haiku", "large:latest"]
    assert [{**model, "id": "small"} for model in listed[1:]] == [listed[0]] * 2
    assert server.get("/v1/models/claude-haiku").json() == listed[1]


@pytest.mark.parametrize(
    ("aliases", "named"),
    [
        (["small"], ["NAME=MODEL", "small"]),
        (["=small"], ["NAME=MODEL"]),
        (["claude="], ["NAME=MODEL"]),
        (["claude=large"], ["small", "large"]),
        (["small=small"], ["small"]),
        (["claude=small", "claude=other"], ["claude", "two"]),
    ],
)
def test_wrong_ones_are_refused(small_bundle: Path, aliases: list[str], named: list[str]) -> None:
    options = [part for alias in aliases for part in ("--alias", alias)]
    refused(one_of_many("serve", small_bundle, *options), 2, "--alias", *named)
