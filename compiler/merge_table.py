"""Stage: `tokenizer.json` in, the tables of `merges.bin` out, where it is byte-level BPE."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

from ..artifacts.merge_table import AddedToken, MergeTable

_UNUSED = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")


def merge_table(json_text: str) -> MergeTable | None:
    """Return the tables of a `tokenizer.json`; None where these could not give all that the library does of it."""
    document = json.loads(json_text)
    model = document.get("model") or {}
    if model.get("type") != "BPE" or any(map(model.get, _UNUSED)) or document.get("normalizer") is not None:
        return None
    if (document.get("decoder") or {}).get("type") != "ByteLevel":
        return None  # its tokens are text as they are spelled, or by some other rule
    vocab: dict[str, int] = model["vocab"]
    added = Tokenizer.from_str(json_text).get_added_tokens_decoder()
    if any(one.normalized and not one.special for one in added.values()):
        return None  # the library finds those itself
    if not vocab.keys() >= set(ByteLevel.alphabet()):
        return None
    rules = document | {"added_tokens": [], "model": model | {"vocab": {}, "merges": []}}
    return MergeTable.of(
        json.dumps(rules, ensure_ascii=False, separators=(",", ":")),
        [AddedToken(one.content, i, one.special, one.lstrip, one.rstrip) for i, one in sorted(added.items())],
        vocab,
        map(_parts, model["merges"]),
        bool(model.get("ignore_merges")),
    )


def _parts(merge: Any) -> tuple[str, str]:
    """Both parts of a merge, as either form of the file has it."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right
