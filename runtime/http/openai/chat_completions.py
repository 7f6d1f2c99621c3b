"""`POST /v1/chat/completions`, at once and as a stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import falcon

from ....artifacts.errors import RequestError
from ...engine.generation import TokenEvent
from ...engine.logprobs import TokenLogprobs
from ...text.tool_calls import CallPiece, ToolCall
from ..core.answer_clock import AnswerClock, collect_timed
from ..core.answers import check_finish, new_call_id
from ..core.chat_job import start_chat
from ..core.conditions import read_conditions
from ..core.continuation import check_continues
from ..core.conversation import AnswerPart, AnswerReader, Conversation, choose_tool, join_parts, thinking_variables
from ..core.encoding import sse
from ..core.errors import UnsupportedError
from ..core.job import Job
from ..core.logprobs import chat_logprobs
from ..core.resources import Resource, answer
from ..core.routes import Operation, Route
from ..core.schema import UNSET, FinishReason, LlamaTimings, Unset
from ..core.schema import ChatLogprobs as LogprobsDocument
from ..core.service import TokenizerApi
from ..core.streaming import DONE, DONE_DATA, Encoder, send_stream
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
    PromptLogprobs,
    ToolCallDelta,
    Usage,
    Verbose,
)
from .schema import ToolCall as ToolCallDocument


@dataclass(frozen=True, slots=True)
class Call:
    """A request, checked."""

    conversation: Conversation
    count: int
    stream: bool
    include_usage: bool
    timings: bool


def read_call(body: ChatRequest, vocab_size: int) -> Call:
    """Check what the schema cannot say.

    Raises:
        RequestError: names the parameter at fault.
    """
    if body.top_logprobs and not body.logprobs:
        raise RequestError("top_logprobs", "expected logprobs to be true beside it")
    max_tokens = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    conditions = read_conditions(body, max_tokens, vocab_size)
    if body.stream and body.prompt_logprobs is not None:
        raise UnsupportedError("prompt_logprobs", "not supported in a stream")
    conditions = replace(conditions, prompt_logprobs=body.prompt_logprobs)
    if body.logprobs:
        conditions = replace(conditions, logprobs=body.top_logprobs or 0)
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
        conditions,
        tools,
        tool_choice,
        body.parallel_tool_calls is not False,
        template_variables(body),
        continue_final=continue_final,
        generation_prompt=continue_final or opens is not False,
    )
    options = body.stream_options
    include_usage = bool(options and options.include_usage)
    return Call(conversation, body.n or 1, body.stream or False, include_usage, body.timings_per_token or False)


_RESERVED = {"self", "messages", "tools", "add_generation_prompt", "bos_token", "eos_token"}


def template_variables(body: ChatRequest) -> dict[str, object]:
    """Variables for the chat template: those of the request, and how much it is to think.

    Raises:
        RequestError: one of them is not the client's to set.
    """
    if body.chat_template is not None:
        raise RequestError("chat_template", "expected none: only the model's own template is used")
    given = dict(body.chat_template_kwargs or {})
    if reserved := _RESERVED & set(given):
        raise RequestError("chat_template_kwargs", f"expected other names than {min(reserved)}")
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
        if call.stream:
            encoder = _StreamEncoder(service.tokenizer, envelope, call, readers, job, clock)
            send_stream(req, resp, job, self.context, encoder)
            return
        events = collect_timed(job, self.limits, [clock] * call.count)
        parts = [readers[event.index].read(event) for event in events]
        asked = conversation.conditions.logprobs is not None
        choices = [_choice(service.tokenizer, index, parts, asked) for index in range(call.count)]
        usage = usage_of(job.prompt_tokens, sum(part.tokens for part in parts), job.cached_tokens)
        answer(
            resp,
            ChatCompletion(
                id=envelope.id,
                created=envelope.created,
                model=envelope.model,
                system_fingerprint=envelope.system_fingerprint,
                choices=choices,
                usage=usage,
                prompt_logprobs=_prompt_logprobs(service.tokenizer, events, conversation.conditions.prompt_logprobs),
                timings=timings_of(clock, job.prompt_tokens, job.cached_tokens) if call.timings else UNSET,
                verbose=Verbose(prompt=prompt.text) if body.verbose else UNSET,
            ),
        )


def _prompt_logprobs(tokenizer: TokenizerApi, events: list[TokenEvent], num_top: int | None) -> PromptLogprobs | Unset:
    """Of the first answer's prompt: the others have the same."""
    first = next(event for event in events if not event.index)
    return UNSET if num_top is None else prompt_logprobs(tokenizer, first.prompt_logprobs, num_top)


def _choice(tokenizer: TokenizerApi, index: int, parts: list[AnswerPart], asked: bool) -> ChatChoice:
    whole = join_parts([part for part in parts if part.index == index])
    reason = check_finish(whole.finish_reason, whole.error)
    calls = [_call_document(call) for call in whole.calls]
    message = AnswerMessage(
        content=None if calls and not whole.content.strip() else whole.content,
        reasoning_content=whole.reasoning or UNSET,
        tool_calls=calls or UNSET,
    )
    logprobs = chat_logprobs(tokenizer, whole.logprobs) if asked else None
    return ChatChoice(index=index, message=message, finish_reason=reason, logprobs=logprobs)


def _call_document(call: ToolCall) -> ToolCallDocument:
    return ToolCallDocument(id=new_call_id(), function=FunctionCall(name=call.name, arguments=call.arguments))


class _StreamEncoder(Encoder):
    def __init__(
        self,
        tokenizer: TokenizerApi,
        envelope: Envelope,
        call: Call,
        readers: list[AnswerReader],
        job: Job,
        clock: AnswerClock,
    ) -> None:
        self._tokenizer = tokenizer
        self._envelope = envelope
        self._include_usage = call.include_usage
        self._readers = readers
        self._job = job
        self._clock = clock
        self._timings = call.timings
        self._tokens = 0
        self._calls = [-1] * call.count  # the latest of each answer

    def opening(self) -> Iterator[bytes]:
        for index in range(len(self._readers)):
            yield self._chunk(index, Delta(role="assistant", content=None))

    def encode(self, event: TokenEvent) -> Iterator[bytes]:
        self._clock.take(event)
        part = self._readers[event.index].read(event)
        self._tokens += part.tokens
        logprobs = self._logprobs(part.logprobs)
        if part.reasoning:
            yield self._chunk(part.index, Delta(reasoning_content=part.reasoning))
        for turn in part.turns or (("",) if logprobs else ()):
            delta = Delta(content=turn or UNSET) if isinstance(turn, str) else self._call(part.index, turn)
            yield self._chunk(part.index, delta, None, logprobs)
            logprobs = None
        if part.finish_reason is not None:
            yield self._chunk(part.index, Delta(), check_finish(part.finish_reason, part.error))

    def closing(self) -> Iterator[bytes]:
        if self._include_usage:
            yield sse(self._document([], usage_of(self._job.prompt_tokens, self._tokens, self._job.cached_tokens)))
        yield DONE

    def _call(self, index: int, piece: CallPiece) -> Delta:
        """Id, type and name once, then the arguments."""
        if piece.name is None:
            rest = ToolCallDelta(index=self._calls[index], function=FunctionDelta(arguments=piece.arguments))
            return Delta(tool_calls=[rest])
        self._calls[index] += 1
        function = FunctionDelta(name=piece.name, arguments=piece.arguments)
        first = ToolCallDelta(index=self._calls[index], id=new_call_id(), type="function", function=function)
        return Delta(tool_calls=[first])

    def _logprobs(self, entry: TokenLogprobs | None) -> LogprobsDocument | None:
        return None if entry is None else chat_logprobs(self._tokenizer, [entry])

    def _chunk(
        self,
        index: int,
        delta: Delta,
        reason: FinishReason | None = None,
        logprobs: LogprobsDocument | None = None,
    ) -> bytes:
        choice = ChunkChoice(index=index, delta=delta, finish_reason=reason, logprobs=logprobs)
        # Where usage is asked for, all events but the last say null.
        return sse(self._document([choice], None if self._include_usage else UNSET))

    def _document(self, choices: list[ChunkChoice], usage: Usage | Unset | None) -> ChatChunk:
        envelope = self._envelope
        return ChatChunk(
            id=envelope.id,
            created=envelope.created,
            model=envelope.model,
            system_fingerprint=envelope.system_fingerprint,
            choices=choices,
            usage=usage,
            timings=self._timings_now(),
        )

    def _timings_now(self) -> LlamaTimings | Unset:
        """Where they are asked for, from the first token on."""
        if not self._timings or self._clock.first is None:
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
