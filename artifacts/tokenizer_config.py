"""What a server must know of a tokenizer beside `tokenizer.json`: a part of the bundle's manifest."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from .dataclass import dataclass
from .errors import BundleError

# Far above any published vocabulary (the largest are near 260,000); a manifest beyond it is damaged.
MAX_VOCAB_SIZE = 1 << 24
MAX_TOKEN_CHARS = 4096
_RARE = {"sep_token_id", "infill"}  # keys that a manifest may lack


@dataclass(frozen=True, slots=True)
class InfillTokens:
    """Tokens between the parts of a text whose middle is asked for; None: the model has none of that kind.

    Attributes:
        prefix: before the text that stands before the gap.
        suffix: before the text that stands after it.
        middle: before what is generated.
        pad: fills up; ends a generation, as do the next two.
        repo: before the name of a repository.
        separator: before the name of a file.
    """

    prefix: int | None = None
    suffix: int | None = None
    middle: int | None = None
    pad: int | None = None
    repo: int | None = None
    separator: int | None = None


@dataclass(frozen=True, slots=True)
class TokenizerConfig:
    """The special tokens of a model and when they are added.

    Attributes:
        bos_token_id: the beginning-of-sequence token, or None where the model has none.
        eos_token_ids: every token that ends a generation, ascending: end of sequence, of turn, of message.
        add_bos: `encode(add_special=True)` puts `bos_token_id` first.
        add_eos: `encode(add_special=True)` puts `eos_token_id` last.
        bos_token: text of `bos_token_id`, "" where there is none; chat templates name it.
        eos_token: text of the model's own end-of-sequence token, "" where there is none.
        vocab_size: number of tokens; every id is in [0, vocab_size).
        eos_token_id: the model's own end-of-sequence token, one of `eos_token_ids`.
        sep_token_id: what parts two texts of one input of an encoder, or None.
        infill: for filling in the middle.
    """

    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    add_bos: bool
    add_eos: bool
    bos_token: str
    eos_token: str
    vocab_size: int
    eos_token_id: int | None = None
    sep_token_id: int | None = None
    infill: InfillTokens = InfillTokens()

    def to_json(self) -> dict[str, object]:
        """Return the JSON object that `from_json` reads; tokens that only some models have are left out of the rest."""
        infill = {name: i for name, i in asdict(self.infill).items() if i is not None}
        rare = {"sep_token_id": self.sep_token_id, "infill": infill}
        return {key: value for key, value in rare.items() if value not in (None, {})} | {
            "add_bos": self.add_bos,
            "add_eos": self.add_eos,
            "bos_token": self.bos_token,
            "bos_token_id": self.bos_token_id,
            "eos_token": self.eos_token,
            "eos_token_id": self.eos_token_id,
            "eos_token_ids": list(self.eos_token_ids),
            "vocab_size": self.vocab_size,
        }

    @classmethod
    def from_json(cls, path: Path, obj: object, field: str = "tokenizer") -> TokenizerConfig:
        """Read an untrusted JSON object.

        Args:
            path: the file it came from, for messages.
            obj: the parsed JSON value.
            field: its key in that file, for messages.

        Raises:
            BundleError: a key is missing or unknown, or has a wrong type or value.
        """
        if not isinstance(obj, dict):
            raise BundleError(path, field, f"expected an object, found {type(obj).__name__}")
        known = set(cls.__dataclass_fields__) - _RARE
        if set(obj) - _RARE != known:
            problem = f"expected the keys {sorted(known)}, found {sorted(map(str, obj))}"
            raise BundleError(path, field, problem)
        reader = _Reader(path, field, obj)
        vocab_size = reader.integer("vocab_size", 1, MAX_VOCAB_SIZE)
        eos_token_ids = reader.token_ids("eos_token_ids", vocab_size)
        config = cls(
            bos_token_id=reader.optional_id("bos_token_id", vocab_size),
            eos_token_ids=eos_token_ids,
            add_bos=reader.boolean("add_bos"),
            add_eos=reader.boolean("add_eos"),
            bos_token=reader.text("bos_token"),
            eos_token=reader.text("eos_token"),
            vocab_size=vocab_size,
            eos_token_id=reader.optional_id("eos_token_id", vocab_size),
            sep_token_id=reader.optional_id("sep_token_id", vocab_size),
            infill=reader.infill("infill", vocab_size),
        )
        if config.add_bos and config.bos_token_id is None:
            raise BundleError(path, f"{field}.add_bos", "expected a bos_token_id beside it, found none")
        if config.add_eos and config.eos_token_id is None:
            raise BundleError(path, f"{field}.add_eos", "expected an eos_token_id beside it, found none")
        if config.eos_token_id is not None and config.eos_token_id not in eos_token_ids:
            raise BundleError(path, f"{field}.eos_token_id", "expected one of eos_token_ids")
        return config


@dataclass(frozen=True, slots=True)
class _Reader:
    """Typed access to the keys of one JSON object; every failure names the key."""

    path: Path
    field: str
    obj: dict[str, object]

    def _fail(self, key: str, expected: str, found: object) -> BundleError:
        return BundleError(self.path, f"{self.field}.{key}", f"expected {expected}, found {found!r:.80}")

    def integer(self, key: str, low: int, high: int) -> int:
        value = self.obj[key]
        # bool is a subclass of int in Python, and `true` is no count.
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self._fail(key, f"an integer from {low} to {high}", value)
        return value

    def optional_id(self, key: str, vocab_size: int) -> int | None:
        return None if self.obj.get(key) is None else self.integer(key, 0, vocab_size - 1)

    def infill(self, key: str, vocab_size: int) -> InfillTokens:
        value = self.obj.get(key, {})
        if not isinstance(value, dict) or not set(value) <= set(InfillTokens.__dataclass_fields__):
            raise self._fail(key, f"an object of {sorted(InfillTokens.__dataclass_fields__)}", value)
        inner = _Reader(self.path, f"{self.field}.{key}", value)
        return InfillTokens(**{name: inner.integer(name, 0, vocab_size - 1) for name in value})

    def token_ids(self, key: str, vocab_size: int) -> tuple[int, ...]:
        value = self.obj[key]
        if not isinstance(value, list) or len(value) > vocab_size:
            raise self._fail(key, "a list of token ids", value)
        ids: list[int] = []
        for item in value:
            if not isinstance(item, int) or isinstance(item, bool) or not 0 <= item < vocab_size:
                raise self._fail(key, f"token ids below {vocab_size}", item)
            ids.append(item)
        if ids != sorted(set(ids)):
            raise self._fail(key, "ascending token ids without repetition", value)
        return tuple(ids)

    def boolean(self, key: str) -> bool:
        value = self.obj[key]
        if not isinstance(value, bool):
            raise self._fail(key, "true or false", value)
        return value

    def text(self, key: str) -> str:
        value = self.obj[key]
        if not isinstance(value, str) or len(value) > MAX_TOKEN_CHARS:
            raise self._fail(key, f"a string of at most {MAX_TOKEN_CHARS} characters", value)
        return value
