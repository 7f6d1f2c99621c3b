"""Long texts in pieces whose token ids, one after the other, are those of the whole.

The tokenizers library takes hundreds of bytes of memory for each character that it is given, and cannot be interrupted.
Byte-level BPE merges only within what its pre-tokenizer parts, so a text may be cut where that parts it as well. That
is known of the regular expressions below, which GPT-2's, Llama 3's and Qwen's pre-tokenizers consist of:

- none looks behind, so what follows a cut is parted as before;
- a match looks ahead no further than the end of its run of white space, and three characters;
- a text that ends with another character than white space is parted as it would be if it went on after the cut.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import tokenizers

PIECE_CHARS: Final = 8192
_LOOK_AHEAD: Final = 3

_CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
_ALTERNATIVES: Final = (
    _CONTRACTIONS,
    f"(?i:{_CONTRACTIONS})",
    "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])",
    r" ?\p{L}+",
    r"[^\r\n\p{L}\p{N}]?\p{L}+",
    r" ?\p{N}+",
    r"\p{N}+",
    r"\p{N}",
    r"\p{N}{1}",
    r"\p{N}{1,3}",
    r"[0-9][0-9][0-9]",
    r" ?[^\s\p{L}\p{N}]+",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"[\p{P}$+<=>^~|]+",
    r"\s*[\r\n]+",
    r"\s+(?!\S)",
    r"\s+",
)
_ONE = "|".join(map(re.escape, _ALTERNATIVES))
_KNOWN: Final = re.compile(rf"(?:{_ONE})(?:\|(?:{_ONE}))*")
# Each of them parts a letter from a space that a letter follows; most texts can be cut without asking the library.
_BETWEEN_WORDS: Final = re.compile(r"[A-Za-z](?= [A-Za-z])")


def can_cut(library: tokenizers.Tokenizer) -> bool:
    """Whether texts for this tokenizer can be cut: byte-level, with a pre-tokenizer of the expressions above alone."""
    if library.normalizer is not None or library.truncation is not None or library.padding is not None:
        return False
    if any(token.normalized and not token.special for token in library.get_added_tokens_decoder().values()):
        return False  # the library finds those itself, and a cut could go through one
    state = None if library.pre_tokenizer is None else library.pre_tokenizer.__getstate__()
    if not isinstance(state, bytes):
        return False
    stage = json.loads(state)
    stages = stage["pretokenizers"] if stage["type"] == "Sequence" else [stage]
    return all(map(_is_known, stages)) and stages[-1]["type"] == "ByteLevel"


def _is_known(stage: dict[str, Any]) -> bool:
    if stage["type"] == "ByteLevel":
        return not stage["add_prefix_space"]
    if stage["type"] == "Digits":
        return bool(stage["individual_digits"])
    if stage["type"] != "Split" or stage["behavior"] != "Isolated" or stage["invert"]:
        return False
    return _KNOWN.fullmatch(stage["pattern"].get("Regex", "")) is not None


def pieces(library: tokenizers.Tokenizer, text: str) -> Iterator[str]:
    """Cut a text for a tokenizer that `can_cut`; what cannot be cut, a word of megabytes, stays one piece."""
    start = 0
    while len(text) - start > PIECE_CHARS:
        stop = _next_cut(library, text, start)
        yield text[start:stop]
        start = stop
    yield text[start:]


def _next_cut(library: tokenizers.Tokenizer, text: str, start: int) -> int:
    """Where the piece ends that begins at `start`, which is the beginning of the text or a cut."""
    size = PIECE_CHARS
    words = [found.end() for found in _BETWEEN_WORDS.finditer(text, start + size // 2, start + size)]
    if words:
        return words[-1]
    while start + size < len(text):
        window = text[start : start + size]
        parts: list[tuple[str, tuple[int, int]]] = library.pre_tokenizer.pre_tokenize_str(window)
        for _, (at, _) in reversed(parts):
            if at > 0 and not window[at - 1].isspace() and window[at:-_LOOK_AHEAD].strip():
                return start + at
        size *= 2
    return len(text)
