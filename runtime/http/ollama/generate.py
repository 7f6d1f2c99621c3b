"""Ollama's `POST /api/chat` and `/api/generate`."""

from __future__ import annotations

from collections.abc import Callable

import falcon

from ..core.access import Scope, demand
from ..core.answer_clock import AnswerClock
from ..core.chat_answer import AnswerReader
from ..core.infill import Gap, infill_ids
from ..core.job import look_of, start_job
from ..core.registry import Lease, keep
from ..core.resources import Resource, answer
from ..core.routes import Operation, Route
from ..core.service import ChatPrompt, Service
from ..core.streaming import NDJSON, respond
from ..core.text_apis import Look
from .lines import Answering, LineEncoder, RawReader, Reader, Said, loaded_line, now
from .requests import Asked, keep_seconds, read_chat, read_generate
from .schema import (
    ChatLine,
    GenerateLine,
    GeneratingFields,
    Line,
    OllamaAnswerMessage,
    OllamaChatRequest,
    OllamaGenerateRequest,
)


class _GeneratingResource(Resource):
    """What chat and generate share."""

    def load(
        self, req: falcon.Request, body: GeneratingFields, line: ChatLine | GenerateLine, clock: AnswerClock
    ) -> Line:
        """Answer a request without a prompt: load the model, or unload it.

        Raises:
            HTTPForbidden: the key may not unload it.
        """
        models, seconds = self.context.models, keep_seconds(body.keep_alive)
        if seconds == 0:
            demand(req, Scope.ADMIN)
            models.keep(body.model, 0)
            return loaded_line(line, "unload", clock)
        with models.lease(body.model):
            keep(req, models, body.model, seconds)
            clock.loaded()
        return loaded_line(line, "load", clock)

    def generate(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        lease: Lease,
        body: GeneratingFields,
        asked: Asked,
        clock: AnswerClock,
        line: Callable[[Answering], Callable[[Said], Line]],
    ) -> None:
        """Answer at once or, as Ollama does unless told not to, as a stream."""
        service, conversation = lease.service, asked.conversation
        prompt = _prompt(service, asked, look_of(req))
        clock.loaded()
        job = start_job(
            req,
            lease.keep(),
            self.context.admission,
            lambda: service.requests(
                prompt.token_ids,
                conversation.params,
                asked.max_tokens,
                1,
                prompt.answers.kept_tokens,
                prompt.pictures,
            ),
        )
        reader: Reader = RawReader()
        if asked.raw is None:
            reader = AnswerReader(conversation, prompt)
        answering = Answering(body.model, service.tokenizer, len(prompt.token_ids), clock)
        encoder = LineEncoder(answering, reader, line(answering))
        respond(req, resp, job, self.context, encoder, body.stream is not False)


def _prompt(service: Service, asked: Asked, look: Look) -> ChatPrompt:
    """What the model reads.

    Raises:
        RequestError: it cannot; see `Service.chat_prompt` and `infill_ids`.
    """
    if asked.raw is None:
        return service.chat_prompt(asked.conversation, look)
    if not asked.suffix:
        return ChatPrompt(asked.raw, service.prompt_ids(asked.raw, look), False)
    ids = infill_ids(service, Gap(asked.raw, asked.suffix), asked.max_tokens, "suffix", look)
    return ChatPrompt(asked.raw, ids, False)


class OllamaChat(_GeneratingResource):
    """`POST /api/chat`."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer the conversation; load the model where there is none."""
        clock = AnswerClock()
        body = self.read(req, OllamaChatRequest)
        if not body.messages:
            message = OllamaAnswerMessage()
            line = ChatLine(model=body.model, created_at=now(), done=True, message=message)
            answer(resp, self.load(req, body, line, clock))
            return
        seconds = keep_seconds(body.keep_alive)
        with self.context.models.lease(body.model) as lease:
            keep(req, self.context.models, body.model, seconds)
            asked = read_chat(body, lease.service.engine.vocab_size)
            self.generate(req, resp, lease, body, asked, clock, lambda answering: answering.chat_line)


class OllamaGenerate(_GeneratingResource):
    """`POST /api/generate`."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer the prompt; load the model where there is none."""
        clock = AnswerClock()
        body = self.read(req, OllamaGenerateRequest)
        if not body.prompt:
            line = GenerateLine(model=body.model, created_at=now(), done=True, response="")
            answer(resp, self.load(req, body, line, clock))
            return
        seconds = keep_seconds(body.keep_alive)
        with self.context.models.lease(body.model) as lease:
            keep(req, self.context.models, body.model, seconds)
            asked = read_generate(body, lease.service.engine.vocab_size)
            self.generate(req, resp, lease, body, asked, clock, lambda answering: answering.generate_line)


ROUTES = [
    Route(
        "/api/chat",
        OllamaChat,
        post=Operation(
            "Answer a conversation.", OllamaChatRequest, ChatLine, stream=ChatLine, stream_media_type=NDJSON
        ),
        forwarded=True,
    ),
    Route(
        "/api/generate",
        OllamaGenerate,
        post=Operation(
            "Answer a prompt.", OllamaGenerateRequest, GenerateLine, stream=GenerateLine, stream_media_type=NDJSON
        ),
        forwarded=True,
    ),
]
