"""`POST /v1/completions`: text that goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import falcon

from ....artifacts.errors import RequestError
from ...engine.generation import FINISH_CANCELLED, FINISH_FAILED, GenerationRequest, GenerationState, TokenEvent
from ...engine.logprobs import TokenLogprobs
from ..core.answers import check_finish
from ..core.body import kind_of
from ..core.conditions import Conditions, check_token_ids, read_conditions
from ..core.encoding import sse
from ..core.errors import UnsupportedError
from ..core.job import Job, collect, look_of, start_job
from ..core.resources import Resource, answer
from ..core.routes import Operation, Route
from ..core.schema import UNSET, FinishReason, Unset
from ..core.service import Look, Service, TokenizerApi
from ..core.streaming import DONE, DONE_DATA, Encoder, send_stream
from .answers import Envelope, new_envelope, usage_of
from .completion_logprobs import CompletionLogprobsWriter, prompt_logprobs
from .schema import Completion, CompletionChoice, CompletionRequest, Usage
from .schema import CompletionLogprobs as LogprobsDocument

DEFAULT_MAX_TOKENS = 16
MAX_PROMPTS = 64

Prompts = Sequence[str] | Sequence[tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Call:
    """A request, checked; `prompts` are texts or token ids, each of which goes on `count` times.

    `prompt_logprobs` is what the request says of it; the conditions have what `echo` and `logprobs` ask for too.
    """

    prompts: Prompts
    count: int
    echo: bool
    conditions: Conditions
    stream: bool
    include_usage: bool
    prompt_logprobs: int | None
    parse_special: bool

    @property
    def scored_echo(self) -> bool:
        """Whether the prompt comes with its log-probabilities, in the text's own."""
        return self.echo and self.conditions.logprobs is not None


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
    if body.stream and body.prompt_logprobs is not None:
        raise UnsupportedError("prompt_logprobs", "not supported in a stream; echo and logprobs are")
    prompts = read_prompts(body.prompt, vocab_size)
    if len(prompts) * count > MAX_PROMPTS:
        raise RequestError("prompt", f"expected at most {MAX_PROMPTS} outputs in all, found {len(prompts) * count}")
    echo = body.echo or False
    scores = [number for number in (body.prompt_logprobs, body.logprobs if echo else None) if number is not None]
    conditions = replace(
        read_conditions(body, body.max_tokens, vocab_size),
        logprobs=body.logprobs,
        prompt_logprobs=max(scores, default=None),
    )
    options = body.stream_options
    include_usage = bool(options and options.include_usage)
    return Call(
        prompts,
        count,
        echo,
        conditions,
        body.stream or False,
        include_usage,
        body.prompt_logprobs,
        body.parse_special is not False,
    )


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
    if set(map(type, value)) - {int}:
        wrong = next(item for item in value if type(item) is not int)
        raise RequestError(name, f"expected token ids from 0 to {vocab_size - 1}, found {kind_of(wrong)}")
    return check_token_ids(name, value, vocab_size)


class Completions(Resource):
    """`POST /v1/completions`."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer at once or as a stream."""
        body = self.read(req, CompletionRequest)
        with self.context.models.lease(body.model) as lease:
            service = lease.service
            call = read_call(body, service.engine.vocab_size)
            prompts: list[_Prompt] = []
            look = look_of(req)
            job = start_job(req, lease.keep(), self.context.admission, lambda: _requests(service, call, prompts, look))
        envelope = new_envelope("cmpl", job.generations[0].request_id, service.model)
        writers = [_ChoiceWriter(service.tokenizer, call, prompt) for prompt in prompts for _ in range(call.count)]
        if call.stream:
            send_stream(req, resp, job, self.context, _StreamEncoder(envelope, call, writers, job))
            return
        events = collect(job, self.limits)
        states = [generation.state() for generation in job.generations]
        choices = [
            writer.whole(index, state, [event for event in events if event.index == index])
            for index, (writer, state) in enumerate(zip(writers, states, strict=True))
        ]
        usage = usage_of(_prompt_tokens(job, call), sum(len(state.tokens) for state in states), job.cached_tokens)
        answer(resp, _document(envelope, choices, usage))


@dataclass(frozen=True, slots=True)
class _Prompt:
    """Its text, where the answer is to begin with it, and its first token."""

    echo: str
    first: int


def _requests(service: Service, call: Call, prompts: list[_Prompt], look: Look) -> list[GenerationRequest]:
    """Adds to `prompts`."""
    made: list[GenerationRequest] = []
    for prompt in call.prompts:
        ids = service.prompt_ids(prompt, look, call.parse_special) if isinstance(prompt, str) else prompt
        echo = "" if not call.echo else prompt if isinstance(prompt, str) else service.tokenizer.decode(prompt)
        prompts.append(_Prompt(echo, ids[0] if ids else 0))  # one without tokens is refused when it is submitted
        made += service.requests(ids, call.conditions, DEFAULT_MAX_TOKENS, call.count)
    return made


def _prompt_tokens(job: Job, call: Call) -> int:
    """Of all prompts; one that goes on several times counts once, as it is computed once."""
    return sum(generation.state().prompt_tokens for generation in job.generations[:: call.count])


def _document(envelope: Envelope, choices: list[CompletionChoice], usage: Usage | Unset | None) -> Completion:
    return Completion(
        id=envelope.id,
        created=envelope.created,
        model=envelope.model,
        system_fingerprint=envelope.system_fingerprint,
        choices=choices,
        usage=usage,
    )


class _ChoiceWriter:
    """Writes one choice: whole, or in a stream piece by piece."""

    def __init__(self, tokenizer: TokenizerApi, call: Call, prompt: _Prompt) -> None:
        self._tokenizer = tokenizer
        self._call = call
        self._prompt = prompt
        self.echo = prompt.echo
        self._logprobs = CompletionLogprobsWriter(tokenizer, call.conditions.logprobs or 0, self.echo)

    def whole(self, index: int, state: GenerationState, events: Sequence[TokenEvent]) -> CompletionChoice:
        """The choice, once it has ended."""
        reason = check_finish(state.finish_reason, state.error)
        call, scores, logprobs = self._call, events[0].prompt_logprobs, None
        if call.conditions.logprobs is not None:
            before: list[int | TokenLogprobs] = [self._prompt.first, *scores] if call.echo else []
            logprobs = self._logprobs.write([*before, *(entry for event in events for entry in _logprobs(event))])
        choice = CompletionChoice(text=self.echo + state.text, index=index, finish_reason=reason, logprobs=logprobs)
        if call.prompt_logprobs is not None:
            choice.prompt_logprobs = prompt_logprobs(self._tokenizer, scores, call.prompt_logprobs)
        return choice

    def of_echo(self, scores: Sequence[TokenLogprobs]) -> LogprobsDocument:
        """What goes with the prompt, where its log-probabilities were asked for."""
        return self._logprobs.write([self._prompt.first, *scores])

    def of_token(self, event: TokenEvent) -> LogprobsDocument | None:
        """What goes with a token."""
        found = _logprobs(event)
        return self._logprobs.write(found) if found else None


def _logprobs(event: TokenEvent) -> list[TokenLogprobs]:
    """Those of the token, whether it is a part of the text or ends it: clients count on one a token."""
    return [entry for entry in (event.logprobs, event.end_logprobs) if entry is not None]


class _StreamEncoder(Encoder):
    def __init__(self, envelope: Envelope, call: Call, writers: Sequence[_ChoiceWriter], job: Job) -> None:
        self._envelope = envelope
        self._call = call
        self._writers = writers
        self._job = job
        self._prompt_tokens = _prompt_tokens(job, call)
        self._tokens = 0
        self._unscored = set(range(len(writers))) if call.scored_echo else set()  # whose scores have yet to come

    def opening(self) -> Iterator[bytes]:
        for index, writer in enumerate(self._writers):
            if writer.echo and not self._call.scored_echo:
                yield self._chunk(index, writer.echo)

    def encode(self, event: TokenEvent) -> Iterator[bytes]:
        writer, index = self._writers[event.index], event.index
        self._tokens += event.token is not None
        if index in self._unscored and event.finish_reason not in (FINISH_FAILED, FINISH_CANCELLED):
            self._unscored.discard(index)
            yield self._chunk(index, writer.echo, None, writer.of_echo(event.prompt_logprobs))
        logprobs = writer.of_token(event)
        if event.text or logprobs:
            yield self._chunk(index, event.text, None, logprobs)
        if event.finished:
            yield self._chunk(index, "", check_finish(event.finish_reason, event.error))

    def closing(self) -> Iterator[bytes]:
        if self._call.include_usage:
            yield sse(
                _document(self._envelope, [], usage_of(self._prompt_tokens, self._tokens, self._job.cached_tokens))
            )
        yield DONE

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
        post=Operation("Continue a text.", CompletionRequest, Completion, stream=Completion, stream_end=DONE_DATA),
        forwarded=True,
    )
]
