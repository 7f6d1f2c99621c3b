"""The tools of Anthropic's requests: which of them the model is told of, and whether it must call one."""

from __future__ import annotations

from collections.abc import Iterator

from ....artifacts.errors import RequestError
from ..core.conversation import ToolChoice, choose_tool
from ..core.errors import UnsupportedError
from ..core.schema import FunctionTool
from .schema import AnthropicTool, Block, CountRequest

TOOL_ADDITION = "tool_addition"
TOOL_REMOVAL = "tool_removal"
TOOL_REFERENCE = "tool_reference"


def read_tools(body: CountRequest) -> tuple[tuple[FunctionTool, ...], ToolChoice]:
    """Tools and choice, as `Conversation` has them.

    Raises:
        RequestError: names the field at fault.
    """
    tools = [_function(tool, where) for where, tool in _offered(body)]
    choice = body.tool_choice
    if choice is None:
        return choose_tool(tools, None, None, "tool_choice")
    if choice.type == "tool":
        return choose_tool(tools, None, choice.name or "", "tool_choice.name")
    return choose_tool(tools, "required" if choice.type == "any" else choice.type, None, "tool_choice")


def _function(tool: AnthropicTool, where: str) -> FunctionTool:
    if tool.type not in (None, "custom"):
        raise UnsupportedError(f"{where}.type", "only the client's own tools are supported")
    return FunctionTool(name=tool.name, description=tool.description, parameters=tool.input_schema)


def _offered(body: CountRequest) -> list[tuple[str, AnthropicTool]]:
    """Tools as they stand at the end of the conversation, in the order of their definition, with where that is.

    One with `defer_loading` counts from where a message refers to it, one that a message removes no longer.
    """
    defined = {tool.name: (f"tools[{index}]", tool) for index, tool in enumerate(body.tools or ())}
    offered = {name for name, (_, tool) in defined.items() if not tool.defer_loading}
    for where, block in _blocks(body):
        if block.type == TOOL_ADDITION:
            definition = block.tool and block.tool.definition
            if definition:
                defined[definition.name] = (f"{where}.tool.definition", definition)
            offered.add(_name(block, where))
        elif block.type == TOOL_REMOVAL:
            offered.discard(_name(block, where))
        elif block.type == "tool_result" and isinstance(block.content, list):
            offered |= {str(part.get("tool_name")) for part in block.content if part.get("type") == TOOL_REFERENCE}
    return [found for name, found in defined.items() if name in offered]


def _blocks(body: CountRequest) -> Iterator[tuple[str, Block]]:
    for index, message in enumerate(body.messages):
        if not isinstance(message.content, str):
            for at, block in enumerate(message.content):
                yield f"messages[{index}].content[{at}]", block


def _name(block: Block, where: str) -> str:
    tool = block.tool
    name = tool and (tool.definition.name if tool.definition else tool.name)
    if not name:
        raise RequestError(f"{where}.tool", "expected a tool_reference with a name, or a tool_definition")
    return name
