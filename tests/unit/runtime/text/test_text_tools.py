"""Calls of tools that take a text. Through HTTP: http/test_response_tools.py."""

from __future__ import annotations

import json

import pytest

from rocmforge.runtime.text.call_turns import CallPiece, ToolCall, join_calls
from rocmforge.runtime.text.text_tools import INPUT_SCHEMA, TextCallParser, TextInput, input_arguments

TEXT = 'é "quoted" \\ \n\x01'


def test_the_function_that_a_model_is_told_of() -> None:
    assert INPUT_SCHEMA == {
        "type": "object",
        "properties": {"input": {"type": "string"}},
        "required": ["input"],
        "additionalProperties": False,
    }
    assert input_arguments("é") == '{"input": "é"}'


def test_a_text_is_the_call_of_its_tool() -> None:
    parser = TextCallParser("patch")
    turns = [
        *(parser.push("") + parser.push("a\n") + parser.push("") + parser.push("é")),
        *parser.flush(cut=False),
    ]
    assert turns == [
        CallPiece("patch"),
        CallPiece(arguments='{"input": "'),
        CallPiece(arguments="a\\n"),
        CallPiece(arguments="é"),
        CallPiece(arguments='"}', whole=True),
    ]


@pytest.mark.parametrize("text", ["", TEXT])
@pytest.mark.parametrize("cut", [False, True])
def test_what_the_pieces_come_to(text: str, cut: bool) -> None:
    parser = TextCallParser("patch")
    turns = [turn for piece in text for turn in parser.push(piece)] + parser.flush(cut)
    whole = json.dumps({"input": text}, ensure_ascii=False)
    assert join_calls(turns) == [ToolCall("patch", whole[: -2 if cut else None], whole=not cut)]


@pytest.mark.parametrize(
    "pieces, told, rest",
    [
        (['{"in', 'put": "', "a", 'b"', "}"], ["", "", "a", "b", ""], ""),
        ([' {\n"input" : "a\\', "nb\\u00", "e9\\ud83d", '\\ude00"}'], ["a", "\nb", "é", "😀"], ""),
        (['{"input": "a"', ', "input": "ab"}'], ["a", ""], "b"),
        (['{"input": "a\\ud83d', ' b"}'], ["a", ""], "\ud83d b"),
        (['{"input"', ": 5}"], ["", ""], '{"input": 5}'),
        (['{"other": "x"}'], [""], '{"other": "x"}'),
        (['{"input": "a" }'], ["a"], ""),
    ],
)
def test_the_input_is_told_as_it_comes(pieces: list[str], told: list[str], rest: str) -> None:
    reader = TextInput()
    assert [reader.push(piece) for piece in pieces] == told
    assert reader.flush() == rest
