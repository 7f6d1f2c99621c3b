"""Vocabularies of our own, in which each boundary of a rule shows."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rocmforge.compiler.tokenizer import byte_to_char
from rocmforge.compiler.tokenizer_metadata import CONTROL, NORMAL

_LETTERS = "abAstRe1237²é'É \n\t.!/(<字か，…\u0301\u3000GIMZ"


def pairs() -> dict[str, Any]:
    """Return metadata of byte-level BPE that joins any two bytes of some characters, and some threes, in one order.

    What stands in one piece is joined across whatever a rule might part, so ids tell where it was parted.
    """
    chance = random.Random(5)
    to_char = byte_to_char()
    used = [to_char[byte] for byte in sorted(set(_LETTERS.encode()))]
    merges = [(left, right) for left in used for right in used]
    chance.shuffle(merges)
    threes = dict.fromkeys((left + right, chance.choice(used)) for left, right in merges[:600])
    threes["ĠĠ", "Ġ"] = None
    tokens = ["<s>", "</s>", "<|user|>", *to_char.values(), *map("".join, merges)]
    seen = set(tokens)
    merges += [pair for pair in threes if "".join(pair) not in seen]
    tokens += dict.fromkeys(text for pair in merges if (text := "".join(pair)) not in seen)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [CONTROL] * 3 + [NORMAL] * (len(tokens) - 3),
        "tokenizer.ggml.merges": [f"{left} {right}" for left, right in merges],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    }


def strings_of_pairs(count: int = 100) -> list[str]:
    """Return texts of the characters that `pairs` joins."""
    chance = random.Random(7)
    parts = [*_LETTERS, "12", "1234", "'s", "'Re", "ab cd", "HTML ", "  ", " \n", "<s>", "</s>", " (ab", "    "]
    parts += ["IMGIMGAGZ", "aIMG", " " * 6 + "a", "MA\u0301a"]
    return ["".join(chance.choice(parts) for _ in range(chance.randrange(2, 16))) for _ in range(count)]


def write_vocabulary(path: Path, metadata: Mapping[str, Any]) -> None:
    """Write a GGUF file of a vocabulary alone, as llama.cpp reads one."""
    from gguf import GGUFWriter  # noqa: PLC0415 - what tests take from here must not need it

    writer = GGUFWriter(str(path), "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(64)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(64)
    for key, value in metadata.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_array(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
