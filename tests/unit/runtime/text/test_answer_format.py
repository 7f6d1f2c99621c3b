"""Control tokens by which answers are read: kept in the text for their reader, and for nobody else."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rocmforge.runtime.engine.generation import GenerationRequest
from rocmforge.runtime.engine.sequence import ActiveSequence
from rocmforge.runtime.text.answer_format import AnswerFormat, answer_format
from rocmforge.runtime.text.answer_reader import AnswerReader
from rocmforge.runtime.text.call_turns import CallPiece, ToolCall, join_calls
from rocmforge.runtime.text.chat_formats import GENERAL, format_of
from rocmforge.runtime.text.tokenizer import StreamDecoder
from rocmforge.tests.support.tokenizers import byte_tokenizer

MISTRAL = "{{ tools }}[TOOL_CALLS]{{ name }}[ARGS]{{ arguments }}"
MARKED = byte_tokenizer("[TOOL_CALLS]", "[ARGS]", "[IMG]", "[/THINK]")


@dataclass(frozen=True)
class SomeTemplate:
    source: str
    takes_tools: bool = True


@dataclass(frozen=True)
class SomeTool:
    name: str = "go"
    description: str | None = None
    parameters: dict[str, object] | None = None


def test_what_a_format_needs_is_kept() -> None:
    found = answer_format(SomeTemplate(MISTRAL), MARKED)
    assert found.format is format_of(MISTRAL)
    assert sorted(found.hidden) == ["[/THINK]", "[ARGS]", "[TOOL_CALLS]"]
    assert MARKED.decode(found.kept_tokens, skip_special=False) == "".join(found.hidden)
    assert MARKED.decode(found.kept_tokens) == ""


def test_what_is_no_control_token_need_not_be_kept() -> None:
    assert answer_format(SomeTemplate(MISTRAL), byte_tokenizer()).kept_tokens == ()
    assert answer_format(SomeTemplate("{{ messages }}"), byte_tokenizer("[IMG]")) == AnswerFormat()


def test_a_template_that_takes_no_tools_is_answered_in_hermes_form() -> None:
    found = answer_format(SomeTemplate("[TOOL_CALLS][ARGS]", takes_tools=False), MARKED)
    assert found.format.calls == GENERAL.calls
    assert found.format.reasoning == format_of(MISTRAL).reasoning


def test_a_form_that_an_end_stands_in_is_asked_of_nobody() -> None:
    """The answer would be over before its call; behind the call it may."""
    tokenizer = byte_tokenizer("[ARGS]", "</tool_call>")
    for text, formed in (("[ARGS]", (False, True)), ("</tool_call>", (True, True)), ("<|im_end|>", (True, True))):
        ends = tuple(tokenizer.encode(text, add_special=False))
        tokenizer.config = replace(tokenizer.config, eos_token_ids=ends)
        templates = SomeTemplate(MISTRAL), SomeTemplate("{{ tools }}<tool_call>")
        assert tuple(answer_format(one, tokenizer).forms_calls for one in templates) == formed


def test_an_engine_keeps_them_in_its_text() -> None:
    found = answer_format(SomeTemplate(MISTRAL), MARKED)
    ids = MARKED.encode("a[IMG][/THINK]b[TOOL_CALLS]go[ARGS]{}", add_special=False)
    decoder = StreamDecoder(MARKED, kept=found.kept_tokens)
    assert "".join(map(decoder.push, ids)) == "a[/THINK]b[TOOL_CALLS]go[ARGS]{}"
    for kept, text in ((found.kept_tokens, "a[/THINK]b[TOOL_CALLS]go[ARGS]{}"), ((), "abgo{}")):
        request = GenerationRequest((3,), len(ids), kept_tokens=kept)
        sequence = ActiveSequence(1, request, 0, MARKED)
        for token in ids:
            sequence.append(token, is_eos=False)
        assert sequence.state().text == text


def test_the_reader_has_calls_and_nobody_sees_a_mark() -> None:
    found = answer_format(SomeTemplate(MISTRAL), MARKED)
    reader = AnswerReader(found.format, [SomeTool()], hidden=found.hidden)
    parts = [
        *map(reader.push, ("I[ARGS] ", "go.", "[TOOL_CALLS]", "go", "[ARGS]", "{}", "[TOOL_CALLS]", "!")),
        reader.flush(),
    ]
    turns = [turn for _, found in parts for turn in found]
    assert "".join(turn for turn in turns if isinstance(turn, str)) == "I go.!"
    assert join_calls(turns) == [ToolCall("go", "{}")]
    assert turns[2:4] == [CallPiece("go"), CallPiece(arguments="{}", whole=True)]
