"""Continue a text, and get the same again by its seed: generate.py BUNDLE."""

import sys

import rocmforge

PARAMS = rocmforge.GenerationParams(max_tokens=24, temperature=0.8, top_p=0.95, seed=7)

with rocmforge.load(sys.argv[1]) as model:
    first = model.generate("Once upon a time", PARAMS)
    again = model.generate("Once upon a time", PARAMS)

print(first.text)
print(f"{len(first.token_ids)} tokens, ended by {first.finish_reason}; the same again: {first.text == again.text}")
