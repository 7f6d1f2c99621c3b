"""A conversation as a prompt: rendered by a template, what its messages say kept apart from control tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, Protocol, cast

from ...artifacts.dataclass import dataclass
from ...artifacts.errors import RequestError, shown
from .chat_formats import format_of
from .continuation import continue_prompt
from .control_text import ControlTexts
from .tool_prompt import Tool, spell_out_tools, tool_descriptions

Message = Mapping[str, object]

RESERVED: Final = frozenset({"self", "messages", "tools", "add_generation_prompt", "bos_token", "eos_token"})
"""Variables of a template that are what `Template.render` makes of a conversation and its model."""

_THINKING = re.compile(r"\b(?:if|elif|not)\s+thinking\b")  # the variable, as templates ask for it


class Template(Protocol):
    """What is asked of a chat template; see `ChatTemplate`."""

    @property
    def source(self) -> str:
        """Its Jinja source."""

    @property
    def takes_tools(self) -> bool:
        """Whether it tells the model of tools."""

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Message] | None = None,
        add_generation_prompt: bool = True,
        **extra: object,
    ) -> str:
        """Return the prompt of a conversation."""


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """A prompt's text.

    Attributes:
        text: with `mark` in it.
        mark: what keeps texts of control tokens from being read as such; see `ControlTexts.hide`.
        inside_reasoning: whether it ends within reasoning.
    """

    text: str
    mark: str
    inside_reasoning: bool

    def add_special(self, bos: str) -> bool:
        """Whether BOS is to be added: many templates write it themselves, and twice would change the answer."""
        return not (bos and self.text.startswith(bos))


def check_variables(variables: object, parameter: str) -> None:
    """Hold further variables of a template against what `render_chat` takes.

    Args:
        variables: as a request has them.
        parameter: that they came in.

    Raises:
        RequestError: they are no values by name, or one is not the request's to set.
    """
    if not isinstance(variables, Mapping):
        raise RequestError(parameter, f"expected values by name, found {shown(variables)}")
    if others := [name for name in variables if not isinstance(name, str)]:
        raise RequestError(parameter, f"expected names that are texts, found {shown(others[0])}")
    if reserved := RESERVED & set(variables):
        raise RequestError(parameter, f"expected other names than {min(reserved)}")


def render_chat(
    messages: Sequence[Message],
    tools: Sequence[Tool],
    variables: Mapping[str, object],
    template: Template,
    control_texts: ControlTexts,
    begun: Message | None = None,
    add_generation_prompt: bool = True,
) -> RenderedChat:
    """Render a conversation up to the opening of the assistant's turn, or with what it has begun to say.

    Args:
        messages: as templates read them.
        tools: that the model may call; where the template takes none, it is told of them in plain text.
        variables: further ones of the template; see `check_variables`.
        template: of the model.
        control_texts: of its tokenizer.
        begun: a last message of the assistant's, to go on with.
        add_generation_prompt: whether the template opens the assistant's turn.

    Raises:
        NoMarkError: the messages hold every character that could stand for nothing else.
        RocmforgeError: the template does not take them, or is busy with others.
    """
    given = {
        "messages": messages if template.takes_tools else spell_out_tools(messages, tools),
        "tools": tool_descriptions(tools) or None,
        "variables": _with_thinking(variables, template.source),
        "begun": begun,
    }
    hidden, mark = control_texts.hide(given, template.source)
    opened = template.render(
        cast("Sequence[Message]", hidden["messages"]),
        tools=cast("Sequence[Message] | None", hidden["tools"]),
        add_generation_prompt=add_generation_prompt,
        **cast("Message", hidden["variables"]),
    )
    text, inside_reasoning = continue_prompt(
        opened, cast("Message | None", hidden["begun"]), format_of(template.source)
    )
    return RenderedChat(text, mark, inside_reasoning)


def _with_thinking(variables: Mapping[str, object], template: str) -> Mapping[str, object]:
    """Say whether to think by the name that a template has for it, `thinking` in DeepSeek V3.1's and Granite's, too."""
    if "enable_thinking" not in variables or "thinking" in variables or not _THINKING.search(template):
        return variables
    return {**variables, "thinking": variables["enable_thinking"]}
