"""`POST /v1/messages` and `/v1/messages/count_tokens`, as Anthropic's clients expect them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import falcon

from ...engine.generation import TokenEvent
from ...text.call_turns import CallPiece, WholeCalls
from ..core.answers import check_finish
from ..core.chat_answer import AnswerPart, AnswerReader, join_parts
from ..core.chat_job import start_chat
from ..core.encoding import named_sse
from ..core.job import Job, look_of
from ..core.resources import Resource, answer
from ..core.routes import Operation, Route
from ..core.streaming import Encoder, respond
from .requests import read_conversation
from .schema import AnthropicUsage, CountRequest, MessageDocument, MessageEvent, MessagesRequest, TokenCount

PING = named_sse("ping", {"type": "ping"})
# Tokens that `count_tokens` counts, whatever the context.
MAX_COUNTED = 1 << 18
StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


def _stop_reason(part: AnswerPart) -> StopReason:
    """Raises: as `check_finish`."""
    reason = check_finish(part.finish_reason, part.error)
    if reason == "tool_calls":
        return "tool_use"
    if reason == "length":
        return "max_tokens"
    return "end_turn" if part.stop is None else "stop_sequence"


def _tool_use(name: str) -> dict[str, object]:
    return {"type": "tool_use", "id": f"toolu_{secrets.token_hex(12)}", "name": name, "input": {}}


class Messages(Resource):
    """`POST /v1/messages`."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer at once or as a stream."""
        body = self.read(req, MessagesRequest)
        with self.context.models.lease(body.model) as lease:
            service = lease.service
            conversation = read_conversation(body, service.engine.vocab_size)
            job, _, readers = start_chat(req, lease, self.context.admission, conversation)
        encoder = _Encoder(service.model.name, readers[0], job)
        respond(req, resp, job, self.context, encoder, body.stream or False)


class CountTokens(Resource):
    """`POST /v1/messages/count_tokens`."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer with the tokens of the prompt."""
        body = self.read(req, CountRequest)
        with self.context.models.lease(body.model) as lease:
            service = lease.service
            conversation = read_conversation(body, service.engine.vocab_size)
            prompt = service.chat_prompt(conversation, look_of(req), max(service.most_tokens, MAX_COUNTED))
        answer(resp, TokenCount(input_tokens=len(prompt.token_ids)))


class _Encoder(Encoder[AnswerPart]):
    """Its parts are those of every chat, and not the events of the stream, whose blocks follow each other as the model
    writes them: a whole answer has one of text, before all calls.
    """

    ping = PING

    def __init__(self, model: str, reader: AnswerReader, job: Job) -> None:
        self._model = model
        self._reader = reader
        self._job = job
        self._started = False
        self._tokens = 0
        self._index = -1
        self._open: str | None = None  # type of the block that grows

    def encode(self, event: TokenEvent) -> Iterator[AnswerPart]:
        part = self._reader.read(event)
        self._tokens += part.tokens
        yield part

    def fold(self, parts: Sequence[AnswerPart]) -> MessageDocument:
        whole = join_parts(parts)
        document = self._document(self._tokens)
        document.stop_reason, document.stop_sequence = _stop_reason(parts[-1]), parts[-1].stop
        if whole.reasoning:
            document.content.append({"type": "thinking", "thinking": whole.reasoning, "signature": ""})
        text, calls = WholeCalls().take(whole.turns, end=True)
        if text.strip() or not calls:
            document.content.append({"type": "text", "text": text})
        document.content += [{**_tool_use(call.name), "input": json.loads(call.arguments)} for call in calls]
        return document

    def write(self, part: AnswerPart) -> bytes:
        return b"".join(self._events(part))

    def _events(self, part: AnswerPart) -> Iterator[bytes]:
        if not self._started:
            self._started = True
            yield self._event("message_start", message=self._document(0))
        if part.reasoning:
            yield from self._begin("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            yield self._delta(type="thinking_delta", thinking=part.reasoning)
        for turn in part.turns:
            yield from self._text(turn) if isinstance(turn, str) else self._call(turn)
        if part.finish_reason is not None:
            yield from self._finish(part)

    def _text(self, text: str) -> Iterator[bytes]:
        if text.strip() or self._open == "text":  # white space around calls makes no block
            yield from self._begin("text", {"type": "text", "text": ""})
            yield self._delta(type="text_delta", text=text)

    def _call(self, piece: CallPiece) -> Iterator[bytes]:
        if piece.name is not None:
            yield from self._end_block()
            yield from self._begin("tool_use", _tool_use(piece.name))
        if piece.arguments:
            yield self._delta(type="input_json_delta", partial_json=piece.arguments)
        if piece.whole:
            yield from self._end_block()

    def _finish(self, part: AnswerPart) -> Iterator[bytes]:
        delta = {"stop_reason": _stop_reason(part), "stop_sequence": part.stop}
        yield from self._end_block()
        yield self._event("message_delta", delta=delta, usage=self._usage(self._tokens))
        yield self._event("message_stop")

    def failure(self, document: dict[str, object]) -> bytes:
        return named_sse("error", document)

    def _begin(self, kind: str, block: dict[str, object]) -> Iterator[bytes]:
        if self._open == kind:
            return
        yield from self._end_block()
        self._index += 1
        self._open = kind
        yield self._event("content_block_start", index=self._index, content_block=block)

    def _end_block(self) -> Iterator[bytes]:
        if self._open is not None:
            self._open = None
            yield self._event("content_block_stop", index=self._index)

    def _document(self, output_tokens: int) -> MessageDocument:
        usage = self._usage(output_tokens)
        message_id = f"msg_{secrets.token_hex(12)}"
        return MessageDocument(id=message_id, model=self._model, content=[], stop_reason=None, usage=usage)

    def _usage(self, output_tokens: int) -> AnthropicUsage:
        """As it stands once there is a token: how much of the prompt the cache held is not known before."""
        cached = self._job.cached_tokens
        return AnthropicUsage(
            input_tokens=self._job.prompt_tokens - cached,
            output_tokens=output_tokens,
            cache_read_input_tokens=cached,
        )

    def _delta(self, **delta: object) -> bytes:
        return self._event("content_block_delta", index=self._index, delta=delta)

    def _event(self, kind: str, **fields: Any) -> bytes:
        return named_sse(kind, {"type": kind, **fields})


ROUTES = [
    Route(
        "/v1/messages",
        Messages,
        post=Operation("Answer a conversation.", MessagesRequest, MessageDocument, stream=MessageEvent),
    ),
    Route(
        "/v1/messages/count_tokens",
        CountTokens,
        post=Operation("Count a prompt's tokens.", CountRequest, TokenCount),
    ),
]
