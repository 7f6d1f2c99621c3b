"""`POST /v1/completions`: text that goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import falcon

from ..generation import GenerationRequest, RequestError, TokenEvent
from .body import kind_of, read
from .conditions import Conditions, check_token_ids, read_conditions
from .errors import UnsupportedError
from .job import Job, collect, start_job
from .logprobs import completion_logprobs, token_text
from .openai_answers import Envelope, check_finish, new_envelope, usage_of
from .openapi import Operation, Route
from .resources import Resource, answer
from .schema.common import UNSET, Unset
from .schema.openai import Completion, CompletionChoice, CompletionRequest, FinishReason, Usage
from .schema.openai import CompletionLogprobs as LogprobsDocument
from .service import Service, TokenizerApi
from .streaming import DONE, DONE_DATA, Encoder, send_stream, sse

DEFAULT_MAX_TOKENS = 16
MAX_PROMPTS = 64

Prompts = Sequence[str] | Sequence[tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Call:
    """A request, checked; `prompts` are texts or token ids, each of which goes on `count` times."""

    prompts: Prompts
    count: int
    echo: bool
    conditions: Conditions
    stream: bool
    include_usage: bool


def read_call(body: CompletionRequest, vocab_size: int) -> Call:
    """Check what the schema cannot say.

    Raises:
        RequestError: names the parameter at fault.
    """
    count = body.n or 1
    if (body.best_of or count) != count:
        raise UnsupportedError("best_of", f"expected as many as n ({count}), found {body.best_of}")
    if body.suffix:
        raise UnsupportedError("suffix")
    echo = body.echo or False
    if echo and body.logprobs is not None:
        raise UnsupportedError("logprobs", "not supported together with echo: those of the prompt are not known")
    prompts = read_prompts(body.prompt, vocab_size)
    if len(prompts) * count > MAX_PROMPTS:
        raise RequestError("prompt", f"expected at most {MAX_PROMPTS} outputs in all, found {len(prompts) * count}")
    conditions = replace(read_conditions(body, body.max_tokens, vocab_size), logprobs=body.logprobs)
    options = body.stream_options
    include_usage = bool(options and options.include_usage)
    return Call(prompts, count, echo, conditions, body.stream or False, include_usage)


def read_prompts(value: object, vocab_size: int, name: str = "prompt") -> Prompts:
    """A text, token ids, or an array of one of them.

    Raises:
        RequestError: it is anything else, or one of the token ids is none of the model's.
    """
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise RequestError(name, f"expected a string, token ids, or an array of these, found {kind_of(value)}")
    if all(isinstance(item, str) for item in value):
        return value
    if not isinstance(value[0], list):
        value = [value]
    return [_token_ids(item, vocab_size, name) for item in value]


def _token_ids(value: object, vocab_size: int, name: str) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise RequestError(name, f"expected an array of token ids, found {kind_of(value)}")
    for item in value:
        if not isinstance(item, int) or isinstance(item, bool):
            raise RequestError(name, f"expected token ids from 0 to {vocab_size - 1}, found {kind_of(item)}")
    return check_token_ids(name, value, vocab_size)


class Completions(Resource):
    """`POST /v1/completions`."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer at once or as a stream."""
        body = read(req, CompletionRequest, self.limits.max_body_bytes)
        with self.context.models.lease(body.model) as lease:
            service = lease.service
            call = read_call(body, service.engine.vocab_size)
            job = start_job(req, lease.keep(), self.context.admission, lambda: _requests(service, call))
        envelope = new_envelope("cmpl", job.generations[0].request_id, service.model)
        echoes = [_echo(service.tokenizer, prompt) if call.echo else "" for prompt in call.prompts]
        if call.stream:
            encoder = _StreamEncoder(service.tokenizer, envelope, call, echoes, job)
            send_stream(req, resp, job, self.limits, encoder)
            return
        collect(job, self.limits)
        states = [generation.state() for generation in job.generations]
        choices = []
        for index, state in enumerate(states):
            reason = check_finish(state.finish_reason, state.error)
            asked = call.conditions.logprobs is not None
            logprobs = completion_logprobs(service.tokenizer, state.logprobs, 0) if asked else None
            text = echoes[index // call.count] + state.text
            choices.append(CompletionChoice(text=text, index=index, finish_reason=reason, logprobs=logprobs))
        usage = usage_of(_prompt_tokens(job, call), sum(len(state.tokens) for state in states), job.cached_tokens)
        answer(resp, _document(envelope, choices, usage))


def _requests(service: Service, call: Call) -> list[GenerationRequest]:
    made: list[GenerationRequest] = []
    for prompt in call.prompts:
        ids = service.prompt_ids(prompt) if isinstance(prompt, str) else prompt
        made += service.requests(ids, call.conditions, DEFAULT_MAX_TOKENS, call.count)
    return made


def _prompt_tokens(job: Job, call: Call) -> int:
    """Of all prompts; one that goes on several times counts once, as it is computed once."""
    return sum(generation.state().prompt_tokens for generation in job.generations[:: call.count])


def _echo(tokenizer: TokenizerApi, prompt: str | tuple[int, ...]) -> str:
    return prompt if isinstance(prompt, str) else tokenizer.decode(prompt)


def _document(envelope: Envelope, choices: list[CompletionChoice], usage: Usage | Unset | None) -> Completion:
    return Completion(
        id=envelope.id,
        created=envelope.created,
        model=envelope.model,
        system_fingerprint=envelope.system_fingerprint,
        choices=choices,
        usage=usage,
    )


class _StreamEncoder(Encoder):
    def __init__(self, tokenizer: TokenizerApi, envelope: Envelope, call: Call, echoes: list[str], job: Job) -> None:
        self._tokenizer = tokenizer
        self._envelope = envelope
        self._call = call
        self._echoes = echoes
        self._job = job
        self._prompt_tokens = _prompt_tokens(job, call)
        self._tokens = 0
        self._offsets = [0] * (len(call.prompts) * call.count)  # characters of the tokens with log-probabilities

    def opening(self) -> Iterator[bytes]:
        for index in range(len(self._offsets)):
            text = self._echoes[index // self._call.count]
            if text:
                yield self._chunk(index, text)

    def encode(self, event: TokenEvent) -> Iterator[bytes]:
        self._tokens += event.token is not None
        logprobs = self._logprobs(event)
        if event.text or logprobs:
            yield self._chunk(event.index, event.text, None, logprobs)
        if event.finished:
            yield self._chunk(event.index, "", check_finish(event.finish_reason, event.error))

    def closing(self) -> Iterator[bytes]:
        if self._call.include_usage:
            yield sse(
                _document(self._envelope, [], usage_of(self._prompt_tokens, self._tokens, self._job.cached_tokens))
            )
        yield DONE

    def _logprobs(self, event: TokenEvent) -> LogprobsDocument | None:
        """Each chunk says where in the whole text its token begins."""
        if event.logprobs is None:
            return None
        document = completion_logprobs(self._tokenizer, [event.logprobs], self._offsets[event.index])
        self._offsets[event.index] += len(token_text(self._tokenizer, event.logprobs.token))
        return document

    def _chunk(
        self,
        index: int,
        text: str,
        reason: FinishReason | None = None,
        logprobs: LogprobsDocument | None = None,
    ) -> bytes:
        choice = CompletionChoice(text=text, index=index, finish_reason=reason, logprobs=logprobs)
        # Where usage is asked for, all events but the last say null.
        return sse(_document(self._envelope, [choice], None if self._call.include_usage else UNSET))


ROUTES = [
    Route(
        "/v1/completions",
        Completions,
        "openai",
        post=Operation("Continue a text.", CompletionRequest, Completion, stream=Completion, stream_end=DONE_DATA),
    )
]
