"""A conversation whose last message the assistant has begun: the model goes on with it.

The messages before it are rendered up to the opening of the assistant's turn, and what it has said follows as it is.
"""

from __future__ import annotations

from ....artifacts.errors import RequestError
from ...text.continuation import continues
from .conversation import Conversation, Message


def check_continues(messages: tuple[Message, ...], asked: bool | None, add_generation_prompt: bool | None) -> bool:
    """Whether to go on with the last message, by the fields of vLLM's and llama.cpp's APIs.

    Args:
        messages: of the conversation.
        asked: by the client; None: where it can be gone on with.
        add_generation_prompt: whether the client wants the opening of the assistant's turn; None: it does not say.

    Raises:
        RequestError: it cannot be gone on with, or the two exclude each other.
    """
    if asked is None:
        return continues(messages)
    if asked and add_generation_prompt:
        raise RequestError("continue_final_message", "expected not to be true beside add_generation_prompt")
    if asked and not continues(messages):
        raise RequestError(
            "continue_final_message", "expected the last message to be the assistant's, without calls of tools"
        )
    return asked


def split_last(conversation: Conversation) -> tuple[tuple[Message, ...], Message | None]:
    """The messages to render, and the one to go on with."""
    messages = conversation.messages
    return (messages[:-1], messages[-1]) if conversation.continue_final else (messages, None)
