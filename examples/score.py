"""Which continuation is likelier, and the perplexity of a text: score.py BUNDLE."""

import math
import sys

import rocmforge

PROMPT, ENDS = "The capital of France is", [" Paris.", " London.", " blue."]
TEXT = "The quick brown fox jumps over the lazy dog."

with rocmforge.load(sys.argv[1]) as model:
    for end, score in zip(ENDS, model.score([PROMPT] * len(ENDS), ENDS), strict=True):
        print(f"{score.total:8.3f} {PROMPT}{end}")
    ids = model.encode(TEXT)
    rest = model.score(ids[:1], ids[1:])

print(f"perplexity {math.exp(-rest.total / len(rest.logprobs)):.2f} of: {TEXT}")
