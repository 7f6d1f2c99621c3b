"""Pydantic AI: text, typed output by a forced tool and by a JSON schema, and a stream of each."""

import asyncio
import json
import sys
from typing import Any

from pydantic import BaseModel, Field
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

URL, MODEL, QUESTION, WEATHER = sys.argv[1:]


class Place(BaseModel):
    """A city, and how warm it is there."""

    city: str = Field(max_length=20)
    degrees: int = Field(ge=-40, le=50)


async def run(kind: type[OpenAIChatModel] | type[OpenAIResponsesModel]) -> dict[str, Any]:
    """What agents of that API gave."""
    model = kind(MODEL, provider=OpenAIProvider(base_url=f"{URL}/v1", api_key="none"))
    settings: dict[str, Any] = {"temperature": 0, "max_tokens": 60}
    plain = await Agent(model, model_settings=settings).run(QUESTION)
    by_tool = await Agent(model, output_type=ToolOutput(Place), model_settings=settings, retries=0).run(WEATHER)
    by_schema = await Agent(model, output_type=NativeOutput(Place), model_settings=settings, retries=0).run(WEATHER)
    async with Agent(model, model_settings=settings).run_stream(QUESTION) as stream:
        pieces = [piece async for piece in stream.stream_text(delta=True, debounce_by=None)]
    tool_agent = Agent(model, output_type=ToolOutput(Place), model_settings=settings, retries=0)
    async with tool_agent.run_stream(WEATHER) as typed:
        streamed = await typed.get_output()
    return {
        "answer": plain.output,
        "pieces": pieces,
        "by_tool": by_tool.output.model_dump(),
        "by_schema": by_schema.output.model_dump(),
        "streamed": streamed.model_dump(),
    }


async def main() -> None:
    """Both APIs."""
    print(json.dumps({"chat": await run(OpenAIChatModel), "responses": await run(OpenAIResponsesModel)}))


asyncio.run(main())
