"""Completions and chat completions, as OpenAI's clients expect them."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import falcon

from ..generation import (
    FINISH_CANCELLED,
    FINISH_EOS,
    FINISH_FAILED,
    FINISH_LENGTH,
    FINISH_STOP,
    GenerationRequest,
    GenerationState,
    TokenEvent,
)
from ..logprobs import TokenLogprobs
from .body import read_json
from .errors import CancelledError, GenerationFailedError, error_of
from .logprobs import chat_logprobs, completion_logprobs, token_text
from .parameters import ChatCall, CompletionCall, Streaming, read_chat, read_completion
from .resources import Resource, answer
from .service import ServedModel, TokenizerApi
from .streaming import DONE, Job, collect, send_events, sse, start_job

DEFAULT_MAX_TOKENS = 16  # of a completion; a chat may use the rest of the context
_FINISH_REASONS = {FINISH_EOS: "stop", FINISH_STOP: "stop", FINISH_LENGTH: "length"}


def _check_finish(reason: str | None, error: str | None) -> str:
    """Return OpenAI's word for how a generation ended.

    Raises:
        GenerationFailedError: it failed.
        CancelledError: somebody cancelled it.
    """
    if reason == FINISH_FAILED:
        raise GenerationFailedError(error or "generation failed")
    if reason == FINISH_CANCELLED:
        raise CancelledError
    return _FINISH_REASONS.get(reason or "", "stop")


@dataclass(frozen=True, slots=True)
class Envelope:
    """The fields that all parts of one answer share; `kind` is their "object"."""

    id: str
    kind: str
    created: int
    model: ServedModel

    def document(self, choices: list[dict[str, object]], **more: object) -> dict[str, object]:
        """Return an answer, or a chunk of one."""
        document: dict[str, object] = {
            "id": self.id,
            "object": self.kind,
            "created": self.created,
            "model": self.model.name,
        }
        if self.model.fingerprint:
            document["system_fingerprint"] = self.model.fingerprint
        return {**document, "choices": choices, **more}


def _envelope(prefix: str, kind: str, request_id: int, model: ServedModel) -> Envelope:
    # Request ids start again with the server; the random part keeps ids apart in a client's logs.
    return Envelope(f"{prefix}-{request_id}-{secrets.token_hex(6)}", kind, int(time.time()), model)


def _usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


Logprobs = dict[str, object]
Choice = Callable[[str, str | None, Logprobs | None], dict[str, object]]
LogprobsOf = Callable[[TokenLogprobs], Logprobs]


def _completion_choice(text: str, reason: str | None, logprobs: Logprobs | None = None) -> dict[str, object]:
    return {"text": text, "index": 0, "logprobs": logprobs, "finish_reason": reason}


def _chat_choice(text: str, reason: str | None, logprobs: Logprobs | None = None) -> dict[str, object]:
    delta = {"content": text} if text else {}
    return {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


class _CompletionLogprobs:
    """Log-probabilities of a streamed completion: each chunk says where in the whole text its token begins."""

    def __init__(self, tokenizer: TokenizerApi) -> None:
        self._tokenizer = tokenizer
        self._offset = 0

    def __call__(self, entry: TokenLogprobs) -> Logprobs:
        document = completion_logprobs(self._tokenizer, [entry], self._offset)
        self._offset += len(token_text(self._tokenizer, entry.token))
        return document


def _role_choice() -> dict[str, object]:
    delta = {"role": "assistant", "content": ""}
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}


class ChunkEncoder:
    """Tokens to the events of one streamed answer. Its prompt's and output's tokens it counts itself."""

    def __init__(
        self,
        path: str,
        envelope: Envelope,
        choice: Choice,
        streaming: Streaming,
        prompt_tokens: int,
        logprobs_of: LogprobsOf,
    ) -> None:
        self._path = path
        self._envelope = envelope
        self._choice = choice
        self._include_usage = streaming.include_usage
        self._prompt_tokens = prompt_tokens
        self._logprobs_of = logprobs_of
        self._completion_tokens = 0

    def chunk(self, choice: dict[str, object]) -> bytes:
        """Return the event of one choice; where usage is asked for, all events but the last say null."""
        more = {"usage": None} if self._include_usage else {}
        return sse(self._envelope.document([choice], **more))

    def __call__(self, event: TokenEvent) -> Iterator[bytes]:
        """Yield the events of one token, or of the end."""
        self._completion_tokens += event.token is not None
        logprobs = self._logprobs_of(event.logprobs) if event.logprobs else None
        if event.text or logprobs:
            yield self.chunk(self._choice(event.text, None, logprobs))
        if event.finished:
            yield from self._end(event)

    def _end(self, event: TokenEvent) -> Iterator[bytes]:
        try:
            reason = _check_finish(event.finish_reason, event.error)
        except (GenerationFailedError, CancelledError) as error:
            yield sse(error_of(self._path, error)[1])
            return
        yield self.chunk(self._choice("", reason, None))
        if self._include_usage:
            usage = _usage(self._prompt_tokens, self._completion_tokens)
            yield sse(self._envelope.document([], usage=usage))
        yield DONE


class Completions(Resource):
    """`POST /v1/completions`."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer at once or as a stream."""
        service = self.service
        call = read_completion(read_json(req, self.limits.max_body_bytes), service.engine.vocab_size)
        echo = self._echo(call)
        job = start_job(req, service.engine, self.context.admission, lambda: self._request(call))
        envelope = _envelope("cmpl", "text_completion", job.generation.request_id, service.model)
        if call.streaming.stream:
            self._stream(req, resp, job, call, envelope, echo)
            return
        state = collect(job, self.limits)
        reason = _check_finish(state.finish_reason, state.error)
        asked = call.conditions.logprobs is not None
        logprobs = completion_logprobs(service.tokenizer, state.logprobs, 0) if asked else None
        choice = _completion_choice(echo + state.text, reason, logprobs)
        answer(resp, envelope.document([choice], usage=_state_usage(state)))

    def _request(self, call: CompletionCall) -> GenerationRequest:
        ids = self.service.prompt_ids(call.prompt) if isinstance(call.prompt, str) else call.prompt
        return self.service.request(ids, call.conditions, DEFAULT_MAX_TOKENS)

    def _echo(self, call: CompletionCall) -> str:
        if not call.echo:
            return ""
        return call.prompt if isinstance(call.prompt, str) else self.service.tokenizer.decode(call.prompt)

    def _stream(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        job: Job,
        call: CompletionCall,
        envelope: Envelope,
        echo: str,
    ) -> None:
        prompt_tokens = job.generation.state().prompt_tokens
        logprobs_of = _CompletionLogprobs(self.service.tokenizer)
        encoder = ChunkEncoder(req.path, envelope, _completion_choice, call.streaming, prompt_tokens, logprobs_of)
        opening = [encoder.chunk(_completion_choice(echo, None))] if echo else []
        send_events(req, resp, job, self.limits, opening, encoder)


class ChatCompletions(Resource):
    """`POST /v1/chat/completions`."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer at once or as a stream."""
        service = self.service
        call = read_chat(read_json(req, self.limits.max_body_bytes), service.engine.vocab_size)
        job = start_job(req, service.engine, self.context.admission, lambda: self._request(call))
        if call.streaming.stream:
            self._stream(req, resp, job, call)
            return
        state = collect(job, self.limits)
        reason = _check_finish(state.finish_reason, state.error)
        envelope = _envelope("chatcmpl", "chat.completion", state.request_id, service.model)
        message = {"role": "assistant", "content": state.text, "refusal": None}
        asked = call.conditions.logprobs is not None
        logprobs = chat_logprobs(service.tokenizer, state.logprobs) if asked else None
        choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": reason}
        answer(resp, envelope.document([choice], usage=_state_usage(state)))

    def _request(self, call: ChatCall) -> GenerationRequest:
        return self.service.request(self.service.chat_ids(call.messages), call.conditions, None)

    def _stream(self, req: falcon.Request, resp: falcon.Response, job: Job, call: ChatCall) -> None:
        envelope = _envelope("chatcmpl", "chat.completion.chunk", job.generation.request_id, self.service.model)
        prompt_tokens = job.generation.state().prompt_tokens

        def logprobs_of(entry: TokenLogprobs) -> Logprobs:
            return chat_logprobs(self.service.tokenizer, [entry])

        encoder = ChunkEncoder(req.path, envelope, _chat_choice, call.streaming, prompt_tokens, logprobs_of)
        send_events(req, resp, job, self.limits, [encoder.chunk(_role_choice())], encoder)


def _state_usage(state: GenerationState) -> dict[str, int]:
    return _usage(state.prompt_tokens, len(state.tokens))
