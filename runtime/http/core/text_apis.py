"""What a service asks of the parts of a model that read and write text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from ....artifacts.tokenizer_config import InfillTokens
from ...engine.generation import Constraint
from ...text.constraints import ConstraintSpec
from ...text.rerank import PairConfig, PairTokenizer

# Called while a long text is tokenized: raises where nobody waits for it any more.
Look = Callable[[], None]


class SpecialTokens(PairConfig, Protocol):
    """What handlers ask of a tokenizer's configuration."""

    @property
    def bos_token(self) -> str:
        """Text of the BOS token, "" where there is none."""

    @property
    def infill(self) -> InfillTokens:
        """Those for filling in the middle of a text."""

    @property
    def eos_token_ids(self) -> Sequence[int]:
        """Every token that ends a generation."""

    @property
    def eos_token(self) -> str:
        """Text of the model's own end-of-sequence token, "" where there is none."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""


class TokenizerApi(PairTokenizer, Protocol):
    """What handlers ask of the tokenizer."""

    @property
    def config(self) -> SpecialTokens:
        """Its special tokens."""

    @property
    def end_texts(self) -> tuple[str, ...]:
        """Texts of the tokens that end an answer."""

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Return the text of token ids."""

    def token_bytes(self, token_id: int, skip_special: bool = True) -> bytes:
        """Return the exact bytes of one token."""


class ConstraintApi(Protocol):
    """What makes constraints on output."""

    def compile(self, spec: ConstraintSpec) -> Constraint:
        """Return a constraint at the beginning of its output.

        Raises:
            RequestError: it is wrong, or beyond the limits.
        """
