"""Prompts of models that rank: a query and a document, as the model was made to read them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, cast

from .control_text import ControlTexts

QUERY: Final = "{query}"
DOCUMENT: Final = "{document}"


class PairConfig(Protocol):
    """The special tokens of a tokenizer."""

    @property
    def bos_token_id(self) -> int | None:
        """What begins a text."""

    @property
    def eos_token_id(self) -> int | None:
        """What ends a text."""

    @property
    def sep_token_id(self) -> int | None:
        """What parts two texts of one input, or None."""

    @property
    def add_bos(self) -> bool:
        """Whether a text begins so."""

    @property
    def add_eos(self) -> bool:
        """Whether a text ends so."""


class PairTokenizer(Protocol):
    """What is asked of a tokenizer; see `Tokenizer`."""

    @property
    def config(self) -> PairConfig:
        """Its special tokens."""

    @property
    def control_texts(self) -> ControlTexts:
        """Texts of its control tokens."""

    def encode(
        self,
        text: str,
        add_special: bool = True,
        parse_special: bool = True,
        most: int | None = None,
        look: Callable[[], None] | None = None,
        mark: str = "",
    ) -> list[int]:
        """Return the token ids of a text."""


def rerank_ids(
    tokenizer: PairTokenizer,
    template: str | None,
    query: str,
    document: str,
    most: int | None = None,
    look: Callable[[], None] | None = None,
) -> tuple[int, ...]:
    """Return the token ids of a query and a document.

    Args:
        tokenizer: of the model.
        template: the model's own, which writes all special tokens itself; None: the two stand between the tokens that
            begin, end and part texts, as far as the model has them.
        query: what the document is held against.
        document: that is ranked.
        most: see `Tokenizer.encode`.
        look: see `Tokenizer.encode`.

    Raises:
        TooManyTokensError: there are more than `most`.
        NoMarkError: the texts hold every character that could stand for nothing else.
    """
    if template is not None:
        # Texts of control tokens are the template's alone.
        given, mark = tokenizer.control_texts.hide({"query": query, "document": document}, template)
        # One may hold what stands for the other.
        parts = (part.replace(DOCUMENT, cast("str", given["document"])) for part in template.split(QUERY))
        return tuple(tokenizer.encode(cast("str", given["query"]).join(parts), False, True, most, look, mark))
    config = tokenizer.config
    asked, answered = (tokenizer.encode(text, False, False, most, look) for text in (query, document))
    bos = [config.bos_token_id] if config.add_bos and config.bos_token_id is not None else []
    eos = [config.eos_token_id] if config.add_eos and config.eos_token_id is not None else []
    sep = [] if config.sep_token_id is None else [config.sep_token_id]
    return (*bos, *asked, *eos, *sep, *answered, *eos)
