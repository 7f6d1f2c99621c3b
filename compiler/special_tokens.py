"""Which tokens of a vocabulary are special, by what the file says and by their text.

Files often lack a key, or call a token that ends a turn a word like any other. llama.cpp goes by names then, and so do
we; of two tokens whose names would do, we take the one that is named first here.

Source: llama.cpp `src/llama-vocab.cpp` (behaviour).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..artifacts.dataclass import dataclass
from ..artifacts.token_table import CONTROL, NORMAL, UNKNOWN, USER_DEFINED
from ..artifacts.tokenizer_config import InfillTokens
from .tokenizer_metadata import TokenizerMetadata

FOUND = frozenset({UNKNOWN, CONTROL, USER_DEFINED})

# Tokens that end a generation, whatever the file says of them.
END_NAMES = (
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
)
# Of filling in the middle, by the field of `InfillTokens`: the keys, and the names that do without a key.
_INFILL = {
    "prefix": (
        ("fim_pre", "prefix"),
        (
            *("<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>"),
            *("<|code_prefix|>", "<|prefix|>"),
        ),
    ),
    "suffix": (
        ("fim_suf", "suffix"),
        (
            *("<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>"),
            *("<|code_suffix|>", "<|suffix|>"),
        ),
    ),
    "middle": (
        ("fim_mid", "middle"),
        (
            *("<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>"),
            *("<|code_middle|>", "<|middle|>"),
        ),
    ),
    "pad": (("fim_pad",), ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]")),
    "repo": (("fim_rep",), ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>")),
    "separator": (("fim_sep",), ("<|file_sep|>",)),
}
END_KEYS = ("eos", "eot", "eom")


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """The special tokens of a vocabulary.

    Attributes:
        types: int[T] of `tokenizer.ggml.token_type`, with those whose text makes them control tokens.
        ends: ids that end a generation, ascending.
        infill: ids for filling in the middle; none where the model cannot.
    """

    types: list[int]
    ends: tuple[int, ...]
    infill: InfillTokens

    @property
    def found(self) -> list[int]:
        """Ids of those that are found in a text before it is parted."""
        return [i for i, kind in enumerate(self.types) if kind in FOUND]


def special_tokens(gguf: TokenizerMetadata, tokens: Sequence[str], types: Sequence[int]) -> SpecialTokens:
    """Find the special tokens of a vocabulary, by keys and names.

    Raises:
        GgufError: a key names no token of it.
    """
    ids = {text: i for i, text in enumerate(tokens)}
    infill, found = infill_tokens(gguf, ids, len(tokens))
    ends = end_tokens(gguf, ids, infill, len(tokens))
    kinds = list(types)
    for i in (*found, *(ids[name] for name in END_NAMES if name in ids)):
        kinds[i] = CONTROL
    if "</s>" in ids and ids["</s>"] not in ends:
        kinds[ids["</s>"]] = NORMAL
    return SpecialTokens(kinds, tuple(sorted(ends)), fillable(infill))


def infill_tokens(gguf: TokenizerMetadata, ids: Mapping[str, int], size: int) -> tuple[InfillTokens, tuple[int, ...]]:
    """Find the tokens for filling in the middle, and those of them that a name told.

    Raises:
        GgufError: a key names no token of the `size` that there are.
    """
    tokens, found = InfillTokens(), []
    for field, (keys, names) in _INFILL.items():
        by_key = [i for key in keys if (i := gguf.optional_id(key, size)) is not None]
        by_name = [ids[name] for name in names if name in ids][: not by_key]
        found += by_name
        tokens = replace(tokens, **{field: next(iter((*reversed(by_key), *by_name)), None)})
    return tokens, tuple(found)


def fillable(infill: InfillTokens) -> InfillTokens:
    """What a model can fill in the middle with: nothing, where it lacks one of the three that mark it."""
    return InfillTokens() if None in (infill.prefix, infill.suffix, infill.middle) else infill


def end_tokens(gguf: TokenizerMetadata, ids: Mapping[str, int], infill: InfillTokens, size: int) -> set[int]:
    """Return the tokens that end a generation: by key, and those of `ids` by name.

    Raises:
        GgufError: a key names no token of the `size` that there are.
    """
    ends = {i for i in (infill.pad, infill.repo, infill.separator) if i is not None}  # another file, not an answer
    ends |= {ids[name] for name in END_NAMES if name in ids}
    ends -= {ids[name] for name in _no_ends({name for name, i in ids.items() if i in ends})}
    return ends | {i for key in END_KEYS if (i := gguf.optional_id(key, size)) is not None}


def _no_ends(names: set[str]) -> set[str]:
    """Names among those of the ends that end nothing beside the others: a part of an answer, or a word."""
    none = set()
    calls = names & {"<|call|>", "<|calls|>"}
    if "<|end|>" in names and calls and names & {"<|return|>", "<|flush|>"}:
        none.add("<|end|>")  # ends a channel of gpt-oss, a part of Solar Open
    if "</s>" in names and names & {"<|tool_response>", "<|plamo:eos|>"}:
        none.add("</s>")  # of HTML, to Gemma 4 and PLaMo
    return none
