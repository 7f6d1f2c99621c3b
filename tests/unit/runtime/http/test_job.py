"""A request's slot is given back, whatever came of it."""

from __future__ import annotations

from typing import Any

import falcon.testing
import pytest

from rocmforge.runtime.http.core.errors import ClientGoneError
from rocmforge.runtime.http.core.job import look_of
from rocmforge.tests.support.fake_engine import FakeEngine, make_app

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


def test_who_has_hung_up_is_noticed_and_nobody_else() -> None:
    hung_up: list[bool] = []
    environ = falcon.testing.create_environ("/generate")
    look_of(falcon.Request(environ))()  # of a server that does not tell
    look = look_of(falcon.Request({**environ, "waitress.client_disconnected": lambda: bool(hung_up)}))
    look()
    hung_up.append(True)
    with pytest.raises(ClientGoneError):
        look()
