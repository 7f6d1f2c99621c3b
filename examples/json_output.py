"""Output that a JSON schema describes: json_output.py BUNDLE."""

import json
import sys

import rocmforge

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
PARAMS = rocmforge.GenerationParams(max_tokens=60, temperature=0.0, json_schema=PERSON)

with rocmforge.load(sys.argv[1]) as model:
    answer = model.chat([{"role": "user", "content": "Ada Lovelace was 36 years old. As JSON, please."}], PARAMS)

person = json.loads(answer.content)
print(f"{person['name']} is {person['age']}.")
