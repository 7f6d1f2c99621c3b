"""What a model's methods return."""

from __future__ import annotations

import json
from dataclasses import field
from typing import Any, Literal

from ..artifacts.dataclass import dataclass
from ..runtime.engine.logprobs import TokenLogprobs
from ..runtime.text.call_turns import ToolCall

FinishReason = Literal["stop", "eos", "length"]
"""A stop string or token, or the end of what a constraint allows; the model's own end; as long as asked or possible."""


@dataclass(frozen=True, slots=True)
class Completion:
    """How a prompt went on.

    Attributes:
        text: without the stop string.
        token_ids: those that ended it included.
        finish_reason: why it ended.
        prompt_tokens: tokens of the prompt.
        cached_tokens: those of them that lay in the cache.
        logprobs: of the tokens that are a part of the text, where they were asked for.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    cached_tokens: int = field(default=0, compare=False)  # how it was computed, not what it came to
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """What one token added to a text.

    Attributes:
        text: whole characters; "" where they are not known yet.
        token_id: None where the text ended without a token.
        index: which prompt of a list it belongs to.
        finish_reason: in the last piece of a text.
        logprobs: of the token, where they were asked for.
    """

    text: str
    token_id: int | None
    index: int = 0
    finish_reason: FinishReason | None = None
    logprobs: TokenLogprobs | None = None


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """What the assistant said.

    Attributes:
        content: text of the answer, without reasoning and calls.
        reasoning: what it thought before, "" where it did not.
        tool_calls: tools that it calls; the arguments are JSON text.
        finish_reason: "tool_calls" where it ended with a call of a tool, else as in `Completion`.
        completion: the tokens, as they came.
    """

    content: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: FinishReason | Literal["tool_calls"]
    completion: Completion

    @property
    def message(self) -> dict[str, Any]:
        """It as a message, to go on with the conversation."""
        return answer_message(self.content, self.tool_calls)


@dataclass(frozen=True, slots=True)
class ChatPiece:
    """What one token added to an answer.

    Attributes:
        content, reasoning: text, maybe "".
        index: which conversation of a list it belongs to.
        answer: the whole answer, in its last piece.
    """

    content: str
    reasoning: str = ""
    index: int = 0
    answer: ChatAnswer | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """How likely a model holds a text to be after another.

    Attributes:
        token_ids: of the text.
        logprobs: natural logarithms of each token's probability, after all before it.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]

    @property
    def total(self) -> float:
        """Logarithm of the probability of the whole text."""
        return sum(self.logprobs)


def answer_message(content: str, calls: tuple[ToolCall, ...]) -> dict[str, Any]:
    """An answer as chat templates read it; calls that the model broke off are text."""
    broken = [call.text for call in calls if not call.whole]
    message: dict[str, Any] = {"role": "assistant", "content": "\n".join([*([content] if content else []), *broken])}
    if whole := [call for call in calls if call.whole]:
        functions = [{"name": call.name, "arguments": json.loads(call.arguments)} for call in whole]
        message["tool_calls"] = [{"type": "function", "function": function} for function in functions]
    return message
