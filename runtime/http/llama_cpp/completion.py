"""llama.cpp's `POST /completion` and `/infill`, at once and as a stream that ends without `[DONE]`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import falcon

from ....artifacts.dataclass import dataclass
from ....artifacts.sampling import MAX_BIAS, PARAMETERS
from ...engine.generation import Generation, GenerationRequest, TokenEvent
from ...engine.logprobs import TokenLogprobs
from ..core.answer_clock import AnswerClock
from ..core.answers import check_finish
from ..core.generation_params import GenerationParams
from ..core.infill import File, Gap, infill_ids
from ..core.job import look_of, start_job
from ..core.logprobs import finite, token_text
from ..core.prompts import SeenPrompt, read_seen_prompts
from ..core.resources import Resource
from ..core.routes import Operation, Route
from ..core.sampling_schema import REPEAT_NAMES
from ..core.schema import UNSET, Json
from ..core.service import Service, adapters_of
from ..core.streaming import Encoder, respond
from ..core.text_apis import TokenizerApi
from ..core.timings import timings_of
from .requests import read_call
from .schema import (
    LlamaChunk,
    LlamaCompletion,
    LlamaCompletionRequest,
    LlamaInfillRequest,
    LlamaToken,
    LlamaTokenProbability,
)


class _Generating(Resource):
    """What both share; each says what the prompts of a request are."""

    def generate(
        self,
        req: falcon.Request,
        resp: falcon.Response,
        body: LlamaCompletionRequest,
        read: Callable[[Service, int | None], list[SeenPrompt]],
    ) -> None:
        """Answer at once or as a stream; with an array where there are several prompts.

        Args:
            body: but for its prompt.
            read: the token ids of each prompt, by the model and the most tokens that may follow.
        """
        clock = AnswerClock()
        prompts: list[SeenPrompt] = []
        with self.context.models.lease(body.model) as lease:
            clock.loaded()
            service = lease.service
            params, max_tokens = read_call(body, service)

            def make() -> list[GenerationRequest]:
                prompts.extend(read(service, max_tokens))
                requests = (service.request(one.token_ids, params, max_tokens) for one in prompts)
                return [replace(made, pictures=one.pictures) for made, one in zip(requests, prompts, strict=True)]

            job = start_job(req, lease.keep(), self.context.admission, make)
        settings = generation_settings(service, params, max_tokens) | {"stream": bool(body.stream)}
        answers = [
            _Answering(service, generation, one.token_ids, index, settings, replace(clock))
            for index, (generation, one) in enumerate(zip(job.generations, prompts, strict=True))
        ]
        encoder = _Encoder(answers, bool(body.return_tokens))
        respond(req, resp, job, self.context, encoder, body.stream or False)


class Completion(_Generating):
    """`POST /completion`, and its other name `/completions`."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Continue prompts."""
        body, look = self.read(req, LlamaCompletionRequest), look_of(req)
        special = body.parse_special is not False
        self.generate(
            req, resp, body, lambda service, _: read_seen_prompts(service, body.prompt, look, parse_special=special)
        )


class Infill(_Generating):
    """`POST /infill`."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Fill in what stands between two texts."""
        body, look = self.read(req, LlamaInfillRequest), look_of(req)
        files = tuple(File(extra.filename, extra.text) for extra in body.input_extra or ())
        gap = Gap(body.input_prefix, body.input_suffix, body.prompt, files)

        def read(service: Service, most: int | None) -> list[SeenPrompt]:
            return [SeenPrompt(infill_ids(service, gap, most, "input_suffix", look))]

        self.generate(req, resp, body, read)


def generation_settings(service: Service, params: GenerationParams, max_tokens: int | None) -> Json:
    """Parameters in llama.cpp's words."""
    sampling = params.sampling
    biases = sampling.logit_bias  # llama.cpp has null for a token that is ruled out
    return {
        "n_predict": -1 if max_tokens is None else max_tokens,
        "n_ctx": service.engine.max_context,
        "seed": -1 if sampling.seed is None else sampling.seed,
        **{REPEAT_NAMES.get(name, name): getattr(sampling, name) for name in PARAMETERS},
        "stop": list(params.stop),
        "ignore_eos": params.ignore_eos,
        "n_probs": params.logprobs or 0,
        "logit_bias": [{"token": token, "bias": None if bias == -MAX_BIAS else bias} for token, bias in biases],
        **_adapters(service, params),
    }


def _adapters(service: Service, params: GenerationParams) -> Json:
    """The adapters in use, of a model that has some."""
    model = service.model
    if not model.adapters:
        return {}
    used = adapters_of(model, params.lora) if params.lora else service.adapters
    return {"lora": [{"id": model.adapters.index(name), "scale": scale} for name, scale in used]}


@dataclass(slots=True)
class _Answering:
    """The answer to one prompt, under way."""

    service: Service
    generation: Generation
    prompt: tuple[int, ...]
    index: int
    settings: Json
    clock: AnswerClock
    has_new_line: bool = False

    def chunk(self, event: TokenEvent) -> LlamaChunk:
        """What an event adds."""
        scores = [] if event.logprobs is None else [_probability(self.service.tokenizer, event.logprobs)]
        return LlamaChunk(
            index=self.index,
            content=event.text,
            tokens=[] if event.token is None else [event.token],
            tokens_predicted=self.clock.tokens,
            tokens_evaluated=len(self.prompt),
            completion_probabilities=scores or UNSET,
        )

    def end(self, last: TokenEvent) -> LlamaCompletion:
        """How it ended; of a whole answer the text is still to be filled in.

        Raises:
            As `check_finish`.
        """
        finish = check_finish(last.finish_reason, last.error)
        cached = self.generation.state().cached_tokens
        return LlamaCompletion(
            index=self.index,
            content="",
            tokens=[],
            stop=True,
            model=self.service.model.name,
            prompt=self.service.tokenizer.decode(self.prompt, skip_special=False),
            generation_settings=self.settings,
            tokens_predicted=self.clock.tokens,
            tokens_evaluated=len(self.prompt),
            stop_type="limit" if finish == "length" else "eos" if last.stop is None else "word",
            stopping_word=last.stop or "",
            timings=timings_of(self.clock, len(self.prompt), cached),
            tokens_cached=cached,
            truncated=len(self.prompt) + self.clock.tokens >= self.service.engine.max_context,
            has_new_line=self.has_new_line,
        )


def _probability(tokenizer: TokenizerApi, entry: TokenLogprobs) -> LlamaTokenProbability:
    return LlamaTokenProbability(
        id=entry.token,
        token=token_text(tokenizer, entry.token),
        bytes=list(tokenizer.token_bytes(entry.token, skip_special=False)),
        logprob=finite(entry.logprob),
        top_logprobs=[
            LlamaToken(
                id=token,
                token=token_text(tokenizer, token),
                bytes=list(tokenizer.token_bytes(token, skip_special=False)),
                logprob=finite(logprob),
            )
            for token, logprob in entry.top
        ],
    )


class _Encoder(Encoder[LlamaChunk]):
    def __init__(self, answers: Sequence[_Answering], return_tokens: bool) -> None:
        self._answers = answers
        self._return_tokens = return_tokens

    def arrived(self, event: TokenEvent) -> None:
        self._answers[event.index].clock.take(event)

    def encode(self, event: TokenEvent) -> Iterator[LlamaChunk]:
        answering = self._answers[event.index]
        answering.has_new_line |= "\n" in event.text
        if event.token is not None or event.text:
            yield answering.chunk(event)
        if event.finished:
            yield answering.end(event)

    def fold(self, parts: Sequence[LlamaChunk]) -> LlamaCompletion | list[LlamaCompletion]:
        """With an array where there are several prompts."""
        documents = []
        for document in (part for part in parts if isinstance(part, LlamaCompletion)):
            chunks = [part for part in parts if part.index == document.index]
            found = [
                entry for chunk in chunks if chunk.completion_probabilities for entry in chunk.completion_probabilities
            ]
            document.content = "".join(chunk.content for chunk in chunks)
            document.completion_probabilities = found or UNSET
            if self._return_tokens:
                document.tokens = [token for chunk in chunks for token in chunk.tokens]
            documents.append(document)
        return documents if len(documents) > 1 else documents[0]


_OPERATION = Operation(
    "Continue a prompt, as llama.cpp does.",
    LlamaCompletionRequest,
    LlamaCompletion | list[LlamaCompletion],
    stream=LlamaChunk,
)
ROUTES = [
    Route("/completion", Completion, post=_OPERATION),
    Route("/completions", Completion, post=_OPERATION),
    Route(
        "/infill",
        Infill,
        post=Operation(
            "Fill in the middle of a text, as llama.cpp does.",
            LlamaInfillRequest,
            LlamaCompletion,
            stream=LlamaChunk,
        ),
    ),
]
