"""Chat templates: messages in, prompt text out. A template is a program that came with a model file.

It runs in Jinja's immutable sandbox, in a process of its own, under the limits that `ChatTemplate` lists.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Mapping, Sequence

from .template_process import ChatTemplateError, TemplateProcesses

MAX_SOURCE_CHARS = 256 * 1024

# What is used where a model brings no template. Source: OpenAI's ChatML, as in Qwen and SmolLM.
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class ChatTemplate:
    """A model's chat template. Safe to share between threads. `close` it.

    It is parsed and rendered in a process of its own, under two sets of limits. The sandbox's, whose messages say most:
    steps (loop turns, calls, filters, operators and outputs, together); the size of every value that an operator,
    filter, call or list makes, where it is estimated before it is made or at the latest once it is; the size of the
    output; the magnitude of integers; recursion; and wall-clock time, looked at on every step. One step can be of any
    length and its values of any number, so the system's stand behind them: processor time, address space, and the time
    that the server waits, after which the process is killed (see `template_worker` and `template_process`). Bounded
    here is the length of the source.

    A template that leaves the sandbox is a program with the server's rights: a model is trusted that far.

    Args:
        source: Jinja source, or None for ChatML.
        bos_token: text of the model's BOS token, a variable of the template.
        eos_token: the same for EOS.
    """

    def __init__(self, source: str | None, bos_token: str, eos_token: str):
        self._source = CHATML if source is None else source
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._processes = TemplateProcesses(self._source)

    def start(self) -> None:
        """Start its process, so that the first rendering need not wait for it; returns at once.

        Raises:
            EngineBusyError: the system has no room for a process.
        """
        self._processes.start()

    def close(self) -> None:
        """End its processes."""
        self._processes.close()

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
            EngineBusyError: others keep its processes busy.
        """
        _check_length(self._source)

        def ask(variables: Mapping[str, object]) -> str:
            given = json.dumps({**self._tokens, **variables}, ensure_ascii=False)
            return self._processes.ask(given.encode("utf-8", "surrogatepass"))

        return rendered(ask, messages, tools, add_generation_prompt, extra)


def rendered(
    ask: Callable[[Mapping[str, object]], str],
    messages: Sequence[Mapping[str, object]],
    tools: Sequence[Mapping[str, object]] | None,
    add_generation_prompt: bool,
    extra: Mapping[str, object],
) -> str:
    """What a template makes of a conversation, whose variables are given to `ask`.

    `tools` are no variable where there are none. Arguments of calls are objects, as Hugging Face's renderer has them;
    a template that fails is asked once more with their text, which Functionary's and older ones of DeepSeek's expect.

    Raises:
        ChatTemplateError: it fails.
    """
    variables = {name: value for name, value in extra.items() if name != "tools"}
    variables["messages"] = [_with_thinking(message) for message in messages]
    variables["add_generation_prompt"] = add_generation_prompt
    if tools:
        variables["tools"] = tools
    try:
        return ask(variables)
    except ChatTemplateError:
        if not any(message.get("tool_calls") for message in messages):
            raise
        spelled = {**variables, "messages": [_with_text_arguments(message) for message in messages]}
        with contextlib.suppress(ChatTemplateError):
            return ask(spelled)
        raise


def _with_text_arguments(message: Mapping[str, object]) -> Mapping[str, object]:
    calls = message.get("tool_calls")
    spelled = [_spelled(call) for call in calls] if isinstance(calls, list) else calls
    return _with_thinking({**message, "tool_calls": spelled} if calls else message)


def _spelled(call: object) -> object:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        return call
    arguments = json.dumps(function.get("arguments"), ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}


def _with_thinking(message: Mapping[str, object]) -> Mapping[str, object]:
    """A message with its reasoning under the name that some templates have for it, gpt-oss's for one.

    That refuses a call of a tool that has both reasoning and content: then its content stays.
    """
    reasoning = message.get("reasoning_content")
    if not reasoning or "thinking" in message or (message.get("tool_calls") and message.get("content")):
        return message
    return {**message, "thinking": reasoning}


def check_template(source: str) -> None:
    """Parse a template: `rfc compile` refuses a model whose template does not.

    Raises:
        ChatTemplateError: it is too long, no Jinja, or takes too much to parse.
    """
    _check_length(source)
    with contextlib.closing(TemplateProcesses(source)) as processes:
        processes.ask(None)


def _check_length(source: str) -> None:
    if len(source) > MAX_SOURCE_CHARS:
        raise ChatTemplateError(f"expected at most {MAX_SOURCE_CHARS} characters, found {len(source)}")
