"""What each `tokenizer.ggml.model` is: its rule, and what holds where the file does not say.

Source: llama.cpp `src/llama-vocab.cpp` (behaviour).
"""

from __future__ import annotations

from collections.abc import Mapping

from ..artifacts.dataclass import dataclass
from ..artifacts.token_table import Kind, Parts, TokenTable
from .special_tokens import SpecialTokens
from .tokenizer_metadata import TokenizerMetadata


@dataclass(frozen=True, slots=True)
class TokenRule:
    """How a model of tokens works, and its special tokens where no key names them.

    Attributes:
        kind: of `TokenTable`.
        add_bos: whether a text begins with `bos`.
        add_eos: whether it ends with `eos`; of an encoder, with `sep`.
        bos: id of the beginning.
        eos: id of the end.
        sep: id of what parts two texts.
        unknown: id of what stands for a text that no token holds.
        space_first: a text begins with a space that is not written.
        scored: whether tokens have scores.
        always_bos: `add_bos` holds even where the file says that it does not.
    """

    kind: Kind
    add_bos: bool = False
    add_eos: bool = False
    bos: int | None = None
    eos: int | None = None
    sep: int | None = None
    unknown: int | None = None
    space_first: bool = False
    scored: bool = True
    always_bos: bool = False


TOKEN_RULES: Mapping[str, TokenRule] = {
    "llama": TokenRule("score_merges", add_bos=True, bos=1, eos=2, unknown=0, space_first=True),
    "bert": TokenRule("word_pieces", add_bos=True, add_eos=True, bos=101, sep=102, unknown=100, scored=False),
    "t5": TokenRule("unigram", add_eos=True, eos=1, unknown=2),
    "rwkv": TokenRule("longest_match", scored=False),
    "plamo2": TokenRule("plamo2", bos=1, eos=2, unknown=0),
}
# Merges over characters that are not spelled by their bytes, by the name of `tokenizer.ggml.pre`.
CHARACTER_MERGES: Mapping[str, Parts] = {
    "gemma4": "newline_tokens",
    "granite-embed-multi-311m": "newline_tokens",
    "sarvam-moe": "lines",
    "mmbert": "words",
    "whitespace": "spaces",
}
# Those of them that begin a text with BOS whatever the file says.
ALWAYS_BOS = ("gemma4", "granite-embed-multi-311m")


def table_of(gguf: TokenizerMetadata, rule: TokenRule, tokens: list[str], special: SpecialTokens) -> TokenTable:
    """Return the table of a vocabulary.

    Raises:
        GgufError: a key of it has a wrong value.
    """
    lowercase = gguf.optional_bool("tokenizer.ggml.normalizer.lowercase")
    accents = gguf.optional_bool("tokenizer.ggml.normalizer.strip_accents")
    space_first = gguf.optional_bool("tokenizer.ggml.add_space_prefix")
    strip_left, strip_right = stripping(gguf, tokens, special)
    words = rule.kind == "word_pieces"
    unknown = gguf.optional_id("unknown", len(tokens))
    return TokenTable(
        rule.kind,
        tuple(tokens),
        tuple(special.types),
        tuple(gguf.scores(len(tokens))) if rule.scored else (),
        unknown=within(rule.unknown, tokens) if unknown is None else unknown,
        space_first=rule.space_first if space_first is None else space_first,
        merge_spaces=bool(gguf.optional_bool("tokenizer.ggml.remove_extra_whitespaces")),
        lowercase=words and lowercase is not False,
        strip_accents=words and (lowercase is not False if accents is None else accents),
        charsmap=gguf.charsmap() if rule.kind == "unigram" else b"",
        strip_left=strip_left,
        strip_right=strip_right,
    )


def merges_table(
    gguf: TokenizerMetadata, model: str, pre: str, tokens: list[str], special: SpecialTokens
) -> TokenTable:
    """Return the table of a vocabulary of merges over characters.

    Raises:
        GgufError: a key of it has a wrong value.
    """
    strip_left, strip_right = stripping(gguf, tokens, special)
    return TokenTable(
        "rank_merges",
        tuple(tokens),
        tuple(special.types),
        merges=tuple(f"{left} {right}" for left, right in gguf.merges(tokens)),
        parts="no_spaces" if model == "whitespace" else CHARACTER_MERGES[pre],
        lowercase=bool(gguf.optional_bool("tokenizer.ggml.normalizer.lowercase")),
        strip_left=strip_left,
        strip_right=strip_right,
    )


def within(token: int | None, tokens: list[str]) -> int | None:
    """Return an id that the vocabulary has, else None."""
    return token if token is not None and token < len(tokens) else None


def stripping(
    gguf: TokenizerMetadata, tokens: list[str], special: SpecialTokens
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the special tokens that take the white space before them, and after them: no key tells, names do."""
    pre = gguf.optional_text("tokenizer.ggml.pre") or ""
    architecture = gguf.optional_text("general.architecture") or ""
    name = (gguf.optional_text("general.name") or "").lower()
    masks = ("jina-v2-de", "jina-v2-es", "jina-v2-code", "mmbert")
    if any(part in pre for part in masks) or architecture in ("nomic-bert-moe", "jina-bert-v3"):
        return tuple(i for i, text in enumerate(tokens) if text == "<mask>"), ()
    if "phi-3" in name or "phi3" in name:
        plain = ("<unk>", "<s>", "<|endoftext|>")
        return (), tuple(i for i in special.found if tokens[i] not in plain)
    if "modern-bert" in name:
        return tuple(i for i, text in enumerate(tokens) if text == "[MASK]"), ()
    return (), ()
