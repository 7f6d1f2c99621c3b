"""What llama.cpp makes of our own vocabularies, as tests keep it: a digest of the ids a text."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rocmforge.artifacts.pre_tokenizers import PRE_TOKENIZERS
from rocmforge.compiler.token_rules import CHARACTER_MERGES

from .oracle import ask
from .vocabularies import (
    longest,
    merged,
    pairs,
    scored,
    strings_of_pairs,
    strings_of_words,
    worded,
    write_vocabulary,
)

VECTORS = Path(__file__).resolve().parents[3] / "tests" / "data" / "tokenizer_vectors.json"


def digest(ids: Sequence[Sequence[int]]) -> str:
    """Return what is kept of a text's ids, without control tokens and with them."""
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:8]


def cases() -> Iterator[tuple[str, Mapping[str, Any], list[str]]]:
    """Our vocabularies by name, with their texts: that of pairs under one name of each rule of pre-tokenizing."""
    texts, metadata, seen = strings_of_pairs(), pairs(), set()
    for name, rule in PRE_TOKENIZERS.items():
        if (rule.splits, rule.ignore_merges) not in seen:
            seen.add((rule.splits, rule.ignore_merges))
            yield f"pairs {name}", {**metadata, "tokenizer.ggml.pre": name}, texts
    texts = strings_of_words()
    for model in ("llama", "t5", "plamo2"):
        yield model, scored(model), texts
    spaces = {"tokenizer.ggml.add_space_prefix": True, "tokenizer.ggml.remove_extra_whitespaces": False}
    yield "llama without a space first", scored("llama") | {"tokenizer.ggml.add_space_prefix": False}, texts
    yield "t5 with a space first", scored("t5") | spaces, texts
    yield "t5 with spaces merged", scored("t5") | {"tokenizer.ggml.remove_extra_whitespaces": True}, texts
    for pre in CHARACTER_MERGES:
        if pre != "whitespace":  # with which llama.cpp aborts on two spaces
            yield f"merged {pre}", merged(pre), texts
    yield "gemma4", merged("") | {"tokenizer.ggml.model": "gemma4"}, texts
    yield "whitespace", merged("whitespace") | {"tokenizer.ggml.model": "whitespace"}, texts
    for lowercase in (False, True):
        yield f"bert{' of small letters' * lowercase}", worded(lowercase), texts
    yield "rwkv", longest(), texts


def write_vectors(program: Path) -> int:
    """Write the digests of all cases; returns how many vocabularies there are."""
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, metadata, texts in cases():
            path = Path(folder) / "vocabulary.gguf"
            write_vocabulary(path, metadata)
            rows[name] = " ".join(map(digest, ask(program, path, texts).ids))
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
    VECTORS.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    return len(rows)
