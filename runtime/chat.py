"""Chat templates: messages in, prompt text out. A template is a program that came with a model file.

It runs in Jinja's immutable sandbox, under the limits that `ChatTemplate` lists.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..artifacts.errors import RocmforgeError, printable
from .template_sandbox import budgeted, template_environment

if TYPE_CHECKING:
    from jinja2 import Template

MAX_SOURCE_CHARS = 256 * 1024

# What is used where a model brings no template. Source: OpenAI's ChatML, as in Qwen and SmolLM.
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class ChatTemplateError(RocmforgeError):
    """A chat template that does not parse, fails, misbehaves, or refuses the messages; one line."""

    def __init__(self, problem: str):
        super().__init__(f"chat template: {printable(problem, 400)}")


class ChatTemplate:
    """A model's chat template. Safe to share between threads.

    Bounded: length of the source; steps (loop turns, calls, filters, operators and outputs, together);
    the size of every value that an operator, filter, call or list makes, estimated before it is made where
    it could be large; the size of the output; the magnitude of integers; recursion (Python's own limit);
    and wall-clock time, looked at on every step.

    Not bounded: one step's own work on values within those sizes (sorting or comparing a list, searching a
    string), which a deadline cannot interrupt, so that the time limit may be overrun by a step; parsing,
    which takes as long as the source makes it; and memory by anything finer than the limits above. It is a
    guard against a bad model file, not a boundary between tenants.

    Args:
        source: Jinja source, or None for ChatML.
        bos_token: text of the model's BOS token, a variable of the template.
        eos_token: the same for EOS.
    """

    def __init__(self, source: str | None, bos_token: str, eos_token: str):
        self._source = CHATML if source is None else source
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._template: Template | None = None

    @property
    def source(self) -> str:
        """Jinja source."""
        return self._source

    @property
    def takes_tools(self) -> bool:
        """Whether it tells the model of tools, and writes their calls and results."""
        return re.search(r"\btools\b", self._source) is not None

    def render(
        self,
        messages: Sequence[Mapping[str, object]],
        tools: Sequence[Mapping[str, object]] | None = None,
        add_generation_prompt: bool = True,
        **extra: object,
    ) -> str:
        """Render a conversation.

        Args:
            messages: dicts with "role" and "content" (text), and whatever else the template reads.
            tools: function descriptions, or None.
            add_generation_prompt: end with the opening of the assistant's turn.
            extra: further variables of the template.

        Raises:
            ChatTemplateError: the template is wrong, raises an exception, or meets a limit.
        """
        if self._template is None:
            # Two threads may both come here; they store equal values.
            self._template = _compile(self._source)
        variables = {
            **self._tokens,
            **extra,
            "messages": messages,
            "tools": tools,
            "add_generation_prompt": add_generation_prompt,
        }
        template = self._template
        try:
            with budgeted(variables):
                return "".join(template.generate(variables))
        except Exception as error:  # a template can raise anything that Python can
            raise ChatTemplateError(_describe(error)) from None


def check_template(source: str) -> None:
    """Parse a template: `rfc compile` refuses a model whose template does not.

    Raises:
        ChatTemplateError: it is too long, or no Jinja.
    """
    _compile(source)


def _describe(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "recurses too deeply"
    name = type(error).__name__.lstrip("_")
    if name == "TemplateError":  # the template's own raise_exception
        return str(error)
    line = getattr(error, "lineno", None)
    at = f"line {line}: " if isinstance(line, int) else ""
    return f"{at}{name}: {error}"


def _compile(source: str) -> Template:
    if len(source) > MAX_SOURCE_CHARS:
        raise ChatTemplateError(f"expected at most {MAX_SOURCE_CHARS} characters, found {len(source)}")
    try:
        return template_environment().from_string(source)
    except (Exception, MemoryError) as error:  # Python's own compiler gives up on deep nesting with either
        raise ChatTemplateError(_describe(error)) from None
