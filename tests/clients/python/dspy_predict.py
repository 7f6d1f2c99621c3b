"""DSPy: a language model called plainly, a signature whose answer is JSON, and a model of texts."""

import json
import sys

import dspy

URL, MODEL, QUESTION, WEATHER = sys.argv[1:]
common = {"api_base": f"{URL}/v1", "api_key": "none", "temperature": 0.0, "cache": False, "num_retries": 0}


class Place(dspy.Signature):
    """Name the city that a question is about."""

    question: str = dspy.InputField()
    city: str = dspy.OutputField()


chat = dspy.LM(f"openai/{MODEL}", max_tokens=60, **common)
found = {"answer": chat(QUESTION)}
with dspy.context(lm=chat, adapter=dspy.JSONAdapter()):
    found["json"] = dspy.Predict(Place)(question=WEATHER).city
    found["tokens"] = chat.history[-1]["usage"]["completion_tokens"]
text = dspy.LM(f"text-completion-openai/{MODEL}", model_type="text", max_tokens=8, **common)
found["text"] = text("The capital of France is")
print(json.dumps(found))
