"""`POST /v1/completions`: text that goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import falcon

from ....artifacts.dataclass import dataclass
from ....artifacts.errors import RequestError
from ...engine.generation import FINISH_CANCELLED, FINISH_FAILED, GenerationRequest, TokenEvent
from ...engine.logprobs import TokenLogprobs
from ..core.answers import check_finish
from ..core.body import kind_of
from ..core.encoding import TextFrame, sse
from ..core.errors import UnsupportedError
from ..core.generation_params import GenerationParams, check_token_ids, read_params
from ..core.infill import Gap, infill_ids
from ..core.job import Job, look_of, start_job
from ..core.resources import Resource
from ..core.routes import Operation, Route
from ..core.schema import UNSET, Unset
from ..core.service import Service
from ..core.streaming import DONE, DONE_DATA, Encoder, respond
from ..core.text_apis import Look, TokenizerApi
from .answers import Envelope, new_envelope, usage_of
from .completion_logprobs import CompletionLogprobsWriter, prompt_logprobs
from .schema import Completion, CompletionChoice, CompletionLogprobs, CompletionRequest, Usage

DEFAULT_MAX_TOKENS = 16
MAX_PROMPTS = 64

Prompts = Sequence[str] | Sequence[tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Call:
    """A request, checked; `prompts` are texts or token ids, each of which goes on `count` times.

    `prompt_logprobs` is what the request says of it; the parameters have what `echo` and `logprobs` ask for too. Where
    there is a `suffix`, what stands between each text and it is asked for. `default_max_tokens` counts where the
    parameters have none; None: what the context leaves.
    """

    prompts: Prompts
    count: int
    echo: bool
    params: GenerationParams
    stream: bool
    include_usage: bool
    prompt_logprobs: int | None
    parse_special: bool
    suffix: str = ""
    default_max_tokens: int | None = DEFAULT_MAX_TOKENS

    @property
    def scored_echo(self) -> bool:
        """Whether the prompt comes with its log-probabilities, in the text's own."""
        return self.echo and self.params.logprobs is not None


def read_call(body: CompletionRequest, vocab_size: int) -> Call:
    """Check what the schema cannot say.

    Raises:
        RequestError: names the parameter at fault.
    """
    count = body.n or 1
    if (body.best_of or count) != count:
        raise UnsupportedError("best_of", f"expected as many as n ({count}), found {body.best_of}")
    if body.stream and body.prompt_logprobs is not None:
        raise UnsupportedError("prompt_logprobs", "not supported in a stream; echo and logprobs are")
    prompts = read_prompts(body.prompt, vocab_size)
    if len(prompts) * count > MAX_PROMPTS:
        raise RequestError("prompt", f"expected at most {MAX_PROMPTS} outputs in all, found {len(prompts) * count}")
    echo = body.echo or False
    scores = [number for number in (body.prompt_logprobs, body.logprobs if echo else None) if number is not None]
    params = replace(
        read_params(body, None if body.max_tokens == -1 else body.max_tokens, vocab_size),
        logprobs=body.logprobs,
        prompt_logprobs=max(scores, default=None),
    )
    if body.suffix and scores:
        raise UnsupportedError("suffix", "a prompt that is filled in has no log-probabilities")
    if body.suffix and not all(isinstance(prompt, str) for prompt in prompts):
        raise RequestError("prompt", "expected texts beside a suffix, found token ids")
    options = body.stream_options
    include_usage = bool(options and options.include_usage)
    return Call(
        prompts,
        count,
        echo,
        params,
        body.stream or False,
        include_usage,
        body.prompt_logprobs,
        body.parse_special is not False,
        body.suffix or "",
        None if body.max_tokens == -1 else DEFAULT_MAX_TOKENS,
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
        respond(req, resp, job, self.context, _Encoder(service.tokenizer, envelope, call, prompts, job), call.stream)


@dataclass(frozen=True, slots=True)
class _Prompt:
    """Its text, where the answer is to begin with it, and its first token."""

    echo: str
    first: int


def _requests(service: Service, call: Call, prompts: list[_Prompt], look: Look) -> list[GenerationRequest]:
    """Adds to `prompts`."""
    made: list[GenerationRequest] = []
    for prompt in call.prompts:
        ids = _prompt_ids(service, call, prompt, look)
        echo = "" if not call.echo else prompt if isinstance(prompt, str) else service.tokenizer.decode(prompt)
        prompts.append(_Prompt(echo, ids[0] if ids else 0))  # one without tokens is refused when it is submitted
        made += service.requests(ids, call.params, call.default_max_tokens, call.count)
    return made


def _prompt_ids(service: Service, call: Call, prompt: str | tuple[int, ...], look: Look) -> tuple[int, ...]:
    if not isinstance(prompt, str):
        return prompt
    if call.suffix:
        most = call.default_max_tokens if call.params.max_tokens is None else call.params.max_tokens
        return infill_ids(service, Gap(prompt, call.suffix), most, "suffix", look)
    return service.prompt_ids(prompt, look, call.parse_special)


def _choice(index: int, pieces: Sequence[CompletionChoice], scored: bool) -> CompletionChoice:
    """What the pieces of a choice come to."""
    logprobs = [piece.logprobs for piece in pieces if piece.logprobs is not None]
    names = CompletionLogprobs.__struct_fields__
    joined = {name: [entry for one in logprobs for entry in getattr(one, name)] for name in names}
    return CompletionChoice(
        text="".join(piece.text for piece in pieces),
        index=index,
        finish_reason=pieces[-1].finish_reason,
        logprobs=CompletionLogprobs(**joined) if scored else None,
        prompt_logprobs=next((p.prompt_logprobs for p in pieces if p.prompt_logprobs is not UNSET), UNSET),
    )


def _logprobs(event: TokenEvent) -> list[TokenLogprobs]:
    """Those of the token, whether it is a part of the text or ends it: clients count on one a token."""
    return [entry for entry in (event.logprobs, event.end_logprobs) if entry is not None]


class _Encoder(Encoder[CompletionChoice]):
    def __init__(
        self, tokenizer: TokenizerApi, envelope: Envelope, call: Call, prompts: Sequence[_Prompt], job: Job
    ) -> None:
        self._tokenizer = tokenizer
        self._envelope = envelope
        self._call = call
        self._prompts = [prompt for prompt in prompts for _ in range(call.count)]  # of each choice
        num_top = call.params.logprobs or 0
        self._writers = [CompletionLogprobsWriter(tokenizer, num_top, prompt.echo) for prompt in self._prompts]
        self._job = job
        self._tokens = 0
        self._unscored = set(range(len(self._prompts)))  # whose prompts' scores have yet to come
        self._frames: dict[int, TextFrame] = {}  # of each choice

    def opening(self) -> Iterator[CompletionChoice]:
        for index, prompt in enumerate(self._prompts):
            if prompt.echo and not self._call.scored_echo:
                yield CompletionChoice(text=prompt.echo, index=index)

    def encode(self, event: TokenEvent) -> Iterator[CompletionChoice]:
        index = event.index
        self._tokens += event.token is not None
        if index in self._unscored and event.finish_reason not in (FINISH_FAILED, FINISH_CANCELLED):
            self._unscored.discard(index)
            yield from self._of_prompt(index, event.prompt_logprobs)
        found = _logprobs(event)
        if event.text or found:
            logprobs = self._writers[index].write(found) if found else None
            yield CompletionChoice(text=event.text, index=index, logprobs=logprobs)
        if event.finished:
            yield CompletionChoice(text="", index=index, finish_reason=check_finish(event.finish_reason, event.error))

    def _of_prompt(self, index: int, scores: Sequence[TokenLogprobs]) -> Iterator[CompletionChoice]:
        """What is said of a prompt once its scores are known, where they were asked for."""
        call, prompt = self._call, self._prompts[index]
        if call.scored_echo:
            logprobs = self._writers[index].write([prompt.first, *scores])
            yield CompletionChoice(text=prompt.echo, index=index, logprobs=logprobs)
        if call.prompt_logprobs is not None:  # never in a stream
            document = prompt_logprobs(self._tokenizer, scores, call.prompt_logprobs)
            yield CompletionChoice(text="", index=index, prompt_logprobs=document)

    def write(self, part: CompletionChoice) -> bytes:
        # Where usage is asked for, all events but the last say null.
        return sse(self._document([part], None if self._call.include_usage else UNSET))

    def chunk(self, event: TokenEvent) -> bytes:
        index = event.index
        if index in self._unscored or event.finished or event.logprobs or event.end_logprobs or not event.text:
            return super().chunk(event)
        self._tokens += event.token is not None
        if index not in self._frames:
            self._frames[index] = TextFrame(lambda text: self.write(CompletionChoice(text=text, index=index)))
        return self._frames[index].of(event.text)

    def closing(self) -> Iterator[bytes]:
        if self._call.include_usage:
            yield sse(self._document([], self._usage()))
        yield DONE

    def fold(self, parts: Sequence[CompletionChoice]) -> Completion:
        scored = self._call.params.logprobs is not None
        pieces = [[part for part in parts if part.index == index] for index in range(len(self._prompts))]
        return self._document([_choice(index, own, scored) for index, own in enumerate(pieces)], self._usage())

    def _usage(self) -> Usage:
        # A prompt that goes on several times counts once, as it is computed once.
        prompts = self._job.generations[:: self._call.count]
        prompt_tokens = sum(generation.state().prompt_tokens for generation in prompts)
        return usage_of(prompt_tokens, self._tokens, self._job.cached_tokens)

    def _document(self, choices: list[CompletionChoice], usage: Usage | Unset | None) -> Completion:
        return Completion(**self._envelope, choices=choices, usage=usage)


ROUTES = [
    Route(
        "/v1/completions",
        Completions,
        post=Operation("Continue a text.", CompletionRequest, Completion, stream=Completion, stream_end=DONE_DATA),
        forwarded=True,
    )
]
