"""Small tokenizers: the metadata of one in a GGUF file, and one of bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rocmforge.artifacts.token_table import CONTROL, NORMAL
from rocmforge.compiler.tokenizer import build_tokenizer, byte_to_char
from rocmforge.runtime.text.tokenizer import Tokenizer


def tiny(**changes: Any) -> dict[str, object]:
    """Metadata of a small valid vocabulary: the bytes, three merges, two special tokens."""
    tokens = ["<s>", "<|im_end|>", *byte_to_char().values(), "ab", "abc", "Ġa"]
    metadata: dict[str, object] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array([CONTROL] * 2 + [NORMAL] * (len(tokens) - 2), np.int32),
        "tokenizer.ggml.merges": ["a b", "ab c", "Ġ a"],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    }
    metadata |= {f"tokenizer.ggml.{name}": value for name, value in changes.items()}
    return {name: value for name, value in metadata.items() if value is not None}


def byte_tokenizer(*more: str) -> Tokenizer:
    """Two control tokens, then the 256 bytes in order, then "ab", then more control tokens."""
    tokens = ["<s>", "<|im_end|>", *byte_to_char().values(), "ab", *more]
    artifact = build_tokenizer(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "gpt-2",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [CONTROL] * 2 + [NORMAL] * 257 + [CONTROL] * len(more),
            "tokenizer.ggml.merges": ["a b"],
            "tokenizer.ggml.bos_token_id": 0,
            "tokenizer.ggml.eos_token_id": 1,
        },
        Path("tiny.gguf"),
    )
    return Tokenizer(artifact.json, artifact.config)


TINY = byte_tokenizer()
