"""Which of some texts is nearest to a question: embeddings.py BUNDLE."""

import sys

import rocmforge

TEXTS = ["Cats sleep for most of the day.", "The stock market fell on Monday.", "Bread is baked from flour and water."]
QUESTION = "How long do cats sleep?"

with rocmforge.load(sys.argv[1]) as model:
    vectors = model.embed(TEXTS)
    question = model.embed(QUESTION)

cosines = [float(vector @ question) for vector in vectors]  # all have length 1
for cosine, text in sorted(zip(cosines, TEXTS, strict=True), reverse=True):
    print(f"{cosine:.3f} {text}")
