"""A model's answer as it streams: reasoning, content and calls of tools, by the format of its family."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from ...artifacts.dataclass import dataclass
from .call_turns import CallPiece, Turn
from .channel_reader import ChannelReader
from .chat_formats import GENERAL
from .chat_styles import ChatFormat, JsonCalls, NamedCalls
from .named_calls import NamedCallParser
from .reasoning import ReasoningSplitter
from .silent_texts import SilentTexts
from .tool_calls import ANY_JSON, ToolCallParser
from .tool_prompt import Tool


class CallParser(Protocol):
    """Finds calls in content that comes in pieces."""

    def push(self, text: str) -> list[Turn]:
        """Take a piece; returns what is known now."""

    def flush(self, cut: bool) -> list[Turn]:
        """End the text, `cut` or not; returns what was held back."""


@dataclass(frozen=True, slots=True)
class AnswerStart:
    """Where an answer begins.

    Attributes:
        inside_reasoning: the prompt ends within reasoning.
        begun: it ends with what the assistant has begun to say.
        constrained: the answer must match something from its first token on: then it does not reason.
        forced: that is the JSON of a call.
        formed: it is a call in the family's own form.
    """

    inside_reasoning: bool = False
    begun: bool = False
    constrained: bool = False
    forced: bool = False
    formed: bool = False


class AnswerReader:
    """Parts reasoning, text and calls of tools of one answer. However it is cut, the parts together are the same.

    Args:
        format_: of the model's family.
        tools: that it may call.
        start: where the answer begins.
        hidden: texts of control tokens that are in the answer only for this reader.
        parser: of the content, where it is to be read in another way.
    """

    def __init__(
        self,
        format_: ChatFormat = GENERAL,
        tools: Sequence[Tool] = (),
        start: AnswerStart = AnswerStart(),  # noqa: B008 (frozen)
        hidden: Iterable[str] = (),
        parser: CallParser | None = None,
    ) -> None:
        schemas = {tool.name: tool.parameters for tool in tools}
        silent = {*format_.silent, *hidden}
        self._silent = SilentTexts(silent), SilentTexts(silent)  # of the reasoning, and of the content
        self._channels: ChannelReader | None = None
        in_form = parser is None and (start.formed or not (start.constrained or start.forced))
        if format_.channels is not None and in_form:
            self._channels = ChannelReader(format_.channels, schemas, start.inside_reasoning, start.begun)
        ends = (*format_.beginnings, *format_.silent) if format_.reasoning.calls_end_it else ()
        inside = start.inside_reasoning and not start.constrained
        self._splitter = ReasoningSplitter(inside, format_.reasoning, ends, start.begun)
        self._parser = parser
        if parser is None and schemas:
            self._parser = _parser_of(format_.calls, schemas, start.forced or (start.formed and format_.calls_bare))
        if format_.opening and in_form and not start.begun:
            self.push(format_.opening)

    def push(self, text: str) -> tuple[str, list[Turn]]:
        """Take a piece; returns what is known now of the reasoning, and the turns."""
        if self._channels is not None:
            return self._shown(*self._channels.push(text))
        reasoning, content = self._splitter.push(text)
        return self._shown(reasoning, self._parsed(content))

    def flush(self, cut: bool = False) -> tuple[str, list[Turn]]:
        """End the text, `cut` or not; returns what was held back."""
        if self._channels is not None:
            reasoning, turns = self._shown(*self._channels.flush(cut))
        else:
            more, rest = self._splitter.flush()
            further = self._parsed(rest)
            if self._parser is not None:
                further += self._parser.flush(cut)
            reasoning, turns = self._shown(more, further)
        content = self._silent[1].flush()
        return reasoning + self._silent[0].flush(), [*turns, content] if content else turns

    def _parsed(self, content: str) -> list[Turn]:
        if self._parser is not None:
            return self._parser.push(content)
        return [content] if content else []

    def _shown(self, reasoning: str, turns: list[Turn]) -> tuple[str, list[Turn]]:
        """The parts without what nobody is shown."""
        shown: list[Turn] = []
        for turn in turns:
            if isinstance(turn, CallPiece):
                shown += [content] if (content := self._silent[1].flush()) else []
                shown.append(turn)
            elif content := self._silent[1].push(turn):
                shown.append(content)
        return self._silent[0].push(reasoning), shown


def _parser_of(calls: JsonCalls | NamedCalls | None, schemas: Mapping[str, object], forced: bool) -> CallParser:
    if forced or not isinstance(calls, NamedCalls):
        return ToolCallParser(schemas, forced, calls if isinstance(calls, JsonCalls) else ANY_JSON)
    return NamedCallParser(calls, schemas)
