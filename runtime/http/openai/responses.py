"""`POST /v1/responses`: OpenAI's newer API of conversations, with a bounded memory of them."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import falcon
import msgspec

from ....artifacts.dataclass import dataclass
from ....artifacts.errors import printable
from ...engine.failure import Failure
from ...engine.generation import FINISH_CANCELLED, FINISH_FAILED, TokenEvent
from ..core.access import client_of
from ..core.answers import check_finish
from ..core.chat_answer import AnswerPart, AnswerReader
from ..core.chat_job import start_chat
from ..core.conversation import Conversation as Chat
from ..core.conversation import Message, thinking_variables
from ..core.encoding import named_sse
from ..core.errors import NotFoundError, UnsupportedError
from ..core.generation_params import GenerationParams, constraint_of_format
from ..core.job import Job
from ..core.resources import ReadResource, Resource, answer
from ..core.routes import Operation, Route
from ..core.schema import JsonSchemaFormat, ResponseFormat
from ..core.streaming import Encoder, respond
from .response_input import read_input, with_instructions
from .response_items import ItemBuilder
from .response_schema import (
    DeletedResponse,
    Event,
    InputDetails,
    OutputDetails,
    ReasoningOptions,
    ResponseDocument,
    ResponseError,
    ResponseEvent,
    ResponsesRequest,
    ResponseUsage,
    TextFormat,
    TextOptions,
)
from .response_store import ResponseStore, StoredResponse
from .response_tools import Toolbox

log = logging.getLogger(__name__)

LOGPROBS = "message.output_text.logprobs"  # as `include` names them


def read_chat(body: ResponsesRequest, toolbox: Toolbox, said: Sequence[Message]) -> Chat:
    """What to answer: what has been `said`, behind the instructions.

    Raises:
        RequestError: names the parameter at fault.
    """
    chosen = toolbox.choose(body.tool_choice)
    return Chat(
        with_instructions(body.instructions, said),
        _params(body),
        chosen.tools,
        chosen.choice,
        body.parallel_tool_calls is not False,
        thinking_variables(body.reasoning.effort if body.reasoning else None),
        chosen.text_tool,
    )


def _refuse_what_is_elsewhere(body: ResponsesRequest) -> None:
    """Refuse what would have an answer without a part of what was said, or only later.

    Raises:
        UnsupportedError: it is there.
    """
    if body.background:
        raise UnsupportedError("background")
    if body.conversation is not None:
        raise UnsupportedError("conversation", "no conversations are kept; use previous_response_id")
    if body.prompt is not None:
        raise UnsupportedError("prompt", "no prompts are kept; use instructions and input")


def _params(body: ResponsesRequest) -> GenerationParams:
    default = GenerationParams()
    sampling = replace(
        default.sampling,
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
    )
    shape, constraint = body.text.format if body.text else None, None
    if shape is not None and shape.type != "text":
        schema = JsonSchemaFormat(schema=shape.schema) if shape.schema is not None else None
        constraint = constraint_of_format(ResponseFormat(type=shape.type, json_schema=schema), "text.format")
    logprobs = None
    if body.top_logprobs or LOGPROBS in (body.include or ()):
        logprobs = body.top_logprobs or 0
    return replace(
        default, max_tokens=body.max_output_tokens, sampling=sampling, logprobs=logprobs, constraint=constraint
    )


@dataclass(slots=True)
class _Run:
    """One response in the making; what was said before it is without its instructions."""

    said: tuple[Message, ...]
    document: ResponseDocument
    reader: AnswerReader
    builder: ItemBuilder
    job: Job
    client: str
    store: ResponseStore
    tokens: int = 0

    def read(self, event: TokenEvent) -> AnswerPart:
        part = self.reader.read(event)
        self.tokens += part.tokens
        return part

    def finish(self, part: AnswerPart) -> ResponseDocument:
        """The response as it ended, kept where the client wants it kept."""
        status, error, details = "completed", None, None
        if part.finish_reason in (FINISH_FAILED, FINISH_CANCELLED):
            status, error = "failed", _error_of(part)
        elif part.finish_reason == "length":
            status, details = "incomplete", {"reason": "max_output_tokens"}
        prompt_tokens = self.job.prompt_tokens
        usage = ResponseUsage(
            input_tokens=prompt_tokens,
            output_tokens=self.tokens,
            total_tokens=prompt_tokens + self.tokens,
            input_tokens_details=InputDetails(cached_tokens=self.job.cached_tokens),
            output_tokens_details=OutputDetails(reasoning_tokens=self.builder.reasoning_tokens),
        )
        document: ResponseDocument = msgspec.structs.replace(
            self.document,
            status=status,
            error=error,
            incomplete_details=details,
            output=self.builder.items,
            usage=usage,
        )
        if document.store and status != "failed":
            messages = (*self.said, self.builder.answer)
            self.store.put(self.client, StoredResponse(document, messages, self.builder.messages))
        return document


def _error_of(part: AnswerPart) -> ResponseError:
    """OpenAI's code says whether asking again may help."""
    failure = part.error or Failure(part.finish_reason or FINISH_FAILED)
    return ResponseError(code="invalid_prompt" if failure.parameter else "server_error", message=failure.message)


class Responses(Resource):
    """`POST /v1/responses`."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer at once or as a stream."""
        body = self.read(req, ResponsesRequest)
        _refuse_what_is_elsewhere(body)
        client, store = client_of(req), self.context.state(ResponseStore)
        with self.context.models.lease(body.model) as lease:
            service = lease.service
            toolbox = Toolbox(body.tools or ())
            said = read_input(body, store, client)
            chat = read_chat(body, toolbox, said)
            job, _, readers = start_chat(req, lease, self.context.admission, chat)
        document = _document(body, service.model.name)
        if toolbox.left_out:
            document.warnings = toolbox.left_out
            log.warning("%s", "; ".join(toolbox.left_out))
        builder = ItemBuilder(service.tokenizer, toolbox)
        run = _Run(said, document, readers[0], builder, job, client, store)
        respond(req, resp, job, self.context, _Encoder(run), body.stream or False)


def _document(body: ResponsesRequest, model: str) -> ResponseDocument:
    choice = body.tool_choice
    return ResponseDocument(
        id=f"resp_{secrets.token_hex(16)}",
        created_at=int(time.time()),
        model=model,
        status="in_progress",
        output=[],
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        metadata=body.metadata or {},
        parallel_tool_calls=body.parallel_tool_calls is not False,
        previous_response_id=body.previous_response_id,
        reasoning=body.reasoning or ReasoningOptions(),
        store=body.store is not False,
        temperature=1.0 if body.temperature is None else body.temperature,
        text=body.text if body.text and body.text.format else TextOptions(format=TextFormat()),
        tool_choice="auto" if choice is None else choice,
        tools=body.tools or [],
        top_p=1.0 if body.top_p is None else body.top_p,
        truncation=body.truncation or "disabled",
    )


class _Encoder(Encoder[Event]):
    def __init__(self, run: _Run) -> None:
        self._run = run
        self._number = 0
        self._last: AnswerPart | None = None

    def opening(self) -> Iterator[Event]:
        yield {"type": "response.created", "response": self._run.document}
        yield {"type": "response.in_progress", "response": self._run.document}

    def encode(self, event: TokenEvent) -> Iterator[Event]:
        part = self._last = self._run.read(event)
        failed = part.finish_reason in (FINISH_FAILED, FINISH_CANCELLED)
        yield from () if failed else self._run.builder.add(part)
        if part.finish_reason is not None:
            document = self._run.finish(part)
            yield {"type": f"response.{document.status}", "response": document}

    def write(self, part: Event) -> bytes:
        number, self._number = self._number, self._number + 1
        return named_sse(part["type"], {**part, "sequence_number": number})

    def fold(self, parts: Sequence[Event]) -> ResponseDocument:
        if self._last is not None:
            check_finish(self._last.finish_reason, self._last.error)
        document: ResponseDocument = parts[-1]["response"]
        return document

    def failure(self, document: dict[str, object]) -> bytes:
        failed = AnswerPart(0, finish_reason=FINISH_FAILED, error=Failure("the server failed"))
        return self.write({"type": "response.failed", "response": self._run.finish(failed)})


class Response(ReadResource):
    """`GET` and `DELETE /v1/responses/{response_id}`."""

    def on_get(self, req: falcon.Request, resp: falcon.Response, **params: Any) -> None:
        """Answer with a response that is kept."""
        client, response_id = client_of(req), str(params["response_id"])
        stored = self.context.state(ResponseStore).get(client, response_id)
        if stored is None:
            raise _missing(response_id)
        answer(resp, stored.document)

    def on_delete(self, req: falcon.Request, resp: falcon.Response, response_id: str) -> None:
        """Forget it."""
        if not self.context.state(ResponseStore).delete(client_of(req), response_id):
            raise _missing(response_id)
        answer(resp, DeletedResponse(id=response_id))


def _missing(response_id: str) -> NotFoundError:
    return NotFoundError(f"response {printable(response_id, 100)} is not kept", "response_id", "response_not_found")


ROUTES = [
    Route(
        "/v1/responses",
        Responses,
        post=Operation("Answer a conversation.", ResponsesRequest, ResponseDocument, stream=ResponseEvent),
        forwarded=True,
        aliases=("/responses",),
    ),
    Route(
        "/v1/responses/{response_id}",
        Response,
        get=Operation("A response that is kept.", None, ResponseDocument),
        delete=Operation("Forget a response.", None, DeletedResponse),
    ),
]
