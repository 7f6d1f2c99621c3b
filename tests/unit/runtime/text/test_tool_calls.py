"""Calls of tools in the forms of the model families, whole and cut in every way."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rocmforge.runtime.text.call_turns import CallPiece, ToolCall, Turn, WholeCalls, join_calls
from rocmforge.runtime.text.tool_calls import ToolCallParser

NAMES = ("get_weather", "read")


def turns_of(pieces: list[str], forced: bool = False) -> list[Turn]:
    parser = ToolCallParser(NAMES, forced)
    turns = [turn for piece in [*map(parser.push, pieces), parser.flush()] for turn in piece]
    assert "" not in turns
    assert CallPiece() not in turns
    return turns


def parse(pieces: list[str], forced: bool = False) -> list[str | ToolCall]:
    """What the turns come to: content and calls, in their order."""
    parts: list[str | ToolCall] = []
    open_pieces: list[CallPiece] = []
    for turn in turns_of(pieces, forced):
        if isinstance(turn, CallPiece):
            assert turn.name is None or turn.name  # the name comes once and first: join_calls would fail else
            open_pieces = [turn] if turn.name is not None else [*open_pieces, turn]
            parts[len(parts) - (turn.name is None) :] = join_calls(open_pieces)
        elif parts and isinstance(parts[-1], str):
            parts[-1] += turn
        else:
            parts.append(turn)
    return parts


ROME = ToolCall("get_weather", '{"city": "Rome"}')
READ = ToolCall("read", '{"path": "a </tool_call> b"}')
HERMES = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'
HERMES_READ = '<tool_call>{"name": "read", "arguments": {"path": "a </tool_call> b"}}</tool_call>'
LLAMA = '{"name": "get_weather", "parameters": {"city": "Rome"}}'
OWN = '{ "city":"Rome",\n"n": 1.50, "\\u00e9": {"a": "}\\"{"}}'
CUT = '<tool_call>{"name": "read", "arguments": {"path": "a'
BARE = '<tool_call>{"name": "read", "arguments": {path: a}}</tool_call>'
KNOWN = [
    pytest.param(HERMES, [ROME], id="hermes"),
    pytest.param(f"Let me look.\n{HERMES}\n{HERMES_READ}\n", ["Let me look.\n", ROME, READ], id="hermes-two"),
    pytest.param(f"{HERMES} So.\n{HERMES}", [ROME, " So.\n", ROME], id="in-order"),
    pytest.param(f"[TOOL_CALLS] [{LLAMA}, {LLAMA}]", [ROME, ROME], id="mistral"),
    pytest.param(LLAMA, [ROME], id="llama"),
    pytest.param(f"<|python_tag|>{LLAMA}; {LLAMA}", [ROME, ROME], id="llama-two"),
    pytest.param('{"name": "get_weather", "arguments": "{\\"city\\": \\"Rome\\"}"}', [ROME], id="string"),
    pytest.param(
        f'<tool_call>{{"name":"read","arguments":{OWN}}}</tool_call>', [ToolCall("read", OWN)], id="own-words"
    ),
    pytest.param(f'{{"name":"read","arguments":{OWN}}}', [ToolCall("read", OWN)], id="own-words-json"),
    pytest.param(
        f'[{{"id": 1, "name": "read", "arguments": {OWN}}}]',
        [ToolCall("read", json.dumps(json.loads(OWN), ensure_ascii=False))],
        id="another-order",
    ),
    pytest.param(
        f'<tool_call>{{"name": "read", "arguments": {OWN}, "id": "}}"}}</tool_call> Ok.',
        [ToolCall("read", OWN), " Ok."],
        id="more-fields",
    ),
    pytest.param(f"{HERMES[:-12]}{HERMES} Ok.", [ROME, ROME, " Ok."], id="no-closer"),
    pytest.param(f"{HERMES[:-14]}</tool_call> Ok.", [ROME, " Ok."], id="no-brace"),
    pytest.param(
        '<tool_call>{"name": "new", "arguments": {"a": 1}}</tool_call>', [ToolCall("new", '{"a": 1}')], id="unknown"
    ),
    pytest.param('{"name": "Ann", "arguments": {}}', ['{"name": "Ann", "arguments": {}}'], id="answer-in-json"),
    pytest.param(f"{LLAMA} is a call", [f"{LLAMA} is a call"], id="text-after-json"),
    pytest.param(f'[{LLAMA}, {{"name": "Ann"}}]', [f'[{LLAMA}, {{"name": "Ann"}}]'], id="a-known-and-an-unknown"),
    pytest.param("[1, 2]", ["[1, 2]"], id="array"),
    pytest.param("a < b and [x]", ["a < b and [x]"], id="text"),
    pytest.param("<tool_call>nonsense</tool_call>", ["<tool_call>nonsense</tool_call>"], id="malformed"),
    pytest.param('<tool_call>{"name": "read"', ['<tool_call>{"name": "read"'], id="cut-before-arguments"),
    pytest.param(CUT, [ToolCall("read", '{"path": "a', whole=False)], id="cut-short"),
    pytest.param(BARE, [ToolCall("read", "{path: a}", whole=False)], id="no-json"),
    pytest.param(
        '<tool_call>{"name": "read", "arguments": {"a": {</tool_call> So.',
        [ToolCall("read", '{"a": {', whole=False), " So."],
        id="no-end",
    ),
    pytest.param(
        '<tool_call>{"name": "read", "arguments": {"a": NaN}}</tool_call>',
        [ToolCall("read", '{"a": NaN}', whole=False)],
        id="no-number",
    ),
    pytest.param("[" * 100_000, ["[" * 100_000], id="deep"),
    pytest.param("", [], id="nothing"),
]


@pytest.mark.parametrize("text, expected", KNOWN)
def test_known_forms(text: str, expected: list[str | ToolCall]) -> None:
    assert parse([text]) == expected
    if len(text) < 1000:
        assert parse(list(text)) == expected


def test_what_is_forced_is_a_call_from_its_beginning() -> None:
    assert parse([LLAMA], forced=True) == parse(list(LLAMA), forced=True) == [ROME]
    assert parse(list(LLAMA[:-4]), forced=True) == [ToolCall("get_weather", '{"city": "Rom', whole=False)]
    assert parse([LLAMA[:20]], forced=True) == [LLAMA[:20]]


@pytest.mark.parametrize(
    "before, forced",
    [("Wait. <tool_call>\n", False), ("[TOOL_CALLS][", False), ("<|python_tag|>", False), ("", True)],
)
def test_arguments_stream_as_they_come(before: str, forced: bool) -> None:
    parser = ToolCallParser(NAMES, forced)
    parser.push(f'{before}{{"name": "get_weather", "arguments": ')
    assert parser.push("{") == [CallPiece("get_weather"), CallPiece(arguments="{")]
    assert parser.push('"city": "R<b') == [CallPiece(arguments='"city": "R<b')]
    assert parser.push('}", "n": 1') == [CallPiece(arguments='}", "n": 1')]
    assert parser.push("}") == [CallPiece(arguments="}", whole=True)]


@pytest.mark.parametrize(
    "marker, rest", [("<tool_call>", f"{LLAMA}</tool_call>"), ("[TOOL_CALLS]", LLAMA), ("<|python_tag|>", LLAMA)]
)
@pytest.mark.parametrize("before", ["", "Wait. "])
def test_a_marker_cut_at_any_place_never_leaks(before: str, marker: str, rest: str) -> None:
    for cut in range(1, len(marker)):
        shown = [before] if before else []
        assert ToolCallParser(NAMES).push(before + marker[:cut]) == shown, cut
        assert parse([before + marker[:cut], marker[cut:] + rest]) == [*shown, ROME], cut


def test_json_that_may_be_the_answer_is_held_to_its_end() -> None:
    parser = ToolCallParser(NAMES)
    assert parser.push(LLAMA) == []
    assert join_calls(parser.flush()) == [ROME]


def test_whole_calls_for_those_that_take_no_others() -> None:
    text = f"{HERMES} So. {BARE}{CUT}"
    for pieces in ([text], list(text)):
        joiner = WholeCalls()
        parts = [joiner.take([turn], end=False) for turn in turns_of(pieces)] + [joiner.take([], end=True)]
        assert [call for _, calls in parts for call in calls] == [ROME]
        broken = '{"name": "read", "arguments": {path: a}{"name": "read", "arguments": {"path": "a'
        assert "".join(content for content, _ in parts) == f" So. {broken}"


def test_text_is_shown_as_soon_as_it_can_be_no_call() -> None:
    """Character by character; what may begin a marker waits, and so does white space at the beginning."""
    parser = ToolCallParser(NAMES)
    shown = [(character, parser.push(character)) for character in " \nHi <b <tox [T_ <|pz"]
    waiting = {" ", "\n", "H", "<", "t", "o", "[", "T", "|", "p"}
    assert [turns for character, turns in shown if character not in waiting] == [
        ["i"],
        ["<b"],
        ["<tox"],
        ["[T_"],
        ["<|pz"],
    ]
    assert shown[2] == ("H", [" \nH"])
    assert "".join(str(turn) for _, turns in shown for turn in turns) == " \nHi <b <tox [T_ <|pz"
    assert parser.flush() == []


@pytest.mark.parametrize(
    "text, expected",
    [
        ("  ", ["  "]),
        (" a ", [" a "]),
        (f"{HERMES}  ", [ROME]),
        (f"  {HERMES}\n\n {HERMES}  x ", [ROME, ROME, "  x "]),
        (f"a {HERMES} ", ["a ", ROME]),
        (" <tool_call>x", [" <tool_call>x"]),
        (f" {LLAMA} ", [ROME]),
        (f"[{LLAMA}]", [ROME]),
        (f"[ {LLAMA} , {LLAMA} ] ", [ROME, ROME]),
        (f"{LLAMA};{LLAMA} ; {LLAMA};", [ROME, ROME, ROME]),
        (f"[{LLAMA}; {LLAMA}]", [f"[{LLAMA}; {LLAMA}]"]),
        (f"{LLAMA}, {LLAMA}", [f"{LLAMA}, {LLAMA}"]),
        ("[]", ["[]"]),
        ('{"name": "", "arguments": {}}', ['{"name": "", "arguments": {}}']),
        ('{"name": 5, "arguments": {}}', ['{"name": 5, "arguments": {}}']),
        ('{"name": "read"}', [ToolCall("read", "{}")]),
        ('{"arguments": {"a": 1}, "name": "read"}', [ToolCall("read", '{"a": 1}')]),
        ('{"name": "read", "arguments": [1]}', ['{"name": "read", "arguments": [1]}']),
        ('{"name": "read", "arguments": "[1]"}', ['{"name": "read", "arguments": "[1]"}']),
        ('{"name": "read", "arguments": "x"}', ['{"name": "read", "arguments": "x"}']),
        ('{"name": "read", "arguments": {"a": 1}, "parameters": {"b": 2}}', [ToolCall("read", '{"a": 1}')]),
        ('{"name": "read", "parameters": {"b": 2}, "arguments": {"a": 1}}', [ToolCall("read", '{"a": 1}')]),
        ('{"name": "read", "parameters": {"é": 2}}', [ToolCall("read", '{"é": 2}')]),
        ('{"name": "r\\u0065ad", "parameters": {"\\u00e9": 2}}', [ToolCall("read", '{"é": 2}')]),
        ("<|python_tag|>print(1)", ["<|python_tag|>print(1)"]),
        ("[TOOL_CALLS]", ["[TOOL_CALLS]"]),
        (
            f'[TOOL_CALLS] [{LLAMA}, {{"name": "new", "arguments": {{"a": 1}}}}]',
            [ROME, ToolCall("new", '{"a": 1}')],
        ),
        (f"[TOOL_CALLS] [{LLAMA}] Ok.", [ROME, "Ok."]),
        ("<tool_call></tool_call>", ["<tool_call></tool_call>"]),
    ],
)
def test_what_is_a_call_and_what_is_none(text: str, expected: list[str | ToolCall]) -> None:
    assert parse([text]) == expected
    assert parse(list(text)) == expected


def test_text_of_a_call() -> None:
    assert ToolCall('é"', '{"a": 1}').text == '{"name": "é\\"", "arguments": {"a": 1}'
    assert (ToolCall("a", "{}").whole, CallPiece().name, CallPiece().whole) == (True, None, False)


MARKERS = ["<tool_call>", " <tool_call>", "</tool_call>", "[TOOL_CALLS]", "<tool", "_call>", "<|python_tag|>"]
HEAD = '{"name": "read", "arguments": {'
OTHERS = [" ", "[", "]", "x", "<", '"', "\\", "{", "}", ",", ";", HEAD, '"a": 1', "}}", ', "id": 1}']
PIECE = st.sampled_from([*MARKERS, *OTHERS, LLAMA, HERMES, f" {HERMES}"])


@pytest.mark.slow
@settings(max_examples=1500)
@given(st.lists(PIECE, max_size=10), st.booleans())
@example(["<tool_call>", HEAD, '"', "\\", '"', "</tool_call>", '"', "}}", "</tool", "_call>", "x"], False)
def test_any_text_cut_in_any_way(pieces: list[str], forced: bool) -> None:
    text = "".join(pieces)
    whole = parse([text], forced)
    assert parse(pieces, forced) == parse(list(text), forced) == whole
    for part in whole:
        if isinstance(part, ToolCall):
            assert part.arguments in text or part.arguments in ("{}", '{"city": "Rome"}')
            assert _is_object(part.arguments) == part.whole
    if not any(isinstance(part, ToolCall) for part in whole):
        assert "".join(map(str, whole)) == text


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
