"""The families' formats: what each makes of an answer, whole and cut in every way."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocmforge.runtime.text.answer_reader import AnswerReader, AnswerStart
from rocmforge.runtime.text.call_turns import CallPiece, ToolCall, Turn, join_calls
from rocmforge.runtime.text.chat_formats import FORMATS, GENERAL, format_of
from rocmforge.runtime.text.chat_styles import ChatFormat


@dataclass(frozen=True)
class SomeTool:
    name: str
    parameters: dict[str, Any] | None
    description: str | None = None


CITY = SomeTool("get_weather", {"properties": {"city": {"type": "string"}, "days": {"type": "integer"}}})
ANY = SomeTool(
    "write",
    {
        "properties": {
            "text": {"type": "string"},
            "maybe": {"type": ["string", "null"]},
            "lines": {"type": "array", "items": {"type": "integer"}},
            "options": {"type": "object", "properties": {"deep": {"type": "boolean"}}},
            "size": {"anyOf": [{"type": "number"}, {"type": "string"}]},
            "tags": {"type": "array", "items": {"type": "string"}},
            "unit": {"enum": ["C", "F"]},
        }
    },
)
TOOLS = (CITY, ANY)
FAMILIES = {row.family: row for row in (*FORMATS, GENERAL)}
EMPTY = ToolCall("write", "{}")

Parts = tuple[str, str, list[ToolCall]]
"""Reasoning, content, calls."""


def read(
    format_: ChatFormat, pieces: list[str], start: AnswerStart | None = None, cut: bool = False, tools: Any = TOOLS
) -> Parts:
    reader = AnswerReader(format_, tools, start or AnswerStart())
    parts = [*map(reader.push, pieces), reader.flush(cut)]
    turns: list[Turn] = [turn for _, found in parts for turn in found]
    assert "" not in turns
    assert CallPiece() not in turns
    return (
        "".join(reasoning for reasoning, _ in parts),
        "".join(turn for turn in turns if isinstance(turn, str)),
        join_calls(turns),
    )


# Of each family answers, made by hand, and their reasoning, content and calls.
EXAMPLES = json.loads((Path(__file__).parents[3] / "data" / "chat_answers.json").read_text())


def parts_of(example: dict[str, Any]) -> Parts:
    return example["reasoning"], example["content"], [ToolCall(*call) for call in example["calls"]]


CASES = [
    pytest.param(FAMILIES[family], example["text"], parts_of(example), id=f"{family}-{index}")
    for family, examples in EXAMPLES.items()
    for index, example in enumerate(examples)
]


def test_each_family_has_an_example() -> None:
    assert EXAMPLES.keys() == FAMILIES.keys()
    assert len(FAMILIES) == len(FORMATS) + 1


@pytest.mark.parametrize("format_, text, expected", CASES)
def test_an_answer_of_each_family_whole_and_cut_anywhere(format_: ChatFormat, text: str, expected: Parts) -> None:
    assert read(format_, [text]) == expected
    assert read(format_, list(text)) == expected
    for at in range(1, len(text)):
        assert read(format_, [text[:at], text[at:]]) == expected, at
    for call in expected[2]:
        assert isinstance(json.loads(call.arguments), dict)


@pytest.mark.slow
@pytest.mark.parametrize("format_, text, expected", CASES)
def test_an_answer_that_is_broken_off_anywhere(format_: ChatFormat, text: str, expected: Parts) -> None:
    """What is said of it so far is a beginning of what is said of the whole, and its whole calls are whole."""
    for at in range(len(text)):
        reasoning, _, calls = read(format_, list(text[:at]), cut=True)
        assert (reasoning, _, calls) == read(format_, [text[:at]], cut=True)
        assert expected[0].startswith(reasoning[: len(expected[0])])
        for call, whole in zip(calls, expected[2], strict=False):
            assert call.name == whole.name
            assert not call.whole or call == whole
            assert whole.arguments.startswith(call.arguments)


MARKS = sorted(
    {text for row in FAMILIES.values() for text in row.texts} | {"<|message|>", "\n", " ", "{}", "x", ">", '"'}
)


@pytest.mark.slow
@settings(max_examples=300)
@given(
    st.sampled_from(list(FAMILIES.values())),
    st.lists(st.sampled_from(MARKS) | st.text(max_size=5), max_size=12).map("".join),
    st.lists(st.integers(1, 9), min_size=1, max_size=40),
    st.booleans(),
)
def test_whatever_comes_is_read_the_same_however_it_is_cut(
    format_: ChatFormat, text: str, sizes: list[int], inside: bool
) -> None:
    pieces, at = list[str](), 0
    while at < len(text):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(text[at : at + size])
        at += size
    start = AnswerStart(inside)
    assert read(format_, pieces, start) == read(format_, [text], start)


@pytest.mark.parametrize("row", FORMATS, ids=[row.family for row in FORMATS])
def test_a_format_is_known_by_its_template(row: ChatFormat) -> None:
    """Each by its own signs, and by those of none that is asked for before."""
    source = "{{ messages }}" + " ".join(row.signs)
    assert format_of(source) is row
    assert format_of("{{ messages }}") is GENERAL


def test_a_family_may_be_taught_to_reason_as_others_do() -> None:
    taught = format_of("[TOOL_CALLS][ARGS]<think>")
    assert (taught.family, taught.reasoning) == ("Mistral, newer", GENERAL.reasoning)
    assert format_of("[TOOL_CALLS][ARGS]<think>[THINK]").reasoning.open == "[THINK]"


def test_no_tools_no_calls() -> None:
    call = '<tool_call>{"name": "write", "arguments": {}}</tool_call>'
    assert read(GENERAL, [call], tools=()) == ("", call, [])
    harmony = FAMILIES["gpt-oss (Harmony)"]
    assert read(harmony, ["<|channel|>commentary to=functions.a<|message|>{}"], tools=()) == ("", "", [])


def test_text_arguments_stream_as_they_come() -> None:
    reader = AnswerReader(FAMILIES["Qwen3-Coder, Qwen3.5, Nemotron 3, Step 3.5"], TOOLS)
    assert reader.push("<tool_call>\n<function=write>") == ("", [CallPiece("write")])
    assert reader.push("\n<parameter=text>") == ("", [CallPiece(arguments='{"text": "')])
    assert reader.push('\na"') == ("", [CallPiece(arguments='a\\"')])
    assert reader.push("b\n</par") == ("", [CallPiece(arguments="b")])
    assert reader.push("ameter>") == ("", [CallPiece(arguments='"')])
    assert reader.push("\n</function>") == ("", [CallPiece(arguments="}", whole=True)])


def test_what_marks_an_answer_is_shown_to_nobody() -> None:
    """Texts of control tokens, where they mark nothing, are left out of what is said and thought."""
    hidden = ("[TOOL_CALLS]", "[ARGS]", "[THINK]", "[/THINK]")
    reader = AnswerReader(FAMILIES["Mistral, newer"], TOOLS, AnswerStart(inside_reasoning=True), hidden)
    said = [reader.push(piece) for piece in ("a[AR", "GS]b[/THI", "NK]c[TOOL_CALLS]", " d[/TH", "INK]e")]
    said.append(reader.flush())
    assert "".join(reasoning for reasoning, _ in said) == "ab"
    assert "".join(str(turn) for _, turns in said for turn in turns) == "c de"


def test_constraints_leave_no_room_for_marks() -> None:
    call = '{"name": "write", "arguments": {}}'
    for family in ("gpt-oss (Harmony)", "Functionary 3.2", "Kimi K2"):
        start = AnswerStart(inside_reasoning=True, constrained=True, forced=True)
        assert read(FAMILIES[family], list(call), start) == ("", "", [EMPTY])
        assert read(FAMILIES[family], ['{"a": 1}'], AnswerStart(constrained=True)) == ("", '{"a": 1}', [])


def test_what_the_assistant_has_begun_is_gone_on_with() -> None:
    harmony, muse = FAMILIES["gpt-oss (Harmony)"], FAMILIES["Functionary 3.2"]
    inside = AnswerStart(inside_reasoning=True, begun=True)
    assert read(harmony, [" m.<|end|><|start|>assistant<|channel|>final<|message|>Ok."], inside) == (" m.", "Ok.", [])
    assert read(harmony, [" Ok."], AnswerStart(begun=True)) == ("", " Ok.", [])
    assert read(muse, ["all\nOk."], AnswerStart(begun=True)) == ("", "all\nOk.", [])
    assert read(GENERAL, [" m.</think>Ok."], inside) == (" m.", "Ok.", [])
