"""Chat messages of OpenAI's form, in the one form that chat templates read."""

from __future__ import annotations

from collections.abc import Sequence

from ....artifacts.errors import RequestError
from ...text.call_turns import ToolCall
from ..core.conversation import Message, read_arguments
from ..core.errors import UnsupportedError
from ..core.images import Images, add_image, with_images
from .schema import ChatMessage, ContentPart, MessageToolCall

# "developer" is what newer clients call "system", "function" what older ones call "tool"; templates know these names.
_ROLES = {"developer": "system", "function": "tool"}


def read_messages(messages: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """A conversation for a template.

    Returns:
        One dict a message: "role", "content" (text), and where given "name", "tool_calls" (whose arguments are
        objects), "tool_call_id", "reasoning_content".

    Raises:
        RequestError: names the message and field at fault.
    """
    return tuple(_message(message, f"messages[{index}]") for index, message in enumerate(messages))


def _message(message: ChatMessage, where: str) -> Message:
    images: Images = []
    content = read_content(message.content, f"{where}.content", images)
    calls = [_call(call) for call in message.tool_calls or ()]
    broken = [call for call in calls if isinstance(call, str)]
    document: Message = {
        "role": _ROLES.get(message.role, message.role),
        "content": "\n".join([*([content] if content else []), *broken]),
    }
    for name in ("name", "tool_call_id", "reasoning_content"):
        value = getattr(message, name)
        if value is not None:
            document[name] = value
    if whole := [call for call in calls if not isinstance(call, str)]:
        document["tool_calls"] = whole
    return with_images(document, images)


def _call(call: MessageToolCall) -> dict[str, object] | str:
    """A call for a template; a text where the model has broken it off, as clients send those back too."""
    try:
        arguments = read_arguments(call.function.arguments, "")
    except RequestError:
        return ToolCall(call.function.name, str(call.function.arguments), whole=False).text
    document: dict[str, object] = {"type": "function", "function": {"name": call.function.name, "arguments": arguments}}
    if call.id is not None:
        document["id"] = call.id
    return document


def read_content(content: str | Sequence[ContentPart] | None, where: str, images: Images) -> str:
    """The text of a string, of parts of text and images, or of null.

    Args:
        content: of a message.
        where: it stands.
        images: of the message, to which its own are added; in the text marks stand for them.

    Raises:
        UnsupportedError: a part is neither.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return "".join(_part(part, f"{where}[{index}]", images) for index, part in enumerate(content))


def _part(part: ContentPart, where: str, images: Images) -> str:
    if part.type in ("image_url", "input_image"):
        given = part.image_url
        url = given.get("url") if isinstance(given, dict) else given
        if part.file_id is not None:
            raise UnsupportedError(f"{where}.file_id", "no files are kept; send the image as a data: URL")
        return add_image(images, url, f"{where}.image_url", (f"{where}.type", "only text parts are supported"))
    if part.type not in ("text", "input_text", "output_text", "refusal"):
        raise UnsupportedError(f"{where}.type", "only text parts are supported")
    text = part.refusal if part.type == "refusal" else part.text
    if text is None:
        raise RequestError(f"{where}.text", "expected a string, found nothing")
    return text
