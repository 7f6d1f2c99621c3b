"""Reasoning split off: every text, cut in every way."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocmforge.runtime.text.reasoning import ReasoningSplitter


def split(pieces: list[str], inside: bool = False) -> tuple[str, str]:
    splitter = ReasoningSplitter(inside)
    parts = [*(splitter.push(piece) for piece in pieces), splitter.flush()]
    return "".join(reasoning for reasoning, _ in parts), "".join(content for _, content in parts)


def oracle(text: str, inside: bool) -> tuple[str, str]:
    """The whole text at once, by an expression."""
    opened = r"" if inside else r"\s*<think>"
    match = re.fullmatch(rf"{opened}(?P<reasoning>.*?)(?:</think>(?P<content>.*))?", text, re.DOTALL)
    if match is None:
        return "", text
    return match["reasoning"].strip(), (match["content"] or "").lstrip()


@pytest.mark.parametrize(
    "text, expected",
    [
        ("<think>\nsums\n</think>\n\n42", ("sums", "42")),
        ("42", ("", "42")),
        ("a <think>b</think>", ("", "a <think>b</think>")),
        ("<think>never ends", ("never ends", "")),
        ("<think></think>x", ("", "x")),
        ("<thin", ("", "<thin")),
        ("<think>a </thin b</think>c</think>", ("a </thin b", "c</think>")),
    ],
)
def test_known_texts(text: str, expected: tuple[str, str]) -> None:
    assert split([text]) == split(list(text)) == expected


PIECE = st.sampled_from(["<think>", "</think>", "<", "</", "think>", "thi", " ", "\n", "a", "\u00e9", ">"])


@given(st.lists(PIECE, max_size=12), st.booleans())
def test_any_text_cut_in_any_way(pieces: list[str], inside: bool) -> None:
    text = "".join(pieces)
    assert split(pieces, inside) == split(list(text), inside) == split([text], inside) == oracle(text, inside)
