"""How a model's answers are read: the format of its template's family, and the control tokens that mark its parts."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, Protocol

from ...artifacts.dataclass import dataclass
from .chat_formats import GENERAL, format_of
from .chat_styles import ChatFormat
from .control_text import ControlTexts
from .tool_calls import ANY_JSON


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """A model's.

    Attributes:
        format: of the family.
        kept_tokens: control tokens whose text an answer keeps, for its reader alone.
        hidden: their texts.
    """

    format: ChatFormat = GENERAL
    kept_tokens: tuple[int, ...] = ()
    hidden: tuple[str, ...] = ()

    @property
    def forms_calls(self) -> bool:
        """Whether a call that must be made is constrained to the family's form; else it is JSON alone."""
        return self.format.written != ""


JSON_ANSWERS: Final = AnswerFormat()
"""What is asked of a model of which nothing is known."""


class _Template(Protocol):
    @property
    def source(self) -> str:
        """Jinja source."""

    @property
    def takes_tools(self) -> bool:
        """Whether it tells the model of tools."""


class _Tokenizer(Protocol):
    @property
    def control_texts(self) -> ControlTexts:
        """Texts of its control tokens."""

    @property
    def end_texts(self) -> tuple[str, ...]:
        """Texts of the tokens that end an answer."""

    def encode(self, text: str, add_special: bool = True) -> list[int]:
        """Token ids of a text."""


def answer_format(template: _Template, tokenizer: _Tokenizer) -> AnswerFormat:
    """How the answers of a model with this template are read, whose tokenizer this is."""
    format_ = format_of(template.source)
    if any(end and end in format_.written.removesuffix(end) for end in tokenizer.end_texts):  # none gets past that
        format_ = replace(format_, written="")
    if not template.takes_tools:  # then it is told of them in Hermes' form, see `spell_out_tools`
        format_ = replace(format_, calls=ANY_JSON, written="")
    hidden = [text for text in tokenizer.control_texts.texts if any(text in known for known in format_.texts)]
    ids = [tokenizer.encode(text, add_special=False) for text in hidden]
    found = [(text, tokens[0]) for text, tokens in zip(hidden, ids, strict=True) if len(tokens) == 1]
    return AnswerFormat(format_, tuple(token for _, token in found), tuple(text for text, _ in found))
