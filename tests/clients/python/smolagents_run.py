"""smolagents: an agent that must call tools, one a step, until it calls the one that ends it."""

import json
import sys

from smolagents import OpenAIModel, ToolCallingAgent, tool

URL, MODEL, QUESTION, WEATHER = sys.argv[1:]
asked: list[str] = []


@tool
def get_weather(city: str) -> str:
    """The weather of a city.

    Args:
        city: its name.
    """
    asked.append(city)
    return "It is sunny."


model = OpenAIModel(MODEL, api_base=f"{URL}/v1", api_key="none", temperature=0, max_tokens=300, frequency_penalty=1.0)
plain = model([{"role": "user", "content": [{"type": "text", "text": QUESTION}]}])
agent = ToolCallingAgent(tools=[get_weather], model=model, max_steps=2, verbosity_level=0)
outcome = agent.run(WEATHER, return_full_result=True)
steps = [step for step in outcome.steps if "tool_calls" in step]
streaming = ToolCallingAgent(tools=[get_weather], model=model, max_steps=1, verbosity_level=0, stream_outputs=True)
streamed = streaming.run(WEATHER, return_full_result=True)
print()  # what it showed of the stream has no line end
print(
    json.dumps(
        {
            "answer": plain.content,
            "asked": asked,
            "state": outcome.state,
            "calls": [[call["function"]["name"] for call in step["tool_calls"] or ()] for step in steps],
            "errors": [str(step["error"]) for step in steps if step.get("error")],
            "streamed": [
                [call["function"]["name"] for call in step["tool_calls"] or ()]
                for step in streamed.steps
                if "tool_calls" in step
            ],
            "tokens": outcome.token_usage.input_tokens,
        }
    )
)
