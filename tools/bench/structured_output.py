"""How often structured output is valid: `python -m rocmforge.tools.bench.structured_output BUNDLE [COUNT]`.

Generates under the schemas of real tools at temperature 1 and judges each output with the library jsonschema.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

from ...artifacts.bundle import open_bundle
from ...runtime.device.host import load_host_program
from ...runtime.engine.engine import Engine
from ...runtime.engine.generation import GenerationRequest, SamplingParams
from ...runtime.engine.loading import load_tokenizer
from ...runtime.telemetry.metrics import Metrics
from ...runtime.text.constraints import ConstraintCompiler, ConstraintSpec

MAX_TOKENS: Final = 400
_SHORT: Final = {"type": "string", "maxLength": 40}

SCHEMAS: Final[dict[str, dict[str, Any]]] = {
    "read": {
        "type": "object",
        "properties": {
            "filePath": {**_SHORT, "minLength": 1},
            "offset": {"type": "integer", "minimum": 0, "maximum": 100000},
            "limit": {"type": "integer", "minimum": 1, "maximum": 2000},
        },
        "required": ["filePath"],
        "additionalProperties": False,
    },
    "todo": {
        "type": "object",
        "properties": {
            "todos": {
                "type": "array",
                "minItems": 1,
                "maxItems": 3,
                "items": {
                    "type": "object",
                    "properties": {
                        "content": _SHORT,
                        "status": {"enum": ["pending", "in_progress", "completed", "cancelled"]},
                        "priority": {"type": "string", "enum": ["high", "medium", "low"]},
                        "id": {"type": "string", "pattern": "^[a-z0-9]{1,8}$"},
                    },
                    "required": ["content", "status", "priority", "id"],
                    "additionalProperties": False,
                },
            }
        },
        "required": ["todos"],
        "additionalProperties": False,
    },
    "weather": {
        "type": "object",
        "properties": {
            "location": _SHORT,
            "unit": {"enum": ["celsius", "fahrenheit"]},
            "date": {"type": "string", "format": "date"},
            "detailed": {"type": "boolean"},
        },
        "required": ["location", "unit", "date", "detailed"],
        "additionalProperties": False,
    },
    "order": {
        "type": "object",
        "properties": {
            "customer": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/person"}]},
            "quantity": {"type": "integer", "exclusiveMinimum": 0, "maximum": 99},
        },
        "required": ["customer", "quantity"],
        "additionalProperties": False,
        "$defs": {
            "person": {
                "type": "object",
                "properties": {"name": _SHORT, "age": {"type": "integer", "minimum": 0, "maximum": 130}},
                "required": ["name", "age"],
                "additionalProperties": False,
            }
        },
    },
}
"""Arguments of tools that agents have: read a file, keep a list, ask for the weather, place an order."""


def measure(bundle_path: Path, count: int) -> int:
    """Generate `count` outputs, over all schemas in turn; returns how many are valid, and prints those that are not."""
    import jsonschema  # noqa: PLC0415 - only tests need it

    with open_bundle(bundle_path) as bundle:
        tokenizer = load_tokenizer(bundle)
        compiler = ConstraintCompiler(tokenizer)
        engine = Engine(load_host_program(bundle, 1024, 2), tokenizer, 1024, Metrics())
        engine.start()
        names = [list(SCHEMAS)[i % len(SCHEMAS)] for i in range(count)]
        running = []
        for seed, name in enumerate(names):
            text = f"<|im_start|>user\nCall the tool {name}.<|im_end|>\n<|im_start|>assistant\n"
            matcher = compiler.compile(ConstraintSpec("json_schema", SCHEMAS[name], "schema"))
            sampling = SamplingParams(1.0, seed=seed)
            running.append(
                engine.submit(
                    GenerationRequest(tuple(tokenizer.encode(text)), MAX_TOKENS, sampling, constraint=matcher)
                )
            )
        valid = 0
        for name, generation in zip(names, running, strict=True):
            for _ in generation.events():
                pass
            state = generation.state()
            try:
                jsonschema.Draft202012Validator(SCHEMAS[name]).validate(json.loads(state.text))
                valid += 1
            except json.JSONDecodeError as error:
                print(f"{name}: {state.finish_reason}: {error}: {state.text!r}")
            except jsonschema.ValidationError as error:
                print(f"{name}: {error.message}: {state.text!r}")
        engine.stop(5)
        return valid


if __name__ == "__main__":
    number = int(sys.argv[2]) if len(sys.argv) > 2 else 100
    print(f"{measure(Path(sys.argv[1]), number)} of {number} valid")
