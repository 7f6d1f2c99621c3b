"""`POST /v1/chat/completions`, at once and as a stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import falcon

from ....artifacts.dataclass import dataclass
from ....artifacts.errors import RequestError
from ...engine.generation import TokenEvent
from ...engine.logprobs import TokenLogprobs
from ...text.call_turns import CallPiece
from ...text.chat_prompt import check_variables
from ..core.answer_clock import AnswerClock
from ..core.answers import check_finish, new_call_id
from ..core.chat_answer import AnswerReader
from ..core.chat_job import start_chat
from ..core.continuation import check_continues
from ..core.conversation import Conversation, choose_tool, thinking_variables
from ..core.encoding import sse
from ..core.errors import UnsupportedError
from ..core.generation_params import read_params
from ..core.job import Job
from ..core.logprobs import chat_logprobs
from ..core.resources import Resource
from ..core.routes import Operation, Route
from ..core.schema import UNSET, ChatLogprobs, LlamaTimings, Unset
from ..core.service import ChatPrompt
from ..core.streaming import DONE, DONE_DATA, Encoder, respond
from ..core.text_apis import TokenizerApi
from ..core.timings import timings_of
from .answers import Envelope, new_envelope, usage_of
from .completion_logprobs import prompt_logprobs
from .messages import read_messages
from .schema import (
    AnswerMessage,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatRequest,
    ChunkChoice,
    Delta,
    FunctionCall,
    FunctionDelta,
    NamedTool,
    ToolCall,
    ToolCallDelta,
    Usage,
    Verbose,
)


@dataclass(frozen=True, slots=True)
class Call:
    """A request, checked."""

    conversation: Conversation
    count: int
    stream: bool
    include_usage: bool
    timings: bool
    verbose: bool


def _max_tokens(body: ChatRequest) -> int | None:
    """Most tokens; None, which LM Studio's and llama.cpp's clients say as -1: what the context leaves."""
    for name in ("max_tokens", "max_completion_tokens"):
        if getattr(body, name) == 0:
            raise RequestError(name, "expected 1 or more, or -1 for what the context leaves, found 0")
    asked = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    return None if asked == -1 else asked


def read_call(body: ChatRequest, vocab_size: int) -> Call:
    """Check what the schema cannot say.

    Raises:
        RequestError: names the parameter at fault.
    """
    if body.top_logprobs and not body.logprobs:
        raise RequestError("top_logprobs", "expected logprobs to be true beside it")
    params = read_params(body, _max_tokens(body), vocab_size)
    if body.stream and body.prompt_logprobs is not None:
        raise UnsupportedError("prompt_logprobs", "not supported in a stream")
    params = replace(params, prompt_logprobs=body.prompt_logprobs)
    if body.logprobs:
        params = replace(params, logprobs=body.top_logprobs or 0)
    given = [tool.function for tool in body.tools or ()]
    if isinstance(body.tool_choice, NamedTool):
        tools, tool_choice = choose_tool(given, None, body.tool_choice.function.name, "tool_choice")
    else:
        tools, tool_choice = choose_tool(given, body.tool_choice, None, "tool_choice")
    messages, opens = read_messages(body.messages), body.add_generation_prompt
    asked = None if body.continue_final_message is None else bool(body.continue_final_message)
    continue_final = check_continues(messages, asked, opens)
    conversation = Conversation(
        messages,
        params,
        tools,
        tool_choice,
        body.parallel_tool_calls is not False,
        template_variables(body),
        continue_final=continue_final,
        generation_prompt=continue_final or opens is not False,
    )
    options = body.stream_options
    return Call(
        conversation,
        body.n or 1,
        stream=body.stream or False,
        include_usage=bool(options and options.include_usage),
        timings=body.timings_per_token or False,
        verbose=body.verbose or False,
    )


def template_variables(body: ChatRequest) -> dict[str, object]:
    """Variables for the chat template: those of the request, and how much it is to think.

    Raises:
        RequestError: one of them is not the client's to set.
    """
    if body.chat_template is not None:
        raise RequestError("chat_template", "expected none: only the model's own template is used")
    given = dict(body.chat_template_kwargs or {})
    check_variables(given, "chat_template_kwargs")
    return {**thinking_variables(body.reasoning_effort), **given}


class ChatCompletions(Resource):
    """`POST /v1/chat/completions`."""

    def on_post(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Answer at once or as a stream."""
        clock = AnswerClock()
        body = self.read(req, ChatRequest)
        with self.context.models.lease(body.model) as lease:
            clock.loaded()
            service = lease.service
            call = read_call(body, service.engine.vocab_size)
            conversation = call.conversation
            job, prompt, readers = start_chat(req, lease, self.context.admission, conversation, call.count)
        envelope = new_envelope("chatcmpl", job.generations[0].request_id, service.model)
        encoder = _Encoder(service.tokenizer, envelope, call, prompt, readers, job, clock)
        respond(req, resp, job, self.context, encoder, call.stream)


def _choice(index: int, chunks: Sequence[ChunkChoice], scored: bool) -> ChatChoice:
    """What the chunks of a choice come to."""
    deltas = [chunk.delta for chunk in chunks]
    content = "".join(delta.content for delta in deltas if isinstance(delta.content, str))
    reasoning = "".join(delta.reasoning_content for delta in deltas if isinstance(delta.reasoning_content, str))
    calls: list[ToolCall] = []
    for _, group in groupby(_calls_of(deltas), lambda piece: piece.index):
        first, *rest = group
        arguments = "".join([first.function.arguments, *(piece.function.arguments for piece in rest)])
        calls.append(
            ToolCall(id=str(first.id), function=FunctionCall(name=str(first.function.name), arguments=arguments))
        )
    message = AnswerMessage(
        content=None if calls and not content.strip() else content,
        reasoning_content=reasoning or UNSET,
        tool_calls=calls or UNSET,
    )
    entries = [entry for chunk in chunks if chunk.logprobs is not None for entry in chunk.logprobs.content]
    logprobs = ChatLogprobs(content=entries) if scored else None
    return ChatChoice(index=index, message=message, finish_reason=chunks[-1].finish_reason or "stop", logprobs=logprobs)


def _calls_of(deltas: Iterable[Delta]) -> Iterator[ToolCallDelta]:
    return (piece for delta in deltas if delta.tool_calls is not UNSET for piece in delta.tool_calls)


class _Encoder(Encoder[ChunkChoice]):
    def __init__(
        self,
        tokenizer: TokenizerApi,
        envelope: Envelope,
        call: Call,
        prompt: ChatPrompt,
        readers: list[AnswerReader],
        job: Job,
        clock: AnswerClock,
    ) -> None:
        self._tokenizer = tokenizer
        self._envelope = envelope
        self._call = call
        self._prompt = prompt
        self._readers = readers
        self._job = job
        self._clock = clock
        self._tokens = 0
        self._calls = [-1] * call.count  # the latest of each answer
        self._scores: tuple[TokenLogprobs, ...] | None = None  # of the prompt

    def arrived(self, event: TokenEvent) -> None:
        self._clock.take(event)

    def opening(self) -> Iterator[ChunkChoice]:
        for index in range(self._call.count):
            yield ChunkChoice(index=index, delta=Delta(role="assistant", content=None))

    def encode(self, event: TokenEvent) -> Iterator[ChunkChoice]:
        if self._scores is None:
            self._scores = event.prompt_logprobs
        part = self._readers[event.index].read(event)
        self._tokens += part.tokens
        logprobs = None if part.logprobs is None else chat_logprobs(self._tokenizer, [part.logprobs])
        if part.reasoning:
            yield ChunkChoice(index=part.index, delta=Delta(reasoning_content=part.reasoning))
        for turn in part.turns or (("",) if logprobs else ()):
            delta = Delta(content=turn or UNSET) if isinstance(turn, str) else self._delta(part.index, turn)
            yield ChunkChoice(index=part.index, delta=delta, logprobs=logprobs)
            logprobs = None
        if part.finish_reason is not None:
            reason = check_finish(part.finish_reason, part.error)
            yield ChunkChoice(index=part.index, delta=Delta(), finish_reason=reason)

    def _delta(self, index: int, piece: CallPiece) -> Delta:
        """Id, type and name once, then the arguments."""
        if piece.name is None:
            rest = ToolCallDelta(index=self._calls[index], function=FunctionDelta(arguments=piece.arguments))
            return Delta(tool_calls=[rest])
        self._calls[index] += 1
        function = FunctionDelta(name=piece.name, arguments=piece.arguments)
        first = ToolCallDelta(index=self._calls[index], id=new_call_id(), type="function", function=function)
        return Delta(tool_calls=[first])

    def write(self, part: ChunkChoice) -> bytes:
        # Where usage is asked for, all events but the last say null.
        return sse(self._chunk([part], None if self._call.include_usage else UNSET))

    def closing(self) -> Iterator[bytes]:
        if self._call.include_usage:
            yield sse(self._chunk([], self._usage()))
        yield DONE

    def fold(self, parts: Sequence[ChunkChoice]) -> ChatCompletion:
        call, params = self._call, self._call.conversation.params
        num_top, scored = params.prompt_logprobs, params.logprobs is not None
        choices = [[part for part in parts if part.index == index] for index in range(call.count)]
        return ChatCompletion(
            **self._envelope,
            choices=[_choice(index, chunks, scored) for index, chunks in enumerate(choices)],
            usage=self._usage(),
            prompt_logprobs=UNSET if num_top is None else prompt_logprobs(self._tokenizer, self._scores or (), num_top),
            timings=self._timings(),
            verbose=Verbose(prompt=self._prompt.text) if call.verbose else UNSET,
        )

    def _chunk(self, choices: list[ChunkChoice], usage: Usage | Unset | None) -> ChatChunk:
        return ChatChunk(**self._envelope, choices=choices, usage=usage, timings=self._timings())

    def _usage(self) -> Usage:
        return usage_of(self._job.prompt_tokens, self._tokens, self._job.cached_tokens)

    def _timings(self) -> LlamaTimings | Unset:
        """Where they are asked for, from the first token on."""
        if not self._call.timings or self._clock.first is None:
            return UNSET
        return timings_of(self._clock, self._job.prompt_tokens, self._job.cached_tokens)


ROUTES = [
    Route(
        "/v1/chat/completions",
        ChatCompletions,
        post=Operation("Answer a conversation.", ChatRequest, ChatCompletion, stream=ChatChunk, stream_end=DONE_DATA),
        forwarded=True,
        aliases=("/chat/completions",),
    )
]
