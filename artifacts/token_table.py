"""A vocabulary as a bundle's `tokenizer.json` holds it where the tokenizers library has no model that gives its ids."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict
from typing import Literal

from .dataclass import dataclass
from .decoded_types import learn

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
        import msgspec  # noqa: PLC0415 - most vocabularies are no tables, and do not wait for it

        kind = dict[str, TokenTable]
        learn(kind)
        try:
            table: TokenTable = msgspec.json.decode(text, type=kind)["token_table"]
        except (KeyError, msgspec.DecodeError) as error:
            raise ValueError(f"expected a table of tokens, found another document: {error}") from None
        count = len(table.texts)
        sizes = (len(table.types), len(table.scores) or count)
        if sizes != (count, count):
            raise ValueError(f"expected types and scores of {count} tokens, found {sizes[0]} and {sizes[1]}")
        ids = [*table.strip_left, *table.strip_right, *(() if table.unknown is None else (table.unknown,))]
        if wrong := [one for one in ids if not 0 <= one < count]:
            raise ValueError(f"expected ids of {count} tokens, found {wrong[0]}")
        return table


def is_token_table(text: str) -> bool:
    """Whether a `tokenizer.json` holds a table, and not what the library reads."""
    return text.startswith(_BEGINNING)
