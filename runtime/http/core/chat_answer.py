"""An answer to a chat, whichever API it goes by: how the model's tokens become its parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...engine.generation import FINISH_CANCELLED, FINISH_FAILED, FINISH_LENGTH, Failure, TokenEvent
from ...engine.logprobs import TokenLogprobs
from ...text.call_turns import CallPiece, ToolCall, Turn, join_calls
from ...text.reasoning import ReasoningSplitter
from ...text.text_tools import TextCallParser
from ...text.tool_calls import ToolCallParser
from .conversation import Conversation


@dataclass(frozen=True, slots=True)
class AnswerPart:
    """What one token added to an answer, or its end.

    Attributes:
        index: which answer of several.
        reasoning: text within `<think>`; it comes before the turns.
        turns: text of the answer and pieces of calls, in their order.
        tokens: 1 where there is a token, else 0.
        logprobs: of the token, where they were asked for.
        finish_reason: "stop", "length", "tool_calls" or "cancelled" at the end; "failed" with an `error`.
        error: why it failed.
        stop: the stop string that ended it.
    """

    index: int
    reasoning: str = ""
    turns: tuple[Turn, ...] = ()
    tokens: int = 0
    logprobs: TokenLogprobs | None = None
    finish_reason: str | None = None
    error: Failure | None = None
    stop: str | None = None


_CUT = (FINISH_LENGTH, FINISH_FAILED, FINISH_CANCELLED)


class AnswerReader:
    """Reads the events of one chat answer.

    Args:
        conversation: that it answers.
        inside_reasoning: whether the prompt ends within reasoning.
    """

    def __init__(self, conversation: Conversation, inside_reasoning: bool) -> None:
        names, text_tool = {tool.name for tool in conversation.usable_tools}, conversation.text_tool
        self._splitter = ReasoningSplitter(inside_reasoning and not conversation.begins_at_once)
        self._parser: ToolCallParser | TextCallParser | None = None
        if text_tool is not None:
            self._parser = TextCallParser(text_tool.name)
        elif names:
            self._parser = ToolCallParser(names, conversation.tool_choice == "required")
        self._most_calls = None if conversation.parallel_tool_calls else 1
        self._num_calls = 0
        self._broken = False  # the latest call is not whole, so far

    def read(self, event: TokenEvent) -> AnswerPart:
        """Take the next event; returns its part, which may be empty."""
        reasoning, content = self._splitter.push(event.text)
        turns = self._turns(content)
        if event.finished:
            more, rest = self._splitter.flush()
            reasoning += more
            turns += self._turns(rest)
            if self._parser is not None:
                turns += self._parser.flush(event.finish_reason in _CUT)
        return AnswerPart(
            event.index,
            reasoning,
            tuple(turn for turn in turns if self._wanted(turn)),
            int(event.token is not None),
            event.logprobs,
            self._reason(event.finish_reason) if event.finished else None,
            event.error,
            event.stop,
        )

    def _turns(self, content: str) -> list[Turn]:
        if self._parser is not None:
            return self._parser.push(content)
        return [content] if content else []

    def _wanted(self, turn: Turn) -> bool:
        """Whether it is none of a call beyond the first, where only one may be."""
        if not isinstance(turn, CallPiece):
            return True
        if turn.name is not None:
            self._num_calls += 1
        if self._most_calls is not None and self._num_calls > self._most_calls:
            return False
        self._broken = not turn.whole
        return True

    def _reason(self, reason: str | None) -> str:
        if reason in (FINISH_FAILED, FINISH_CANCELLED):
            return str(reason)
        if self._num_calls and not self._broken:
            return "tool_calls"
        return "length" if reason == FINISH_LENGTH else "stop"


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: the parts together."""

    reasoning: str
    turns: tuple[Turn, ...]
    tokens: int
    logprobs: tuple[TokenLogprobs, ...]
    finish_reason: str
    error: Failure | None

    @property
    def content(self) -> str:
        """Text of the answer."""
        return "".join(turn for turn in self.turns if isinstance(turn, str))

    @property
    def calls(self) -> list[ToolCall]:
        """Calls of tools; the model may have broken one off."""
        return join_calls(self.turns)


def join_parts(parts: Sequence[AnswerPart]) -> Answer:
    """The answer that the parts of one index come to."""
    return Answer(
        "".join(part.reasoning for part in parts),
        tuple(turn for part in parts for turn in part.turns),
        sum(part.tokens for part in parts),
        tuple(part.logprobs for part in parts if part.logprobs is not None),
        parts[-1].finish_reason or "stop",
        parts[-1].error,
    )
