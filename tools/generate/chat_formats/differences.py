"""Why a case is read here in another way than by llama.cpp: each reason, and which cases it is true of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from .expectations import Case
from .reading import Reading


def _unparsed(case: Case, reading: Reading) -> bool:
    asked = str(case.conditions.get("reasoning_format", "NONE")).endswith("NONE")
    return asked and reading.reasoning != "" and case.reasoning == ""


def _partial_name(case: Case, _: Reading) -> bool:
    return "is_partial" in case.conditions and any(arguments == "" for _, arguments in case.calls)


REASONS: Final[tuple[tuple[str, Callable[[Case, Reading], bool]], ...]] = (
    ("the case asks for reasoning that is not parted from the content; here it always is", _unparsed),
    (
        "broken off between a call's name and its arguments: the name is told with the beginning of the arguments",
        _partial_name,
    ),
    ("JSON in a fence of Markdown: a constraint on the output leaves no room for one here",
     lambda case, _: "json_schema" in case.conditions and "```json" in case.text),
    ("a token that ends generation, as text: here it is never a part of the answer",
     lambda case, _: case.text.endswith("<|role_end|>")),
    ("the line that opens the reasoning is its mark here, and a part of it there",
     lambda case, _: case.reasoning.startswith("Here are my reasoning steps:")),
    ("reasoning without content is gone on with; llama.cpp was told to end it",
     lambda case, _: str(case.conditions.get("continue_final_message", "")).endswith("CONTENT")),
    ("the template, which Hugging Face's renderer refuses too, says where the answer begins",
     lambda case, _: case.template.endswith("llama-cpp-deepseek-r1.jinja")),
)  # fmt: skip


def reason(case: Case, reading: Reading) -> str:
    """Why a case is read in another way."""
    return next((text for text, holds in REASONS if holds(case, reading)), "unexplained")
