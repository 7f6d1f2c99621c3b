"""An assistant's message that it has begun: the model goes on with it.

The messages before it are rendered up to the opening of the assistant's turn, and what it has said follows as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .reasoning import CLOSE, OPEN


def continues(messages: Sequence[Mapping[str, object]]) -> bool:
    """Whether the last message is the assistant's, and can be gone on with."""
    return bool(messages) and messages[-1]["role"] == "assistant" and not messages[-1].get("tool_calls")


def continue_prompt(opened: str, message: Mapping[str, object] | None) -> tuple[str, bool]:
    """A prompt that ends with the opening of the assistant's turn, with what it has said, if anything.

    Its reasoning stands in its markers before the content, and is gone on with where there is no content yet.

    Returns:
        The text, and whether it ends within reasoning.
    """
    opening = opened.rstrip()
    is_open = opening.endswith(OPEN)
    if message is None:
        return opened, is_open
    content, reasoning = str(message.get("content") or ""), str(message.get("reasoning_content") or "")
    if opening.endswith(CLOSE) or not (is_open or reasoning):  # the template has it think of nothing, or it did not
        return opened + content, False
    begun = opened + (reasoning if is_open else f"{OPEN}\n{reasoning}")
    return (f"{begun}\n{CLOSE}\n\n{content}", False) if content else (begun, True)
