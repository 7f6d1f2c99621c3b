"""A tool that the model must call, and what it says of the result: chat_with_a_tool.py BUNDLE."""

import json
import sys
from typing import Any

import rocmforge

PARAMS = rocmforge.GenerationParams(max_tokens=64, temperature=0.0)
WEATHER = {
    "name": "weather",
    "description": "What the weather is in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 30}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


def weather(city: str) -> str:
    """What the weather is in a city."""
    return f"In {city} it is sunny, 24 degrees."


messages: list[dict[str, Any]] = [{"role": "user", "content": "How is the weather in Paris?"}]
with rocmforge.load(sys.argv[1]) as model:
    asked = model.chat(messages, PARAMS, tools=[WEATHER], tool_choice="required")
    messages.append(asked.message)
    for call in asked.tool_calls:
        result = weather(**json.loads(call.arguments))
        print(f"{call.name}({call.arguments}) -> {result}")
        messages.append({"role": "tool", "content": result})
    print(model.chat(messages, PARAMS, tools=[WEATHER]).content)
