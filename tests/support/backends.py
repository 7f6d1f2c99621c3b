"""A server behind this one."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar

import falcon.testing

from rocmforge.runtime.http.app import create_app
from rocmforge.runtime.http.core.limits import HttpLimits
from rocmforge.runtime.http.core.registry import OneModel
from rocmforge.runtime.http.core.service import Service
from rocmforge.runtime.http.proxy.manager import IntegrationManager
from rocmforge.runtime.telemetry.metrics import Metrics
from rocmforge.tests.support.fake_engine import MODEL, FakeEngine, FakeTemplate, FakeTokenizer

TAGS = {"models": [{"name": "deepcoder:14b", "size": 8_400_000_000, "details": {"parameter_size": "14.8B"}}]}
EVENTS = b'data: {"a": 1}\n\ndata: [DONE]\n\n'


class Backend(BaseHTTPRequestHandler):
    """An Ollama and an OpenAI server in one; keeps what it was asked."""

    asked: ClassVar[list[tuple[str, Any, str | None]]]

    def do_GET(self) -> None:
        answers = {"/api/tags": TAGS, "/api/version": {"version": "0.11.5"}, "/v1/models": {"data": [{"id": "gpt"}]}}
        self._answer(200 if self.path in answers else 404, json.dumps(answers.get(self.path, {})).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, body, self.headers["Authorization"]))
        if body.get("stream"):
            self._answer(200, EVENTS, "text/event-stream")
        else:
            self._answer(429 if body.get("busy") else 200, json.dumps({"here": body.get("model")}).encode())

    def _answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Retry-After", "7")
        self.send_header("X-Secret", "kept")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def client_of(manager: IntegrationManager) -> falcon.testing.TestClient:
    service = Service(FakeEngine(), FakeTokenizer(), FakeTemplate(), MODEL)
    app = create_app(OneModel(service), Metrics(), HttpLimits(poll_seconds=0.02), integrations=manager)
    return falcon.testing.TestClient(app)


def asked(path: str, host: str, *more: str, method: str = "GET") -> list[str]:
    """Lines of a request."""
    own = ["Accept: application/json, text/event-stream", "User-Agent: rocmforge", *more]
    return [f"{method} {path} HTTP/1.1", f"Host: {host}", "Accept-Encoding: identity", *own, "", ""]
