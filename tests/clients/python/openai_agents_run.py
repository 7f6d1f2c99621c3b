"""OpenAI's Agents SDK: an agent that must call its tool and then answers, on both APIs, whole and streamed."""

import asyncio
import json
import sys
from typing import Any

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI

URL, MODEL, QUESTION, WEATHER = sys.argv[1:]
set_tracing_disabled(disabled=True)
asked: list[str] = []


@function_tool
def get_weather(city: str) -> str:
    """The weather of a city."""
    asked.append(city)
    return "It is sunny."


async def run(kind: type[OpenAIChatCompletionsModel] | type[OpenAIResponsesModel]) -> dict[str, Any]:
    """What an agent of that API did."""
    asked.clear()
    model = kind(MODEL, AsyncOpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0))
    plain = Agent(name="plain", model=model, model_settings=ModelSettings(temperature=0, max_tokens=40))
    answer = await Runner.run(plain, QUESTION)
    forced = ModelSettings(temperature=0, max_tokens=60, tool_choice="required")
    # After the first call the SDK asks without forcing: the model reads the result and answers.
    agent = Agent(name="forced", model=model, model_settings=forced, tools=[get_weather])
    called = await Runner.run(agent, WEATHER, max_turns=3)
    streamed = Runner.run_streamed(agent, WEATHER, max_turns=3)
    kinds = [event.name async for event in streamed.stream_events() if event.type == "run_item_stream_event"]
    return {
        "answer": answer.final_output,
        "input_tokens": answer.context_wrapper.usage.input_tokens,
        "cities": list(asked),
        "items": [item.type for item in called.new_items],
        "streamed": kinds,
        "outputs": [called.final_output, streamed.final_output],
    }


async def main() -> None:
    """Both APIs."""
    found = {"chat": await run(OpenAIChatCompletionsModel), "responses": await run(OpenAIResponsesModel)}
    print(json.dumps(found))


asyncio.run(main())
