"""Vocabularies of our own, in which each boundary of a rule shows."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gguf import GGUFWriter

from rocmforge.artifacts.token_table import CONTROL, NORMAL
from rocmforge.compiler.tokenizer import byte_to_char

_LETTERS = "abAstRe1237²é'É \n\t.!/(<字か，…\u0301\u3000GIMZ€"


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
    parts += ["IMGIMGAGZ", "aIMG", " " * 6 + "a", "MA\u0301a", "€  "]
    made = ["".join(chance.choice(parts) for _ in range(chance.randrange(2, 16))) for _ in range(count)]
    return [*made, "€  ", "a€   ", "か€ \n  "]


_LATIN = "the there quick ing er brown fox ab abc cab fiancé fi an naïve Straße 12 123 e\u0301 's n't"
_WORDS = [*_LATIN.split(), "...", "—", "日本", "本語", "語", "한국", "स्ते"]


def _parts() -> list[str]:
    """All that is written in a row within the words, in order."""
    return sorted({word[at:end] for word in _WORDS for at in range(len(word)) for end in range(at + 1, len(word) + 1)})


def scored(model: str) -> dict[str, Any]:
    """Return metadata of a vocabulary for `llama`, `t5` or `plamo2`: words, their parts, the bytes, and some spaces.

    Several scores are equal, so that it shows which of two unions comes first, and some characters are no tokens.
    """
    chance = random.Random(11)
    kept = [part for part in _parts() if part in _WORDS or chance.random() < 0.7]
    spaced = sorted({"\u2581" + part for part in kept if chance.random() < 0.5})
    spaces = ["\u2581", "\u2581\u2581", "\u2581" * 4, "\n", "\n\n", "\n" * 5, "a\u2581b"]
    words = list(dict.fromkeys([*kept, *spaced, "\u2581b", *spaces]))
    special = ["<unk>", "<s>", "</s>", "<|user|>"]
    marked = ["<b>", "<|x|>"]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *words, *marked]
    scores = [0.0] * (4 + 256) + [-float(chance.randrange(3, 90)) / 4 for _ in words] + [0.0, 0.0]
    return {
        "tokenizer.ggml.model": model,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": [2, 3, 3, 3] + [6] * 256 + [1] * len(words) + [4, 4],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


def merged(pre: str) -> dict[str, Any]:
    """Return metadata of merges over characters: those of `scored`, joined as they come."""
    source = scored("gpt2")
    known = set(source["tokenizer.ggml.tokens"])
    merges = [
        f"{text[:cut]} {text[cut:]}"
        for text in sorted(known, key=lambda text: (len(text), text))
        for cut in range(1, len(text))
        if text[:cut] in known and text[cut:] in known
    ]
    kept = {key: value for key, value in source.items() if not key.endswith(("scores", "unknown_token_id"))}
    return kept | {"tokenizer.ggml.pre": pre, "tokenizer.ggml.merges": merges}


def worded(lowercase: bool) -> dict[str, Any]:
    """Return metadata of a vocabulary for `bert`: beginnings of words and what goes on in them."""
    parts = _parts()
    more = [*"abcdefghijklmnopqrstuvwxyzABC0123456789", *".,!?-'(…—「日本語", "한", "ह"]
    begin = ["\u2581" + part for part in sorted({*parts, *more})]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *begin, *parts]
    return {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * 5 + [1] * (len(tokens) - 5),
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.seperator_token_id": 3,
        "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.normalizer.lowercase": lowercase,
    }


def longest() -> dict[str, Any]:
    """Return metadata of a vocabulary for `rwkv`: every byte, and some words, in its spelling."""
    single = [f"\\x{byte:02x}" for byte in range(256)]
    words = [" the", " there", "ab", "abc", "\\n\\n", "\\\\", "\\t\\t", "日本", "\\xe6\\x97", "12", "  "]
    return {
        "tokenizer.ggml.model": "rwkv",
        "tokenizer.ggml.tokens": ["<s>", *single, *words],
        "tokenizer.ggml.token_type": [3] + [1] * (256 + len(words)),
    }


def strings_of_words(count: int = 60) -> list[str]:
    """Return texts of the words of the vocabularies above, and of what stands between words."""
    chance = random.Random(13)
    parts = [
        *_WORDS,
        *"abceghinrt123é日本한字",
        " ",
        " ",
        "  ",
        "     ",
        "\n",
        "\n\n",
        "\n\n\n",
        "\t",
        "<s>",
        "<b>",
        "<|x|>",
    ]
    parts += [
        "\u2581",
        "\ufeff",
        "É",
        "Ab",
        "\u3000",
        "\0",
        "\u00ad",
        "İ",
        "[MASK]",
        "…",
        "<0x41>",
        "😀",
        "\\",
        "<|x|>",
    ]
    made = ["".join(chance.choice(parts) for _ in range(chance.randrange(1, 16))) for _ in range(count)]
    return [*made, "\n" * 5, "a" + "\n" * 5 + "b", "a b", "the a b ab", "a b" * 30]


def write_vocabulary(path: Path, metadata: Mapping[str, Any]) -> None:
    """Write a GGUF file of a vocabulary alone, as llama.cpp reads one."""
    writer = GGUFWriter(str(path), "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(64)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(64)
    add_pairs(writer, metadata)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def add_pairs(writer: GGUFWriter, metadata: Mapping[str, Any]) -> None:
    """Add metadata to a file that is written."""
    for key, value in metadata.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_array(key, value)
