"""Tools of OpenAI's responses: functions, namespaces of them, and custom tools, which take a text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from ....artifacts.dataclass import dataclass
from ....artifacts.errors import RequestError, printable
from ...text.constraints import ConstraintSpec
from ...text.text_tools import INPUT_SCHEMA
from ..core.conversation import TextTool, ToolChoice, choose_tool
from ..core.errors import UnsupportedError
from ..core.schema import FunctionTool
from .response_schema import ResponseTool, ToolChoiceFunction


@dataclass(frozen=True, slots=True)
class ServedTool:
    """A tool of the request.

    Attributes:
        function: as the model is told of it; its name has the namespace before it.
        kind: whether it takes JSON or a text.
        name: within its namespace.
        namespace: or None.
        constraint: on the text.
    """

    function: FunctionTool
    kind: Literal["function", "custom"]
    name: str
    namespace: str | None = None
    constraint: ConstraintSpec | None = None


@dataclass(frozen=True, slots=True)
class ToolChosen:
    """Which tools an answer may call, whether it must, and the custom tool that it must."""

    tools: tuple[FunctionTool, ...]
    choice: ToolChoice
    text_tool: TextTool | None = None


class Toolbox:
    """The tools of a request.

    Attributes:
        left_out: one line for each that is not served: those that OpenAI runs itself.

    Raises:
        RequestError: names the tool at fault.
    """

    def __init__(self, tools: Sequence[ResponseTool]) -> None:
        self.left_out: list[str] = []
        self._tools = {tool.function.name: tool for tool in self._read(tools, "tools", None)}

    def find(self, name: str) -> ServedTool | None:
        """The tool that the model calls so."""
        return self._tools.get(name)

    def choose(self, choice: str | ToolChoiceFunction | None) -> ToolChosen:
        """What `tool_choice` comes to.

        Raises:
            RequestError: it names a tool that is none.
            UnsupportedError: it names a kind that is not served.
        """
        named = None
        if isinstance(choice, ToolChoiceFunction):
            if choice.type not in ("function", "custom"):
                raise UnsupportedError("tool_choice.type", f"{printable(choice.type, 60)} is not served here")
            named, choice = flat_name(choice.name or "", choice.namespace or None), None
        functions = [tool.function for tool in self._tools.values()]
        usable, chosen = choose_tool(functions, choice, named, "tool_choice")
        if chosen == "required" and len(usable) == 1:
            tool = self._tools[usable[0].name]
            if tool.kind == "custom":
                return ToolChosen(usable, chosen, TextTool(tool.function.name, tool.constraint))
        return ToolChosen(usable, chosen)

    def _read(self, tools: Sequence[ResponseTool], where: str, namespace: str | None) -> Iterator[ServedTool]:
        for index, tool in enumerate(tools):
            at = f"{where}[{index}]"
            if tool.type == "namespace" and namespace is None:
                yield from self._read(tool.tools or (), f"{at}.tools", _name(tool, at))
            elif tool.type == "function":
                yield ServedTool(_function(tool, at, namespace), "function", _name(tool, at), namespace)
            elif tool.type == "custom":
                constraint, told = _format(tool, f"{at}.format")
                function = _function(tool, at, namespace)
                function.description, function.parameters = f"{tool.description or ''}{told}", INPUT_SCHEMA
                yield ServedTool(function, "custom", _name(tool, at), namespace, constraint)
            else:
                self.left_out.append(f"{at}: {printable(tool.type, 60)} is not served here, and left out")


def flat_name(name: str, namespace: str | None) -> str:
    """What the model calls a tool of a namespace."""
    return f"{namespace.rstrip('_')}__{name}" if namespace else name


def _name(tool: ResponseTool, where: str) -> str:
    if not tool.name:
        raise RequestError(f"{where}.name", "expected a name, found nothing")
    return tool.name


def _function(tool: ResponseTool, where: str, namespace: str | None) -> FunctionTool:
    name = flat_name(_name(tool, where), namespace)
    return FunctionTool(name=name, description=tool.description, parameters=tool.parameters, strict=tool.strict)


def _format(tool: ResponseTool, where: str) -> tuple[ConstraintSpec | None, str]:
    """What a custom tool's text must match, and how the model is told of it."""
    shape = tool.format
    if not shape or shape.type == "text":
        return None, ""
    if shape.type != "grammar" or not shape.syntax or not shape.definition:
        raise RequestError(where, 'expected {"type": "text"}, or "grammar" with syntax and definition')
    kind: Literal["regex", "grammar"] = "regex" if shape.syntax == "regex" else "grammar"
    told = f"\nThe input matches this {shape.syntax} grammar:\n{shape.definition}"
    return ConstraintSpec(kind, shape.definition, f"{where}.definition"), told
