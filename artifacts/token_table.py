"""A vocabulary as a bundle's `tokenizer.json` holds it where the tokenizers library has no model that gives its ids."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict
from typing import Literal, get_args

from .dataclass import dataclass

# `tokenizer.ggml.token_type`. Source: GGUF specification.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

Kind = Literal["score_merges", "rank_merges", "unigram", "word_pieces", "longest_match", "plamo2"]
Parts = Literal["lines", "newline_tokens", "words", "spaces", "no_spaces"]
_BEGINNING = '{"token_table":'


@dataclass(frozen=True, slots=True)
class TokenTable:
    """Tokens with all that their rule needs.

    Attributes:
        kind: the rule by which a text is parted into tokens.
        texts: of each token, distinct; as the GGUF spells them.
        types: of each token, one of those above.
        scores: float32 of each token; empty where the rule has no use for them.
        merges: pairs of tokens with a space between, best first.
        parts: what a text is parted into before merging by rank: lines and what ends them (where the end of several
            may be a token), words that each begin with a space, or words and the white space between them, which may
            be left out.
        unknown: id of what stands for a text that no token holds, or None.
        space_first: a text begins with a space that is not written.
        merge_spaces: several spaces are one, and those around a text none.
        lowercase: capitals are made small.
        strip_accents: marks are dropped, and letters taken apart from theirs.
        charsmap: SentencePiece's precompiled map of characters, maybe empty.
        strip_left: ids of special tokens that take the white space before them.
        strip_right: those that take the white space after them.
    """

    kind: Kind
    texts: tuple[str, ...]
    types: tuple[int, ...]
    scores: tuple[float, ...] = ()
    merges: tuple[str, ...] = ()
    parts: Parts = "lines"
    unknown: int | None = None
    space_first: bool = False
    merge_spaces: bool = False
    lowercase: bool = False
    strip_accents: bool = False
    charsmap: bytes = b""
    strip_left: tuple[int, ...] = ()
    strip_right: tuple[int, ...] = ()

    def to_json(self) -> str:
        """Return the text of `tokenizer.json`; equal tables give equal text."""
        fields = asdict(self) | {"charsmap": base64.b64encode(self.charsmap).decode()}
        return json.dumps({"token_table": fields}, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> TokenTable:
        """Read what `to_json` wrote.

        Raises:
            ValueError: it is something else.
        """
        try:
            fields = json.loads(text)["token_table"]
            lists = ("texts", "types", "scores", "merges", "strip_left", "strip_right")
            fields |= {name: tuple(fields[name]) for name in lists}
            table = cls(**fields | {"charsmap": base64.b64decode(fields["charsmap"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"expected a table of tokens, found {error!r:.80}") from None
        sizes = (len(table.types), len(table.scores) or len(table.texts))
        if table.kind not in get_args(Kind) or table.parts not in get_args(Parts) or sizes != (len(table.texts),) * 2:
            raise ValueError(f"expected a table of tokens, found {table.kind!r:.80} of {len(table.texts)}, {sizes}")
        return table


def is_token_table(text: str) -> bool:
    """Whether a `tokenizer.json` holds a table, and not what the library reads."""
    return text.startswith(_BEGINNING)
