"""Variables that a template is given."""

from __future__ import annotations

from typing import Any, cast

import pytest

from rocmforge.runtime.text.chat_prompt import render_chat
from rocmforge.runtime.text.control_text import ControlTexts


class Template:
    """A template that notes what it is given."""

    takes_tools = True

    def __init__(self, source: str) -> None:
        self.source = source
        self.extra: dict[str, object] = {}

    def render(self, messages: Any, tools: Any = None, add_generation_prompt: bool = True, **extra: object) -> str:
        self.extra = extra
        return "prompt"


class NoControlTexts:
    """Of a tokenizer without control tokens."""

    def hide(self, given: object, template: str) -> tuple[object, str]:
        return given, ""


@pytest.mark.parametrize(
    "source,given,expected",
    [
        ("{% if not thinking is defined %}", {"enable_thinking": True}, {"enable_thinking": True, "thinking": True}),
        ("{% elif thinking %}", {"enable_thinking": False}, {"enable_thinking": False, "thinking": False}),
        ("{%- if thinking -%}", {"enable_thinking": True, "thinking": 3}, {"enable_thinking": True, "thinking": 3}),
        ("{% if thinking %}", {}, {}),
        ("{% if message.thinking %}Your thinking", {"enable_thinking": True}, {"enable_thinking": True}),
    ],
)
def test_whether_to_think_is_said_by_the_templates_own_name_for_it(
    source: str, given: dict[str, object], expected: dict[str, object]
) -> None:
    template = Template(source)
    render_chat([], (), given, template, cast(ControlTexts, NoControlTexts()))
    assert template.extra == expected
