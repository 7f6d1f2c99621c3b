"""What llama.cpp makes of our own vocabularies, as tests keep it: a digest of the ids a text."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rocmforge.artifacts.pre_tokenizers import PRE_TOKENIZERS

from .oracle import ask
from .vocabularies import pairs, strings_of_pairs, write_vocabulary

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
