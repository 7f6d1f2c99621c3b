"""Print a text as it comes, and end it after the first sentence: stream.py BUNDLE."""

import contextlib
import sys

import rocmforge

PARAMS = rocmforge.GenerationParams(max_tokens=200, temperature=0.0)

with (
    rocmforge.load(sys.argv[1]) as model,
    contextlib.closing(model.stream("The three longest rivers of the world are", PARAMS)) as pieces,
):
    for piece in pieces:
        print(piece.text, end="", flush=True)
        if "." in piece.text:
            break  # the model stops computing when the stream is closed
print()
