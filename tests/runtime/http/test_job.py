"""A request's slot is given back, whatever came of it."""

from __future__ import annotations

from typing import Any

import falcon.testing
import pytest

from .fake_engine import FakeEngine, make_app

HELLO = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("engine", [{}, {"fail_after": 1}, {"busy": True}, {"broken": True}])
@pytest.mark.parametrize(
    "path, body",
    [
        ("/generate", {"prompt": "x"}),
        ("/v1/completions", {"prompt": "x"}),
        ("/v1/chat/completions", {"messages": HELLO}),
        ("/v1/responses", {"input": "x"}),
        ("/v1/messages", {"messages": HELLO, "max_tokens": 4}),
        ("/completion", {"prompt": "x"}),
    ],
)
def test_the_slot_comes_back(path: str, body: dict[str, Any], engine: dict[str, Any], stream: bool) -> None:
    app = make_app(FakeEngine(**engine))
    falcon.testing.TestClient(app).simulate_post(path, json={**body, "stream": stream})
    assert app.admission.active == 0
