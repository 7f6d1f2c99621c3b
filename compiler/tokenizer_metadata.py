"""What a GGUF file says of its tokenizer, each key checked as it is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from ..artifacts.dataclass import dataclass
from ..artifacts.errors import GgufError
from ..artifacts.token_table import NORMAL
from ..artifacts.tokenizer_config import MAX_VOCAB_SIZE


@dataclass(frozen=True, slots=True)
class TokenizerMetadata:
    """Typed access to a GGUF file's key-value pairs; every failure names the key."""

    pairs: Mapping[str, object]
    path: Path

    def error(self, key: str, problem: str) -> GgufError:
        """Return the error that `key` of this file has `problem`."""
        return GgufError(self.path, key, problem)

    def text(self, key: str) -> str:
        """Read a string that has to be there."""
        value = self.optional_text(key)
        if value is None:
            raise self.error(key, "expected a string, found nothing")
        return value

    def optional_text(self, key: str) -> str | None:
        """Read a string; None where the key is absent."""
        value = self.pairs.get(key)
        if value is not None and not isinstance(value, str):
            raise self.error(key, f"expected a string, found {type(value).__name__}")
        return value

    def optional_bool(self, key: str) -> bool | None:
        """Read a boolean; None where the key is absent."""
        value = self.pairs.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.error(key, f"expected a boolean, found {type(value).__name__}")
        return value

    def optional_id(self, name: str, size: int) -> int | None:
        """Read `tokenizer.ggml.<name>_token_id`, which must be below `size`."""
        key = f"tokenizer.ggml.{name}_token_id"
        value = self.pairs.get(key)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < size:
            raise self.error(key, f"expected a token id below {size}, found {value!r:.80}")
        return value

    def strings(self, key: str) -> list[str]:
        """Read an array of strings that UTF-8 can hold, and that has to be there."""
        value = self.pairs.get(key)
        if value is None:
            raise self.error(key, "expected an array of strings, found nothing")
        if not isinstance(value, list | tuple):
            raise self.error(key, f"expected an array of strings, found {type(value).__name__}")
        for i, item in enumerate(value):
            if not isinstance(item, str):
                raise self.error(key, f"expected strings, found {type(item).__name__} at index {i}")
            try:
                item.encode()
            except UnicodeEncodeError:
                raise self.error(key, f"expected UTF-8, found {item!r:.80} at index {i}") from None
        return list(value)

    def tokens(self) -> list[str]:
        """Read the vocabulary: distinct strings; an empty one is named by its index, as llama.cpp does."""
        key = "tokenizer.ggml.tokens"
        tokens = [text or f"[EMPTY_{i}]" for i, text in enumerate(self.strings(key))]
        if not 0 < len(tokens) <= MAX_VOCAB_SIZE:
            raise self.error(key, f"expected 1 to {MAX_VOCAB_SIZE} tokens, found {len(tokens)}")
        seen: dict[str, int] = {}
        for i, text in enumerate(tokens):
            first = seen.setdefault(text, i)
            if first != i:
                raise self.error(key, f"expected distinct tokens, found {text!r:.80} at {first} and {i}")
        return tokens

    def token_types(self, size: int) -> list[int]:
        """Read `int[size]` token types; all normal where the key is absent."""
        key = "tokenizer.ggml.token_type"
        value = self.pairs.get(key)
        if value is None:
            return [NORMAL] * size
        if isinstance(value, str | bytes) or not isinstance(value, Iterable):
            raise self.error(key, f"expected an array of integers, found {type(value).__name__}")
        types: list[int] = []
        for item in value:
            try:
                number = int(item)
            except (TypeError, ValueError, OverflowError):
                raise self.error(key, f"expected integers, found {item!r:.80} at index {len(types)}") from None
            types.append(number)
        if len(types) != size:
            raise self.error(key, f"expected {size} entries, one a token, found {len(types)}")
        return types

    def scores(self, size: int) -> list[float]:
        """Read `float32[size]` scores of the tokens, infinite ones as the largest; all zero where the key is absent."""
        key = "tokenizer.ggml.scores"
        value = self.pairs.get(key)
        if value is None:
            return [0.0] * size
        try:
            scores = np.asarray(value, np.float32)
        except (TypeError, ValueError, OverflowError):
            raise self.error(key, f"expected an array of numbers, found {type(value).__name__}") from None
        if scores.shape != (size,):
            raise self.error(key, f"expected {size} numbers, one a token, found {list(scores.shape)}")
        if np.isnan(scores).any():
            raise self.error(key, f"expected numbers, found nan at index {int(np.isnan(scores).argmax())}")
        largest = np.finfo(np.float32).max
        found: list[float] = np.clip(scores, -largest, largest).tolist()
        return found

    def charsmap(self) -> bytes:
        """Read SentencePiece's map of characters; b"" where the key is absent."""
        key = "tokenizer.ggml.precompiled_charsmap"
        value = self.pairs.get(key)
        if value is None:
            return b""
        if not isinstance(value, np.ndarray | list | tuple):
            raise self.error(key, f"expected an array of bytes, found {type(value).__name__}")
        found = np.asarray(value)
        if found.dtype.kind not in "iu" or found.ndim != 1 or (found.dtype.itemsize > 1 and (found // 256).any()):
            raise self.error(key, f"expected an array of bytes, found {found.dtype.name}")
        blob = found.astype(np.uint8).tobytes()
        size = int.from_bytes(blob[:4], "little")
        if not size or size % 4 or size + 4 >= len(blob) or blob[-1]:
            raise self.error(key, f"expected an array and texts after it, found {len(blob)} bytes, {size} of an array")
        return blob

    def merges(self, tokens: list[str]) -> list[tuple[str, str]]:
        """Read the merges, best first: pairs of tokens whose concatenation is a token."""
        key = "tokenizer.ggml.merges"
        vocab = set(tokens)
        pairs: dict[tuple[str, str], None] = {}
        for i, line in enumerate(self.strings(key)):
            # From 1 on: a token may itself begin with the space that parts the two.
            cut = line.find(" ", 1)
            if cut < 0:
                raise self.error(key, f"expected two tokens, found {line!r:.80} at index {i}")
            left, right = line[:cut], line[cut + 1 :]
            for part in (left, right, left + right):
                if part not in vocab:
                    raise self.error(key, f"merge {i} ({line!r:.80}) names {part!r:.80}, not in the vocabulary")
            # A repeated merge keeps its first rank.
            pairs.setdefault((left, right))
        return list(pairs)
