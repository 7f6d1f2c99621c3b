"""The stage of deepseek-llm's rule that parts white space at the end from what is neither a letter nor punctuation."""

from __future__ import annotations

import pytest
from tokenizers import Regex, pre_tokenizers

from rocmforge.artifacts.pre_tokenizers import PRE_TOKENIZERS


@pytest.mark.parametrize(
    "text,pieces",
    [("x© ", ["x", "©", " "]), ("° ", ["°", " "]), ("= © \t", ["=", " ©", " \t"]), ("© x", ["©", " x"])],
)
def test_white_space_at_the_end_is_a_piece_of_its_own(text: str, pieces: list[str]) -> None:
    """Of 486 texts that were tried, 8 such have other ids without it; llama-tokenize 11434 has those with it."""
    splits = [pre_tokenizers.Split(Regex(one), "isolated") for one in PRE_TOKENIZERS["deepseek-llm"].splits]
    found = pre_tokenizers.Sequence(splits).pre_tokenize_str(text)
    assert [piece for piece, _ in found] == pieces
