"""What the tests of clients ask, and the settings that they share."""

from __future__ import annotations

from typing import Any

MODEL = "smollm2"
QUESTION = "What is the capital of France? One sentence."
ANSWER = "The capital of France is Paris."  # what SmolLM2 says to that, greedily
WEATHER = "What is the weather in Paris?"
CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "get_weather", "parameters": CITY}}
EMBEDDING_LENGTH = 576


def user(text: str) -> list[Any]:
    """A conversation of one question."""
    return [{"role": "user", "content": text}]


def cosine(first: list[float], second: list[float]) -> float:
    """How alike two embeddings are."""
    product = sum(a * b for a, b in zip(first, second, strict=True))
    lengths = sum(a * a for a in first) * sum(b * b for b in second)
    return float(product / lengths**0.5)
