"""Stage: GGUF vocabulary in, `tokenizer.json` out.

The result gives the token ids that llama.cpp gives for the same file. Byte-level BPE is what the `tokenizers` library
reads; of the other rules, which the library does not follow to the id, it is a table that
`runtime/text/token_models/` reads.

Letters and numbers are those of the library's Unicode version. With tokenizers 0.23 (Unicode 16) that parts
from llama.cpp (Unicode 15.1) for the 4,382 code points, of planes 0 to 3, that are new letters or numbers.

Source: llama.cpp `src/llama-vocab.cpp` (behaviour), GGUF specification, "Tokenizer".
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..artifacts.dataclass import dataclass
from ..artifacts.errors import InputError, printable
from ..artifacts.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer
from ..artifacts.token_table import UNUSED, USER_DEFINED
from ..artifacts.tokenizer_config import MAX_VOCAB_SIZE, TokenizerConfig
from .special_tokens import SpecialTokens, end_tokens, fillable, infill_tokens, special_tokens
from .text_file import read_text_file
from .token_rules import ALWAYS_BOS, CHARACTER_MERGES, TOKEN_RULES, TokenRule, merges_table, stripping, table_of, within
from .tokenizer_metadata import TokenizerMetadata

if TYPE_CHECKING:
    from tokenizers import Tokenizer as LibraryTokenizer

log = logging.getLogger(__name__)

MAX_TOKENIZER_JSON_BYTES = 256 << 20

_MERGED = ("gpt2", "gemma4", "whitespace")  # models of pairs that are merged by rank


@dataclass(frozen=True, slots=True)
class TokenizerArtifact:
    """What of a tokenizer goes into a bundle.

    Attributes:
        json: text of `tokenizer.json`; equal inputs give equal text.
        config: special tokens, for the manifest.
        chat_template: Jinja source as the model has it, unchecked, or None.
    """

    json: str
    config: TokenizerConfig
    chat_template: str | None


def build_tokenizer(metadata: Mapping[str, object], path: Path) -> TokenizerArtifact:
    """Build the tokenizer that a GGUF file describes.

    Args:
        metadata: the file's key-value pairs; arrays as lists or NumPy arrays.
        path: the file, for messages.

    Raises:
        GgufError: the tokenizer is of a kind that is not supported, or its vocabulary contradicts itself.
    """
    gguf = TokenizerMetadata(metadata, path)
    model = gguf.text("tokenizer.ggml.model")
    if model not in TOKEN_RULES and model not in _MERGED:
        known = ", ".join((*_MERGED, *TOKEN_RULES))
        problem = f"expected one of {known}; found {model!r:.80}; give one with --tokenizer tokenizer.json"
        raise gguf.error("tokenizer.ggml.model", problem)
    pre = model if model != "gpt2" else gguf.optional_text("tokenizer.ggml.pre") or ""
    tokens = gguf.tokens()
    special = special_tokens(gguf, tokens, gguf.token_types(len(tokens)))
    if model in TOKEN_RULES:
        config = _gguf_config(gguf, TOKEN_RULES[model], tokens, special)
        text = table_of(gguf, TOKEN_RULES[model], tokens, special).to_json()
    elif pre in CHARACTER_MERGES:
        rule = TokenRule("rank_merges", add_bos=pre in ALWAYS_BOS, always_bos=pre in ALWAYS_BOS)
        config = _gguf_config(gguf, rule, tokens, special)
        text = merges_table(gguf, model, pre, tokens, special).to_json()
    else:
        row = _pre_tokenizer(gguf)
        text = _library_json(gguf, row, tokens, special)
        config = _gguf_config(gguf, TokenRule("rank_merges", add_bos=row.add_bos), tokens, special)
    return TokenizerArtifact(text, config, gguf.optional_text("tokenizer.chat_template"))


def _library_json(gguf: TokenizerMetadata, pre: PreTokenizer, tokens: list[str], special: SpecialTokens) -> str:
    """Return a `tokenizer.json` of byte-level BPE.

    Raises:
        GgufError: the merges are bad, or the library refuses it.
    """
    merges = gguf.merges(tokens) if pre.needs_merges or "tokenizer.ggml.merges" in gguf.pairs else []
    document = _document(pre, tokens, special, merges, stripping(gguf, tokens, special))
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    try:
        _load_library(text)
    except ValueError as error:
        raise gguf.error("tokenizer.ggml.tokens", f"the tokenizers library refuses it: {error}") from None
    return text


def load_tokenizer_json(path: Path, metadata: Mapping[str, object] | None = None) -> TokenizerArtifact:
    """Take a given `tokenizer.json` (option `--tokenizer`) in place of what the GGUF file describes.

    Whether BOS and EOS are added is read off the tokenizer's own behaviour. Ids of BOS and EOS, and the
    chat template, come from `metadata` where it has them. To what length texts are cut or padded is left out: it
    tells of the last training that saved the file, and `transformers` passes it over as well.

    Args:
        path: the `tokenizer.json`.
        metadata: key-value pairs of the GGUF file beside it, if any.

    Raises:
        InputError: the file cannot be read, or is not a tokenizer of that library, or names other special
            tokens than the GGUF file.
    """
    text = read_text_file(path, "tokenizer.json", "JSON", MAX_TOKENIZER_JSON_BYTES)
    try:
        library = _load_library(text)
        library.no_truncation()
        library.no_padding()
    except ValueError as error:
        raise InputError(path, "tokenizer.json", f"the tokenizers library refuses it: {error}") from None
    for token in library.get_added_tokens_decoder().values():
        if token.single_word:
            raise InputError(path, "added_tokens", f"single_word of {token.content!r:.80} is not supported")
    vocab = library.get_vocab(with_added_tokens=True)
    if not vocab:
        raise InputError(path, "model.vocab", "expected tokens, found none")
    last = max(vocab.values())
    if last >= MAX_VOCAB_SIZE:
        raise InputError(path, "model.vocab", f"expected ids below {MAX_VOCAB_SIZE}, found {last}")
    gguf = TokenizerMetadata(metadata or {}, path)
    config = _library_config(library, gguf, last + 1)
    # Round-tripped through `json`: a name or a space that its author chose does not change the digest.
    document = json.loads(text)
    document |= {name: None for name in ("truncation", "padding") if name in document}
    canonical = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return TokenizerArtifact(canonical, config, gguf.optional_text("tokenizer.chat_template"))


def _library_config(library: LibraryTokenizer, gguf: TokenizerMetadata, size: int) -> TokenizerConfig:
    """Return the special tokens of a given tokenizer of `size` ids, as it behaves and as the GGUF file says."""
    bare = library.encode("a", add_special_tokens=False).ids
    whole = library.encode("a", add_special_tokens=True).ids
    at = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
    front, back = whole[:at], whole[at + len(bare) :]
    if len(front) > 1 or len(back) > 1:
        problem = f"expected at most one token before and after the text, found {front} and {back}"
        raise InputError(gguf.path, "post_processor", problem)
    bos = front[0] if front else gguf.optional_id("bos", size)
    eos = back[0] if back else gguf.optional_id("eos", size)
    added = library.get_added_tokens_decoder()
    special = {token.content: i for i, token in added.items() if token.special}
    infill, _ = infill_tokens(gguf, special, size)
    ends = end_tokens(gguf, special, infill, size)
    if eos is not None:
        ends.add(eos)
    elif len(ends) == 1:
        eos = next(iter(ends))
    return TokenizerConfig(
        bos_token_id=bos,
        eos_token_ids=tuple(sorted(ends)),
        add_bos=bool(front),
        add_eos=bool(back),
        bos_token="" if bos is None else library.id_to_token(bos) or "",
        eos_token="" if eos is None else library.id_to_token(eos) or "",
        vocab_size=size,
        eos_token_id=eos,
        sep_token_id=gguf.optional_id("seperator", size),
        infill=fillable(infill),
    )


def byte_to_char() -> dict[int, str]:
    """Return GPT-2's map from bytes to printable characters: 256 distinct ones.

    Printable Latin-1 stands for itself; the rest, in order, take U+0100 and up.
    """
    printable_bytes = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [b for b in range(256) if b not in printable_bytes]
    shifted = {b: chr(0x100 + i) for i, b in enumerate(others)}
    return {b: shifted.get(b, chr(b)) for b in range(256)}


def _load_library(text: str) -> LibraryTokenizer:
    """Parse `tokenizer.json`; ValueError where the library refuses it."""
    from tokenizers import Tokenizer as LibraryTokenizer  # noqa: PLC0415 - slow to import, seldom needed

    try:
        return LibraryTokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception
        raise ValueError(str(error)) from None


def _pre_tokenizer(gguf: TokenizerMetadata) -> PreTokenizer:
    """Return the rule of the file's name for it; the default one, with a warning, where nobody knows the name."""
    name = gguf.optional_text("tokenizer.ggml.pre")
    if not name:
        log.warning("%s has no tokenizer.ggml.pre: using llama.cpp's default rule", printable(gguf.path))
    elif name not in PRE_TOKENIZERS:
        log.warning(
            "%s: tokenizer.ggml.pre %s is not known: using llama.cpp's default rule, which may not be the model's; "
            "give its own with --tokenizer tokenizer.json",
            printable(gguf.path),
            printable(repr(name), 80),
        )
    return PRE_TOKENIZERS.get(name or "default", PRE_TOKENIZERS["default"])


def _gguf_config(
    gguf: TokenizerMetadata, rule: TokenRule, tokens: list[str], special: SpecialTokens
) -> TokenizerConfig:
    """Return the special tokens of a vocabulary, by its keys and by what its rule has without them."""
    size = len(tokens)

    def named(name: str, otherwise: int | None) -> int | None:
        found = gguf.optional_id(name, size)
        return within(otherwise, tokens) if found is None else found

    bos, sep = named("bos", rule.bos), named("seperator", rule.sep)
    eos = sep if rule.kind == "word_pieces" else named("eos", rule.eos)
    add_bos = gguf.optional_bool("tokenizer.ggml.add_bos_token")
    add_eos = gguf.optional_bool("tokenizer.ggml.add_eos_token")
    if rule.kind in ("word_pieces", "longest_match") or (add_bos is False and rule.always_bos):
        add_bos = None  # whatever the file says
    if rule.kind in ("word_pieces", "longest_match"):
        add_eos = None
    if add_bos and bos is None:
        raise gguf.error("tokenizer.ggml.add_bos_token", "is true, but there is no tokenizer.ggml.bos_token_id")
    if add_eos and eos is None:
        raise gguf.error("tokenizer.ggml.add_eos_token", "is true, but there is no tokenizer.ggml.eos_token_id")
    return TokenizerConfig(
        bos_token_id=bos,
        eos_token_ids=tuple(sorted({*special.ends, *([] if eos is None else [eos])})),
        add_bos=(rule.add_bos and bos is not None) if add_bos is None else add_bos,
        add_eos=(rule.add_eos and eos is not None) if add_eos is None else add_eos,
        bos_token="" if bos is None else tokens[bos],
        eos_token="" if eos is None else tokens[eos],
        vocab_size=size,
        eos_token_id=eos,
        sep_token_id=sep,
        infill=special.infill,
    )


def _document(
    pre: PreTokenizer,
    tokens: list[str],
    special: SpecialTokens,
    merges: list[tuple[str, str]],
    strip: tuple[tuple[int, ...], tuple[int, ...]],
) -> dict[str, object]:
    """Return `tokenizer.json` as an object. Ids past the vocabulary stand for bytes that it lacks."""
    types = special.types
    named = {part for left, right in merges for part in (left, right, left + right)}
    vocab = {
        text: i for i, (text, kind) in enumerate(zip(tokens, types, strict=True)) if kind != UNUSED or text in named
    }
    # llama.cpp drops a byte that the vocabulary lacks, yet lets it part its neighbours. The library would
    # close the gap and merge across it; so such bytes get ids of their own, which the runtime drops.
    missing = [c for c in byte_to_char().values() if c not in vocab]
    vocab |= {c: len(tokens) + i for i, c in enumerate(missing)}
    added = [
        {
            "id": i,
            "content": tokens[i],
            "single_word": False,
            "lstrip": i in strip[0],
            "rstrip": i in strip[1],
            "normalized": False,
            "special": types[i] != USER_DEFINED,
        }
        for i in special.found
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    splits: list[dict[str, object]] = [
        {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False} for regex in pre.splits
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pre.ignore_merges,
            "vocab": vocab,
            "merges": merges,
        },
    }
