"""The lines of Ollama's answers, at once and as a stream of JSON lines."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence

from ....artifacts.dataclass import dataclass
from ...engine.failure import Failure
from ...engine.generation import TokenEvent
from ...engine.logprobs import TokenLogprobs
from ...text.call_turns import ToolCall, WholeCalls
from ..core.answer_clock import AnswerClock
from ..core.answers import check_finish, new_call_id
from ..core.chat_answer import AnswerPart, AnswerReader
from ..core.encoding import ndjson
from ..core.logprobs import chat_logprobs
from ..core.model_card import rfc3339
from ..core.schema import UNSET
from ..core.streaming import NDJSON, Encoder
from ..core.text_apis import TokenizerApi
from .schema import AnswerFunction, AnswerToolCall, ChatLine, DoneReason, GenerateLine, Line, OllamaAnswerMessage


@dataclass(frozen=True, slots=True)
class Said:
    """What a line says: reasoning, text, calls, log-probabilities of tokens, and of the last one how it ended."""

    reasoning: str = ""
    content: str = ""
    calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    end: AnswerPart | None = None

    def __bool__(self) -> bool:
        return bool(self.reasoning or self.content or self.calls or self.logprobs or self.end)


@dataclass(slots=True)
class Answering:
    """An answer under way.

    Attributes:
        model: its name, as the client said it.
        tokenizer: of the model.
        prompt_tokens: of the prompt.
        clock: that started with the request.
        calls: of tools, up to now.
    """

    model: str
    tokenizer: TokenizerApi
    prompt_tokens: int
    clock: AnswerClock
    calls: int = 0

    def chat_line(self, said: Said) -> ChatLine:
        """A line of `/api/chat`."""
        calls = [self._call(call) for call in said.calls]
        message = OllamaAnswerMessage(content=said.content, thinking=said.reasoning or UNSET, tool_calls=calls or UNSET)
        line = ChatLine(model=self.model, created_at=now(), done=False, message=message)
        if said.logprobs:
            line.logprobs = self._logprobs(said)
        return line

    def generate_line(self, said: Said) -> GenerateLine:
        """A line of `/api/generate`."""
        line = GenerateLine(
            model=self.model, created_at=now(), done=False, response=said.content, thinking=said.reasoning or UNSET
        )
        if said.logprobs:
            line.logprobs = self._logprobs(said)
        return line

    def end(self, line: Line, reason: str | None, error: Failure | None) -> Line:
        """Make a line the last one.

        Raises:
            As `check_finish`.
        """
        finish = check_finish(reason, error)
        durations = self.clock.durations()
        line.done = True
        line.done_reason = "length" if finish == "length" else "stop"
        line.total_duration = durations.total
        line.load_duration = durations.load
        line.prompt_eval_count = self.prompt_tokens
        line.prompt_eval_duration = durations.prompt
        line.eval_count = self.clock.tokens
        line.eval_duration = durations.generation
        return line

    def _call(self, call: ToolCall) -> AnswerToolCall:
        function = AnswerFunction(name=call.name, arguments=json.loads(call.arguments), index=self.calls)
        self.calls += 1
        return AnswerToolCall(id=new_call_id(), function=function)

    def _logprobs(self, said: Said) -> list[object]:
        return list(chat_logprobs(self.tokenizer, said.logprobs).content)


def now() -> str:
    """The time, in RFC 3339."""
    return rfc3339(time.time())


def loaded_line(line: ChatLine | GenerateLine, reason: DoneReason, clock: AnswerClock) -> Line:
    """The answer of a request that only loads or unloads a model."""
    line.done, line.done_reason = True, reason
    if reason == "load":
        line.total_duration, line.load_duration = clock.durations().total, clock.durations().load
    return line


class RawReader:
    """Reads the events of an answer as they are: nothing in it is reasoning or a call."""

    def read(self, event: TokenEvent) -> AnswerPart:
        """Take the next event."""
        return AnswerPart(
            event.index,
            turns=(event.text,) if event.text else (),
            tokens=int(event.token is not None),
            logprobs=event.logprobs,
            finish_reason=event.finish_reason if event.finished else None,
            error=event.error,
        )


Reader = AnswerReader | RawReader


class LineEncoder(Encoder[Said]):
    """A stream of JSON lines; there is nothing that could say that it lives before the first of them."""

    media_type = NDJSON
    ping = b""

    def __init__(self, answering: Answering, reader: Reader, make: Callable[[Said], Line]) -> None:
        """`make` is one of the methods of `answering`."""
        self._answering = answering
        self._reader = reader
        self._make = make
        self._calls = WholeCalls()

    def arrived(self, event: TokenEvent) -> None:
        """See `Encoder`."""
        self._answering.clock.take(event)

    def encode(self, event: TokenEvent) -> Iterator[Said]:
        """See `Encoder`."""
        part = self._reader.read(event)
        content, calls = self._calls.take(part.turns, end=part.finish_reason is not None)
        said = Said(part.reasoning, content, tuple(calls), (part.logprobs,) if part.logprobs else ())
        if said:
            yield said
        if part.finish_reason is not None:
            yield Said(end=part)

    def write(self, part: Said) -> bytes:
        """See `Encoder`."""
        return ndjson(self._line(part))

    def fold(self, parts: Sequence[Said]) -> Line:
        """See `Encoder`."""
        return self._line(
            Said(
                "".join(said.reasoning for said in parts),
                "".join(said.content for said in parts),
                tuple(call for said in parts for call in said.calls),
                tuple(entry for said in parts for entry in said.logprobs),
                parts[-1].end,
            )
        )

    def _line(self, said: Said) -> Line:
        line = self._make(said)
        return line if said.end is None else self._answering.end(line, said.end.finish_reason, said.end.error)

    def failure(self, document: dict[str, object]) -> bytes:
        """See `Encoder`."""
        return ndjson(document)
