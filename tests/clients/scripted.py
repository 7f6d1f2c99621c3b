"""A server whose model says what is written here: one as small as SmolLM2 calls no tool by itself."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from rocmforge.runtime.engine.generation import GenerationRequest
from rocmforge.runtime.http.transport.server import Server
from rocmforge.tests.support.fake_engine import MODEL as CARD
from rocmforge.tests.support.fake_engine import FakeEngine, FakeGeneration, FakeTemplate, make_app

MODEL = CARD.name


@dataclass
class ScriptedEngine(FakeEngine):
    """Answers each request with the next of the `replies`, and those after the last with the last."""

    replies: Sequence[list[str]] = field(default_factory=list)
    answered: int = 0

    def submit_all(self, requests: Sequence[GenerationRequest]) -> list[FakeGeneration]:
        """See `FakeEngine`."""
        self.reply = self.replies[min(self.answered, len(self.replies) - 1)]
        self.answered += 1
        return super().submit_all(requests)


@contextlib.contextmanager
def scripted(
    *replies: list[str], max_context: int = 1 << 20, strict: bool = False, alias: str = ""
) -> Iterator[tuple[str, FakeTemplate]]:
    """Its URL, and the template, which keeps the last conversation. A token of it is a byte. `strict`: see there.

    `alias`: a further name of the model.
    """
    template, engine = FakeTemplate(strict=strict), ScriptedEngine(replies=replies, max_context=max_context)
    model = replace(CARD, aliases=(alias,) if alias else ())
    server = Server(make_app(engine, template=template, model=model), "127.0.0.1", 0)
    thread = threading.Thread(target=server.run, args=(0.1,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.address[1]}", template
    finally:
        server.stop()
        thread.join(10)


def call_of(name: str, arguments: str) -> list[str]:
    """What a model says that calls a tool, in three tokens; `arguments` is JSON."""
    return [f'<tool_call>{{"name": "{name}", ', f'"arguments": {arguments}', "}</tool_call>"]
