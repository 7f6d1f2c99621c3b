"""LlamaIndex's OpenAILike: completion, chat and streams of both, a tool's call, and an object of a class."""

import json
import sys

from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel, Field

URL, MODEL, QUESTION, WEATHER = sys.argv[1:]


class Place(BaseModel):
    """A city, and how warm it is there."""

    city: str = Field(max_length=20)
    degrees: int = Field(ge=-40, le=50)


def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"It is sunny in {city}."


def made(**settings: object) -> OpenAILike:
    """A model with the common settings."""
    common = {"model": MODEL, "api_base": f"{URL}/v1", "api_key": "none", "temperature": 0, "max_tokens": 60}
    return OpenAILike(**common, max_retries=0, is_function_calling_model=True, context_window=8192, **settings)


chat, text = made(is_chat_model=True), made(is_chat_model=False)
messages = [ChatMessage(role="user", content=QUESTION)]
tool = FunctionTool.from_defaults(get_weather)
called = chat.chat_with_tools([tool], WEATHER, tool_required=True)
streamed = list(chat.stream_chat_with_tools([tool], WEATHER, tool_required=True))[-1]
print(
    json.dumps(
        {
            "answer": chat.chat(messages).message.content,
            "pieces": [part.delta for part in chat.stream_chat(messages)],
            "text": text.complete("The capital of France is", max_tokens=8).text,
            "text_pieces": [part.delta for part in text.stream_complete("The capital of France is", max_tokens=8)],
            "calls": [
                [[call.tool_name, call.tool_kwargs] for call in chat.get_tool_calls_from_response(response)]
                for response in (called, streamed)
            ],
            "place": chat.structured_predict(Place, PromptTemplate(WEATHER)).model_dump(),
        }
    )
)
