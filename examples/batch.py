"""Continue several texts together: batch.py BUNDLE."""

import sys

import rocmforge

PROMPTS = ["The capital of France is", "The capital of Italy is", "Two and two are", "A cat is"]

with rocmforge.load(sys.argv[1]) as model:
    answers = model.generate(PROMPTS, rocmforge.GenerationParams(max_tokens=12, temperature=0.0, stop="\n"))

for prompt, answer in zip(PROMPTS, answers, strict=True):
    print(f"{prompt}{answer.text}")
