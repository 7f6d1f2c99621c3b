"""Golden records at compile time: prompts run on the host's portable code, kept in the cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from ..artifacts.layout import Layout, encode_layout
from .build_cache import BuildCache, cache_key
from .tokenizer import TokenizerArtifact

GOLDEN_TEXTS = ("The capital of France is", "def fibonacci(n):\n    ")
MAX_PROMPT_TOKENS = 16

GoldenMaker = Callable[[Layout, Path, bytes, Sequence[Sequence[int]]], list[dict[str, object]]]
"""Runs prompts: (layout, path of weights.bin, the portable code object, prompts) -> golden records."""


def golden_prompts(tokenizer: TokenizerArtifact) -> list[list[int]]:
    """Token ids of the texts, never empty."""
    from tokenizers import Tokenizer  # noqa: PLC0415 - slow to import, and not needed by `rfc --help`

    encoder = Tokenizer.from_str(tokenizer.json)
    return [encoder.encode(text).ids[:MAX_PROMPT_TOKENS] or [0] for text in GOLDEN_TEXTS]


def golden_records(
    layout: Layout,
    weights: Path,
    weights_sha256: str,
    code: bytes,
    prompts: list[list[int]],
    cache: BuildCache,
    make_golden: GoldenMaker,
) -> list[dict[str, object]]:
    """The records of `prompts`, from the cache where the same weights and code have made them before."""
    key = cache_key(weights_sha256, encode_layout(layout), code, json.dumps(prompts))
    found = cache.get("golden", key)
    if found is not None:
        records: list[dict[str, object]] = json.loads(found)
        return records
    records = make_golden(layout, weights, code, prompts)
    cache.put("golden", key, json.dumps(records).encode())
    return records
