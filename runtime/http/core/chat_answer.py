"""An answer to a chat, whichever API it goes by: how the model's tokens become its parts."""

from __future__ import annotations

from collections.abc import Sequence

from ....artifacts.dataclass import dataclass
from ...engine.failure import Failure
from ...engine.generation import FINISH_CANCELLED, FINISH_FAILED, FINISH_LENGTH, TokenEvent
from ...engine.logprobs import TokenLogprobs
from ...text.answer_reader import AnswerReader as TextReader
from ...text.answer_reader import AnswerStart
from ...text.call_turns import CallPiece, ToolCall, Turn, join_calls
from ...text.text_tools import TextCallParser
from .conversation import Conversation
from .service import ChatPrompt


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
        prompt: as the model has it.
    """

    def __init__(self, conversation: Conversation, prompt: ChatPrompt) -> None:
        text_tool = conversation.text_tool
        parser = None if text_tool is None else TextCallParser(text_tool.name)
        answers = prompt.answers
        required = bool(conversation.usable_tools) and conversation.tool_choice == "required"
        start = AnswerStart(
            prompt.inside_reasoning,
            conversation.continue_final,
            conversation.begins_at_once,
            forced=required and not answers.forms_calls,
            formed=required and answers.forms_calls,
        )
        self._text = TextReader(answers.format, conversation.usable_tools, start, answers.hidden, parser)
        self._most_calls = None if conversation.parallel_tool_calls else 1
        self._num_calls = 0
        self._broken = False  # the latest call is not whole, so far

    def read(self, event: TokenEvent) -> AnswerPart:
        """Take the next event; returns its part, which may be empty."""
        reasoning, turns = self._text.push(event.text)
        if event.finished:
            more, rest = self._text.flush(event.finish_reason in _CUT)
            reasoning, turns = reasoning + more, turns + rest
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
