"""An assistant's message that it has begun: the model goes on with it.

The messages before it are rendered up to the opening of the assistant's turn, and what it has said follows as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .chat_formats import GENERAL
from .chat_styles import Channels, ChatFormat
from .reasoning import OPEN


def continues(messages: Sequence[Mapping[str, object]]) -> bool:
    """Whether the last message is the assistant's, and can be gone on with."""
    return bool(messages) and messages[-1]["role"] == "assistant" and not messages[-1].get("tool_calls")


def continue_prompt(
    opened: str, message: Mapping[str, object] | None, format_: ChatFormat = GENERAL
) -> tuple[str, bool]:
    """A prompt that ends with the opening of the assistant's turn, with what it has said, if anything.

    Its reasoning stands in its markers before the content, and is gone on with where there is no content yet.

    Returns:
        The text, and whether it ends within reasoning.
    """
    if format_.channels is not None:
        return _in_channels(opened, message, format_.channels)
    style = format_.reasoning
    gap = "\n" if style.open == OPEN else ""
    opening = opened.rstrip()
    is_open = opening.endswith(style.open)
    if message is None:
        return opened, is_open
    content, reasoning = str(message.get("content") or ""), str(message.get("reasoning_content") or "")
    if opening.endswith(style.close) or not (is_open or reasoning):  # it thinks of nothing, or did not
        return opened + content, False
    begun = opened + (reasoning if is_open else f"{style.open}{gap}{reasoning}")
    return (f"{begun}{gap}{style.close}{gap}{gap}{content}", False) if content else (begun, True)


def _in_channels(opened: str, message: Mapping[str, object] | None, style: Channels) -> tuple[str, bool]:
    """The same, where reasoning and content are messages of their own."""
    if message is None:
        return opened, False
    content, reasoning = str(message.get("content") or ""), str(message.get("reasoning_content") or "")
    if not (content or reasoning):
        return opened, False
    begun = f"{opened}{style.reasoning}{reasoning}" if reasoning else opened
    if not content:
        return begun, True
    return f"{begun}{style.next if reasoning else ''}{style.content}{content}", False
