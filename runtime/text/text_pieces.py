"""Long texts in pieces whose token ids, one after the other, are those of the whole.

The tokenizers library takes hundreds of bytes of memory for each character that it is given, and cannot be interrupted.
Byte-level BPE merges only within what its pre-tokenizer parts, so a text may be cut where that parts it as well. That
is known of the regular expressions below, which GPT-2's, Llama 3's and Qwen's pre-tokenizers consist of:

- none looks behind, so what follows a cut is parted as before;
- a match looks ahead no further than the end of its run of white space, and three characters;
- a text that ends with another character than white space is parted as it would be if it went on after the cut.

It is known of each rule of `tokenizer.ggml.pre` too, but that some of these part digits, or capitals, by what follows
all of them, and that some do not part words.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Any, Final

import tokenizers

from ...artifacts.dataclass import dataclass
from ...artifacts.pre_tokenizers import PRE_TOKENIZERS

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
_ROWS: Final = {row.splits: row for row in PRE_TOKENIZERS.values()}
# Most expressions part a letter from a space that a letter follows; most texts can be cut without asking the library.
_BETWEEN_WORDS: Final = re.compile(r"[A-Za-z](?= [A-Za-z])")


@dataclass(frozen=True, slots=True)
class Cuts:
    """Where texts for a tokenizer can be cut beside where its pre-tokenizer parts them.

    Attributes:
        words: between two words of ASCII, unseen.
        whole: not within a run of these categories of Unicode, by their first letters.
    """

    words: bool = True
    whole: str = ""


def can_cut(library: tokenizers.Tokenizer) -> Cuts | None:
    """Where texts for this tokenizer can be cut; None: nowhere, for it is not byte-level or none of the known ones."""
    if library.normalizer is not None or library.truncation is not None or library.padding is not None:
        return None
    if any(token.normalized and not token.special for token in library.get_added_tokens_decoder().values()):
        return None  # the library finds those itself, and a cut could go through one
    state = None if library.pre_tokenizer is None else library.pre_tokenizer.__getstate__()
    if not isinstance(state, bytes):
        return None
    stage = json.loads(state)
    stages = stage["pretokenizers"] if stage["type"] == "Sequence" else [stage]
    row = _ROWS.get(tuple(map(_expression, stages[:-1])))
    if not stages or stages[-1]["type"] != "ByteLevel" or not (row or all(map(_is_known, stages))):
        return None
    words = [text for text, _ in library.pre_tokenizer.pre_tokenize_str("a b")]
    return Cuts(len(words) > 1, "" if row is None else row.whole)


def _expression(stage: dict[str, Any]) -> str:
    """The expression whose matches become pieces, "" of a stage of another kind."""
    if stage["type"] != "Split" or stage["behavior"] != "Isolated" or stage["invert"]:
        return ""
    return str(stage["pattern"].get("Regex", ""))


def _is_known(stage: dict[str, Any]) -> bool:
    if stage["type"] == "ByteLevel":
        return not stage["add_prefix_space"]
    if stage["type"] == "Digits":
        return bool(stage["individual_digits"])
    return _KNOWN.fullmatch(_expression(stage)) is not None


def pieces(library: tokenizers.Tokenizer, text: str, cuts: Cuts) -> Iterator[str]:
    """Cut a text where its tokenizer `can_cut`; what cannot be cut, a word of megabytes, stays one piece."""
    start = 0
    while len(text) - start > PIECE_CHARS:
        stop = _next_cut(library, text, start, cuts)
        yield text[start:stop]
        start = stop
    yield text[start:]


def _next_cut(library: tokenizers.Tokenizer, text: str, start: int, cuts: Cuts) -> int:
    """Where the piece ends that begins at `start`, which is the beginning of the text or a cut."""
    size = PIECE_CHARS
    if cuts.words:
        words = [found.end() for found in _BETWEEN_WORDS.finditer(text, start + size // 2, start + size)]
        if words:
            return words[-1]
    while start + size < len(text):
        window = text[start : start + size]
        parts: list[tuple[str, tuple[int, int]]] = library.pre_tokenizer.pre_tokenize_str(window)
        for _, (at, _) in reversed(parts):
            if at == 0 or window[at - 1].isspace() or not window[at:-_LOOK_AHEAD].strip():
                continue
            if not all(unicodedata.category(char)[0] in cuts.whole for char in window[at - 1 : at + 1]):
                return start + at
        size *= 2
    return len(text)
