"""Texts that tokenizers trip over."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

HARD_STRINGS = Path(__file__).resolve().parents[3] / "tests" / "data" / "hard_strings.json"
# What rules tell apart: scripts, cases, marks, digits, apostrophes, white space of many kinds, and what looks special.
_PARTS = (
    *"aZsé字٣1²9 \t\n\r'.!$_|<😀(/-K,?",
    *("\u0301", "\x85", "\u3000", "\x1c", "\0", "'s", "  ", "12", "ab cd", "'LL", "\r\n", "\t\tb", "123", "1234567"),
    *(" (foo", "HelloWorld", "HTML", "ÉCOLE", "ภาษา", "हिन्दी", "한국어", "かな", "「", "…", "，", "'Re", "\u2028", "ſ"),
    *("\u2581", "Ωx", "ᾼ", "\ufffd", "IMGIMGABZ", "<sentinel:12>", "    ", " 'tis", "/\n", "/", "\u0e33", "ﷺ"),
    *("\U000e0001", "\ufeff", "\n\n\n", " the", "Straße", "ﬁ", "İ", "<0x0A>", "\u00ad", "½", "Ⅷ", "\u200d", "A.B.C."),
)


def hard_strings(seed: str, special: Sequence[str], count: int) -> list[str]:
    """Return the repository's hard strings and `count` more, in which texts of `special` tokens turn up."""
    chance = random.Random(seed)
    texts: list[str] = json.loads(HARD_STRINGS.read_text(encoding="utf-8"))
    for _ in range(count):
        lists = [special if special and chance.random() < 0.12 else _PARTS for _ in range(chance.randrange(1, 14))]
        texts.append("".join(chance.choice(parts) for parts in lists))
    return texts
