"""What an Ollama client asks for, in the terms of this server."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

from ....artifacts.dataclass import dataclass
from ....artifacts.errors import RequestError
from ...engine.generation import SamplingParams
from ...text.constraints import ConstraintSpec
from ...text.continuation import continues
from ..core.body import kind_of
from ..core.conversation import Conversation, Message, read_arguments, thinking_variables
from ..core.errors import UnsupportedError
from ..core.generation_params import GenerationParams, read_params
from ..core.images import TEXT_ALONE, Images, add_image, with_images
from ..core.sampling_schema import repeat_numbers
from ..core.schema import SamplingFields
from .schema import GeneratingFields, OllamaChatRequest, OllamaGenerateRequest, OllamaMessage, OllamaOptions

# What Ollama takes where a request says nothing. Source: its documentation of Modelfile parameters; but for
# repeat_penalty, which is 1.1 over the last 64 tokens there, and over prompt and output here: off unless asked for.
DEFAULT_SAMPLING = SamplingParams(temperature=0.8, top_k=40, top_p=0.9)


@dataclass(frozen=True, slots=True)
class Asked:
    """A conversation, and the most tokens that its answer may have: fewer where the context ends; None: only there.

    `raw` is a prompt that goes to the model as it is, instead of the conversation's messages; where there
    is a `suffix`, what stands between the two is asked for.
    """

    conversation: Conversation
    max_tokens: int | None
    raw: str | None = None
    suffix: str = ""


def read_chat(body: OllamaChatRequest, vocab_size: int) -> Asked:
    """A chat that has messages.

    Raises:
        RequestError: names the parameter at fault.
    """
    messages = tuple(_message(message, f"messages[{i}]") for i, message in enumerate(body.messages or ()))
    tools = tuple(tool.function for tool in body.tools or ())
    conversation = Conversation(
        messages,
        _params(body, vocab_size),
        tools,
        template_variables=thinking_of(body.think),
        continue_final=continues(messages),
    )
    return Asked(conversation, _max_tokens(body))


def read_generate(body: OllamaGenerateRequest, vocab_size: int) -> Asked:
    """A generation that has a prompt: a chat of one message, unless it is raw.

    Raises:
        RequestError: names the parameter at fault.
    """
    images: Images = []
    marks = _marks(body.images, "images", images)
    if images and (body.raw or body.suffix):
        raise RequestError("images", "expected none beside raw or suffix")
    if body.template:
        raise UnsupportedError("template", "the model's own template is used; send raw: true with a finished prompt")
    if body.context:
        raise UnsupportedError("context", "tokens of earlier answers are not taken; use /api/chat")
    prompt = body.prompt or ""
    messages: list[Message] = [{"role": "system", "content": body.system}] if body.system else []
    messages.append(with_images({"role": "user", "content": marks + prompt}, images))
    conversation = Conversation(tuple(messages), _params(body, vocab_size), template_variables=thinking_of(body.think))
    suffix = body.suffix or ""
    return Asked(conversation, _max_tokens(body), prompt if body.raw or suffix else None, suffix)


def _message(message: OllamaMessage, where: str) -> Message:
    images: Images = []
    marks = _marks(message.images, f"{where}.images", images)
    document: Message = {"role": message.role, "content": marks + (message.content or "")}
    named = {"reasoning_content": message.thinking, "name": message.tool_name, "tool_call_id": message.tool_call_id}
    document |= {name: value for name, value in named.items() if value}
    if message.tool_calls:
        document["tool_calls"] = [
            {
                "type": "function",
                "function": {
                    "name": call.function.name,
                    "arguments": read_arguments(call.function.arguments, f"{where}.tool_calls[{index}]"),
                },
                **({"id": call.id} if call.id else {}),
            }
            for index, call in enumerate(message.tool_calls)
        ]
    return with_images(document, images)


def _marks(given: Sequence[object] | None, where: str, images: Images) -> str:
    """Return what stands for images, which come before the text, as Ollama has it."""
    refused = where, TEXT_ALONE
    return "".join(add_image(images, one, f"{where}[{index}]", refused) for index, one in enumerate(given or ()))


def _params(body: GeneratingFields, vocab_size: int) -> GenerationParams:
    options = body.options or OllamaOptions()
    if options.mirostat:
        raise UnsupportedError("options.mirostat")
    beside = {"temperature": body.temperature, "top_p": body.top_p}
    numbers = repeat_numbers(options)
    fields = SamplingFields(
        **numbers | {name: value for name, value in beside.items() if numbers[name] is None},
        seed=None if options.seed is None or options.seed < 0 else options.seed,
        stop=options.stop,
    )
    params = read_params(fields, None, vocab_size, DEFAULT_SAMPLING)
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    return replace(params, logprobs=logprobs, constraint=_constraint(body.format))


def _max_tokens(body: GeneratingFields) -> int | None:
    asked = None if body.options is None else body.options.num_predict
    if asked is None:
        return body.max_output_tokens
    return asked if asked > 0 else None


def _constraint(value: object) -> ConstraintSpec | None:
    if isinstance(value, dict):
        return ConstraintSpec("json_schema", value, "format")
    if value == "json":
        return ConstraintSpec("json_object", None, "format")
    if value:
        raise RequestError("format", f'expected "json" or a JSON schema, found {kind_of(value)}')
    return None


def thinking_of(think: bool | str | None) -> dict[str, object]:
    """Variables of the chat template that say whether to think, and how much.

    Raises:
        RequestError: it is a word that nobody knows.
    """
    if think is None:
        return {}
    if isinstance(think, bool):
        return {"enable_thinking": think}
    if think not in ("low", "medium", "high"):
        raise RequestError("think", f'expected true, false, "low", "medium" or "high", found {kind_of(think)}')
    return thinking_variables(think)


_DURATION = re.compile(r"(\d{1,18}(?:\.\d{0,18})?|\.\d{1,18})(ns|us|µs|ms|s|m|h|$)", re.ASCII)
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}


def keep_seconds(keep_alive: float | str | None) -> float | None:
    """How long a model is to stay loaded after the request: seconds, or a duration in Go's notation.

    Returns:
        Infinity for what is negative, as Ollama has it; None where nothing is asked for.

    Raises:
        RequestError: it is no duration.
    """
    if keep_alive is None:
        return None
    if not isinstance(keep_alive, str):
        return math.inf if keep_alive < 0 else float(keep_alive)
    text = keep_alive.strip()
    rest, seconds, parts = text[1:] if text[:1] in ("+", "-") else text, 0.0, 0
    while rest and (found := _DURATION.match(rest)):
        seconds += float(found[1]) * _SECONDS[found[2]]
        rest, parts = rest[found.end() :], parts + 1
    if rest or not parts:
        raise RequestError("keep_alive", f"expected seconds or a duration such as 5m, found {kind_of(keep_alive)}")
    return math.inf if text.startswith("-") else seconds
