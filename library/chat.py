"""A conversation as a prompt, and the model's tokens as the assistant's answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ..artifacts.dataclass import dataclass
from ..artifacts.errors import RequestError, shown
from ..artifacts.vision import Vision
from ..runtime.engine.generation import FINISH_LENGTH
from ..runtime.engine.pictures import PlacedPicture
from ..runtime.pictures.read import GivenImage
from ..runtime.text.answer_format import JSON_ANSWERS, AnswerFormat
from ..runtime.text.answer_reader import AnswerReader as TextReader
from ..runtime.text.answer_reader import AnswerStart
from ..runtime.text.call_grammar import required_call
from ..runtime.text.call_turns import ToolCall, Turn, join_calls
from ..runtime.text.chat import ChatTemplate
from ..runtime.text.chat_prompt import check_variables, render_chat
from ..runtime.text.constraints import ConstraintSpec
from ..runtime.text.continuation import continues
from ..runtime.text.control_text import NoMarkError
from ..runtime.text.tokenizer import Tokenizer
from .answers import ChatAnswer, Completion
from .checks import check_json, is_list
from .images import given_images, seen_prompt

Message = Mapping[str, Any]
"""`role` and `content`; an assistant's may have `tool_calls`, as `ChatAnswer.message` has them; to a model that sees
one may have `images`, paths or bytes, which come before its content."""

ToolChoice = Literal["auto", "none", "required"]


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call; see `tool_prompt.Tool`."""

    name: str
    description: str | None
    parameters: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Tools:
    """What the model may call, and whether it must.

    Attributes:
        given: those that it may.
        choice: auto, none or required.
    """

    given: tuple[Tool, ...] = ()
    choice: ToolChoice = "auto"

    def constraint(self, given: ConstraintSpec | None, answers: AnswerFormat = JSON_ANSWERS) -> ConstraintSpec | None:
        """What the answer must match: a call where one is required, in the model's own form, else what is `given`.

        Raises:
            RequestError: both.
        """
        if self.choice != "required":
            return given
        if given is not None:
            raise RequestError(given.parameter, "expected no constraint beside a required tool")
        return required_call(answers, self.given)


def read_tools(tools: Sequence[Mapping[str, Any]], choice: ToolChoice) -> Tools:
    """Tools in OpenAI's form, or the function within it alone: `name`, `description`, `parameters` (a JSON schema).

    Raises:
        RequestError: these are no tools, one has no name, or one is required and there is none.
    """
    if not is_list(tools):
        raise RequestError("tools", f"expected a list of tools, found {shown(tools)}")
    read = [_read_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools)]
    if choice not in ("auto", "none", "required"):
        raise RequestError("tool_choice", f"expected auto, none or required, found {shown(choice)}")
    if choice == "required" and not read:
        raise RequestError("tool_choice", "expected tools beside it, found none")
    return Tools(() if choice == "none" else tuple(read), choice)


def _read_tool(tool: object, name: str) -> Tool:
    if not isinstance(tool, Mapping):
        raise RequestError(name, f"expected a dict, found {shown(tool)}")
    function = tool.get("function", tool)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RequestError(name, "expected a function that has a name")
    description, parameters = function.get("description"), function.get("parameters")
    if not isinstance(description, str | None):
        raise RequestError(f"{name}.description", f"expected a text, found {shown(description)}")
    if not isinstance(parameters, dict | None):
        raise RequestError(f"{name}.parameters", f"expected a JSON schema, found {shown(parameters)}")
    check_json(f"{name}.parameters", parameters)
    return Tool(function["name"], description, parameters)


def read_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """A conversation for a template.

    Raises:
        RequestError: names the message at fault.
    """
    if not is_list(messages):
        raise RequestError("messages", f"expected a list of messages, found {shown(messages)}")
    if not messages:
        raise RequestError("messages", "expected at least one message, found none")
    read = []
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise RequestError(f"messages[{index}]", f"expected a dict, found {shown(message)}")
        content = message.get("content")
        if not isinstance(message.get("role"), str):
            raise RequestError(f"messages[{index}].role", "expected a text")
        if not isinstance(content, str | None):
            raise RequestError(f"messages[{index}].content", "expected a text")
        if not _are_calls(calls := message.get("tool_calls")):
            raise RequestError(f"messages[{index}].tool_calls", f"expected calls of functions, found {shown(calls)}")
        read.append({**message, "content": content or ""})
    return read


def _are_calls(calls: object) -> bool:
    """Whether calls have the form that `ChatAnswer.message` gives them, as far as a prompt is made of it."""
    if calls is None:
        return True
    return isinstance(calls, list) and all(
        isinstance(call, Mapping) and isinstance(call.get("function"), Mapping) for call in calls
    )


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation up to the opening of the assistant's turn, or with what it has begun to say.

    Attributes:
        token_ids: of its text.
        inside_reasoning: whether it ends within reasoning.
        begun: whether the assistant has begun.
        pictures: whose rows tokens are.
    """

    token_ids: tuple[int, ...]
    inside_reasoning: bool
    begun: bool
    pictures: tuple[PlacedPicture, ...] = ()


def chat_prompt(
    messages: Sequence[Message],
    tools: Tools,
    variables: Mapping[str, object],
    tokenizer: Tokenizer,
    template: ChatTemplate,
    vision: Vision | None = None,
) -> ChatPrompt:
    """The prompt of a conversation.

    What reads as a control token in a message is text. A last message of the assistant's is gone on with.

    Raises:
        RequestError: these are no messages, or no variables of a template.
        RocmforgeError: the model's template does not take them.
    """
    read = read_messages(messages)
    images = _take_images(read)
    for index, message in enumerate(read):
        check_json(f"messages[{index}]", message)
    check_variables(variables, "template_variables")
    check_json("template_variables", variables)
    begun = read.pop() if continues(read) else None
    try:
        chat = render_chat(read, tools.given, variables, template, tokenizer.control_texts, begun)
    except NoMarkError:
        raise RequestError("messages", "expected not every character that is for private use") from None
    if missing := [image.name for image in images if image.mark not in chat.text]:
        raise RequestError(missing[0], "the model's chat template leaves this image out")
    add_special = chat.add_special(tokenizer.config.bos_token)

    def encode(text: str, first: bool) -> list[int]:
        return tokenizer.encode(text, first and add_special, mark=chat.mark)

    prompt = seen_prompt(chat.text, images, vision, encode)
    return ChatPrompt(prompt.token_ids, chat.inside_reasoning, begun is not None, prompt.pictures)


def _take_images(messages: Sequence[dict[str, Any]]) -> list[GivenImage]:
    """Take the images out of messages, whose texts have marks in front for them."""
    found: list[GivenImage] = []
    for index, message in enumerate(messages):
        images = given_images(message.pop("images", ()), f"messages[{index}].images")
        message["content"] = "".join(image.mark for image in images) + message["content"]
        found += images
    return found


class AnswerReader:
    """Parts reasoning, text and calls of tools of one answer, as it comes.

    Args:
        answers: how the model's are read.
        tools: that it may call.
        prompt: that it answers.
        constrained: whether the answer must match something from its first token on: then it does not reason.
    """

    def __init__(self, answers: AnswerFormat, tools: Tools, prompt: ChatPrompt, constrained: bool) -> None:
        required = bool(tools.given) and tools.choice == "required"
        forced, formed = required and not answers.forms_calls, required and answers.forms_calls
        start = AnswerStart(prompt.inside_reasoning, prompt.begun, constrained, forced, formed)
        self._text = TextReader(answers.format, tools.given, start, answers.hidden)
        self._reasoning: list[str] = []
        self._turns: list[Turn] = []

    def read(self, text: str, reason: str | None) -> tuple[str, str]:
        """Take the next piece, and at the end why it ended; returns what is known now of reasoning and content."""
        reasoning, turns = self._text.push(text)
        if reason is not None:
            more, rest = self._text.flush(reason == FINISH_LENGTH)
            reasoning, turns = reasoning + more, turns + rest
        self._reasoning.append(reasoning)
        self._turns += turns
        return reasoning, "".join(turn for turn in turns if isinstance(turn, str))

    def answer(self, completion: Completion) -> ChatAnswer:
        """All that was read, which came to this completion."""
        calls: tuple[ToolCall, ...] = tuple(join_calls(self._turns))
        return ChatAnswer(
            "".join(turn for turn in self._turns if isinstance(turn, str)),
            "".join(self._reasoning),
            calls,
            "tool_calls" if calls and calls[-1].whole else completion.finish_reason,
            completion,
        )
