"""Requests to the OpenAI API of an application, and what its answers hold."""

from __future__ import annotations

import json
from typing import Any

import falcon.testing

from rocmforge.runtime.engine.generation import Constraint
from rocmforge.runtime.text.constraints import ConstraintSpec

HELLO = [{"role": "user", "content": "hi"}]


def chat(client: falcon.testing.TestClient, **body: Any) -> falcon.testing.Result:
    return client.simulate_post("/v1/chat/completions", json={"messages": HELLO, **body})


def complete(client: falcon.testing.TestClient, **body: Any) -> falcon.testing.Result:
    return client.simulate_post("/v1/completions", json={"prompt": "hi", **body})


def stream_of(result: falcon.testing.Result) -> list[Any]:
    parts = [p[6:] for p in result.text.split("\n\n") if p.startswith("data: ")]
    assert result.text.startswith(": ping\n\n")
    return [p if p == "[DONE]" else json.loads(p) for p in parts]


CITY: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}}
LARK = {"type": "grammar", "syntax": "lark", "definition": 'start: "a"+'}


class Specs:
    """Notes what constraints are asked for, and makes none."""

    def __init__(self) -> None:
        self.asked: list[ConstraintSpec] = []

    def compile(self, spec: ConstraintSpec) -> Constraint:
        self.asked.append(spec)
        return None  # type: ignore[return-value]


def events(result: falcon.testing.Result) -> list[dict[str, Any]]:
    assert result.status_code == 200, result.text
    data = [line[6:] for line in result.text.splitlines() if line.startswith("data: {")]
    return [json.loads(text) for text in data]
