"""A conversation of two turns: chat.py BUNDLE."""

import sys
from typing import Any

import rocmforge

PARAMS = rocmforge.GenerationParams(max_tokens=48, temperature=0.0)

messages: list[dict[str, Any]] = [{"role": "system", "content": "Answer in one short sentence."}]
with rocmforge.load(sys.argv[1]) as model:
    for question in ("What is the capital of France?", "And of Italy?"):
        messages.append({"role": "user", "content": question})
        answer = model.chat(messages, PARAMS)
        messages.append(answer.message)
        print(f"> {question}\n{answer.content}")
