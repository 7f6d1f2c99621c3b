"""Instructor: an object of a class in the modes that constrain the output, and one that grows as it streams."""

import json
import sys

import instructor
from openai import OpenAI
from pydantic import BaseModel, Field

URL, MODEL, QUESTION, WEATHER = sys.argv[1:]


class Place(BaseModel):
    """A city, and how warm it is there."""

    city: str = Field(max_length=20)
    degrees: int = Field(ge=-40, le=50)


found = {}
client = OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0)
for mode in (instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT, instructor.Mode.JSON_SCHEMA):
    asking = instructor.from_openai(client, mode=mode)
    messages = [{"role": "user", "content": WEATHER}]
    common = {"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 100, "max_retries": 0}
    made, answer = asking.chat.completions.create_with_completion(response_model=Place, **common)
    parts = list(asking.chat.completions.create_partial(response_model=Place, **common))
    found[mode.name] = {
        "made": made.model_dump(),
        "reason": answer.choices[0].finish_reason,
        "partial": parts[-1].model_dump(),
        "num_partial": len(parts),
    }
print(json.dumps(found))
