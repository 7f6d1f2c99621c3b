"""How text is cut before byte-pair merging, by the names of `tokenizer.ggml.pre`.

Source: llama.cpp `src/llama-vocab.cpp` (behaviour).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """How text is cut before byte-pair merging.

    Attributes:
        splits: regular expressions (Oniguruma), applied in turn to the pieces that the one before left;
            matches and the gaps between them both become pieces.
        ignore_merges: a piece that is itself a token is taken as it is.
        add_bos: what holds where the file does not say `tokenizer.ggml.add_bos_token`.
    """

    splits: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False


_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# The contractions are spelled out: with (?i) Oniguruma would fold more than ASCII (U+017F is an "s" to it).
_LLAMA3 = (
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|"
    r"\p{N}{%s}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_ROWS: tuple[tuple[tuple[str, ...], PreTokenizer], ...] = (
    (
        ("llama-bpe", "llama3", "llama-v3"),
        PreTokenizer((_LLAMA3 % "1,3",), ignore_merges=True, add_bos=True),
    ),
    (("smollm",), PreTokenizer((r"\p{N}", _GPT2))),
    (("qwen2", "deepseek-r1-qwen"), PreTokenizer((_LLAMA3 % "1",))),
    (("gpt-2",), PreTokenizer((_GPT2,))),
    # What llama.cpp does for files older than the key: not GPT-2's own rule.
    (
        ("default",),
        PreTokenizer((r"[\p{P}$+<=>^~|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")),
    ),
)
PRE_TOKENIZERS: Mapping[str, PreTokenizer] = {name: row for names, row in _ROWS for name in names}
