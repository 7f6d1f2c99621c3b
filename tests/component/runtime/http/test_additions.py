"""What an addition to HTTP costs: an endpoint and an API, each written into a copy of the package, and served there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rocmforge.tests.support.additions import changed, copy_package, edit, python, recipe

APP = "runtime/http/app.py"
# A new endpoint of OpenAI's API: how long the names of the models are.
DOCUMENT = '''

class NameLengths(Struct, kw_only=True):
    """`GET /v1/lengths`."""

    lengths: list[int]
'''
ENDPOINT = '''

class Lengths(ReadResource):
    """`GET /v1/lengths`."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
        """Answer with the length of each name."""
        answer(resp, NameLengths(lengths=[len(card.name) for card in self.context.models.cards()]))


ROUTES.append(Route("/v1/lengths", Lengths, get=Operation("Of names.", None, NameLengths), private=True))
'''
# A new API, which answers chats in capitals.
SCHEMA = '''"""Documents of shouting."""

from msgspec import Struct

from ..core.schema import SamplingFields


class ShoutRequest(SamplingFields, kw_only=True):
    text: str
    stream: bool = False


class Shout(Struct, kw_only=True):
    shout: str


class ShoutError(Struct, kw_only=True):
    ouch: str
'''
SHOUTING = '''"""An API of its own."""

from ..core.chat_answer import AnswerPart, AnswerReader
from ..core.chat_job import start_chat
from ..core.generation_params import read_params
from ..core.conversation import Conversation
from ..core.errors import ErrorFormat
from ..core.resources import Resource
from ..core.routes import Api, Operation, Route
from ..core.streaming import Encoder, respond
from .schema import Shout, ShoutError, ShoutRequest


class Shouting(Resource):
    def on_post(self, req, resp):
        body = self.read(req, ShoutRequest)
        with self.context.models.lease(None) as lease:
            params = read_params(body, None, lease.service.engine.vocab_size)
            conversation = Conversation(({"role": "user", "content": body.text},), params)
            job, _, (reader,) = start_chat(req, lease, self.context.admission, conversation)
        respond(req, resp, job, self.context, ShoutEncoder(reader), body.stream)


class ShoutEncoder(Encoder[Shout]):
    def __init__(self, reader):
        self._reader = reader

    def encode(self, event):
        yield Shout(shout="".join(self._reader.read(event).turns).upper())

    def fold(self, parts):
        return Shout(shout="".join(part.shout for part in parts))


ERRORS = ErrorFormat("shouts", ShoutError, lambda problem: {"ouch": problem.message}, prefixes=("/shouts/",))
ROUTE = Route("/shouts/new", Shouting, post=Operation("Shout.", ShoutRequest, Shout, stream=Shout))
API = Api((ROUTE,), ERRORS)
'''
ASK = """
import json, sys
import falcon.testing
from rocmforge.tests.support.fake_engine import FakeEngine, make_app

client = falcon.testing.TestClient(make_app(FakeEngine()))
asked = [client.simulate_request(method, path, json=body) for method, path, body in json.loads(sys.argv[1])]
paths = client.simulate_get("/openapi.json").json["paths"]
print(json.dumps([[one.text for one in asked], {path: [*entry.values()][0]["tags"] for path, entry in paths.items()}]))
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of what serves, and of the tests' engine."""
    return copy_package(tmp_path, "runtime", "artifacts", "tests/support")


def ask(package: Path, *requests: tuple[str, str, Any]) -> Any:
    return json.loads(python(package, "-c", ASK, json.dumps(requests)).splitlines()[-1])


def test_an_endpoint_is_two_files(package: Path) -> None:
    room = package / "runtime/http/openai"
    (room / "model_schema.py").write_text((room / "model_schema.py").read_text() + DOCUMENT)
    (room / "models.py").write_text((room / "models.py").read_text() + ENDPOINT)
    edit(
        room / "models.py", ("    ModelMeta,\n    Throughput,\n", "    ModelMeta,\n    NameLengths,\n    Throughput,\n")
    )
    assert changed(package) == recipe("An endpoint of a known API")
    (answer, refused), paths = ask(package, ("GET", "/v1/lengths", None), ("POST", "/v1/lengths", {}))
    assert json.loads(answer) == {"lengths": [11]}
    assert json.loads(refused)["error"]["message"] == "POST is not allowed here; allowed: GET, HEAD, OPTIONS"
    assert paths["/v1/lengths"] == ["openai"]


def test_an_api_is_a_folder_and_its_line(package: Path) -> None:
    room = package / "runtime/http/shouts"
    room.mkdir()
    (room / "__init__.py").touch()
    (room / "schema.py").write_text(SCHEMA)
    (room / "routes.py").write_text(SHOUTING)
    edit(
        package / APP,
        (
            "from .proxy import routes as proxy\n",
            "from .proxy import routes as proxy\nfrom .shouts import routes as shouts\n",
        ),
        ("    proxy.API,\n", "    proxy.API,\n    shouts.API,\n"),
    )
    assert changed(package) == recipe("An API")
    body = {"text": "hi"}
    asked = [("POST", "/shouts/new", body), ("POST", "/shouts/new", {**body, "stream": True})]
    (whole, stream, wrong, nowhere), paths = ask(
        package, *asked, ("POST", "/shouts/new", {}), ("GET", "/shouts/x", None)
    )
    assert json.loads(whole) == {"shout": " PARIS, IN FRANCE."}
    parts = [json.loads(line.removeprefix("data: ")) for line in stream.splitlines() if line.startswith("data: ")]
    assert "".join(part["shout"] for part in parts) == " PARIS, IN FRANCE."
    assert json.loads(wrong) == {"ouch": "text: expected it to be there, found nothing"}
    assert json.loads(nowhere) == {"ouch": "no such path: /shouts/x"}
    assert paths["/shouts/new"] == ["shouts"]
