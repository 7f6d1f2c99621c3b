"""A call that must be made, in each family's own form: what the constraint lets through, and what is read of it."""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from rocmforge.artifacts.errors import RequestError
from rocmforge.runtime.text.answer_format import AnswerFormat
from rocmforge.runtime.text.answer_reader import AnswerReader, AnswerStart
from rocmforge.runtime.text.call_grammar import required_call
from rocmforge.runtime.text.call_turns import ToolCall, join_calls
from rocmforge.runtime.text.chat_formats import FORMATS, GENERAL
from rocmforge.runtime.text.chat_styles import ChatFormat
from rocmforge.runtime.text.constraints import ConstraintCompiler
from rocmforge.runtime.text.tokenizer import Tokenizer
from rocmforge.tests.support.tokenizers import byte_tokenizer


@dataclass(frozen=True)
class SomeTool:
    name: str
    parameters: dict[str, Any] | None
    description: str | None = None


GO = SomeTool(
    "go",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "unit": {"enum": ["C", "F"]},
            "lines": {"type": "array", "items": {"type": "integer"}},
            "more": {"type": "object", "properties": {"deep": {"type": "string"}, "line": {"$ref": "#/$defs/line"}}},
        },
        "required": ["city", "days", "unit"],
        "$defs": {"line": {"type": "integer"}},
    },
)
STAY = SomeTool("stay", None)
FORMED = [row for row in FORMATS if row.written]
# A control token in each family whose call has one: never one that ends generation, whose names llama.cpp knows.
MARKS = {
    "<|tool_call_begin|>",
    "[TOOL_CALLS]",
    "[ARGS]",
    "<|open|>",
    "<|close|>",
    "<|START_ACTION|>",
    "<|channel|>",
    "<|message|>",
    "<|sep|>",
    "<|message_sep|>",
    "<|role_sep|>",
    "]<]minimax[>[",
}
MARKED = byte_tokenizer(*sorted(MARKS))
PLAIN = byte_tokenizer()
TAGS = re.compile(r"\]<\]minimax\[>\[<([^/<>]+)>")
IDS = [pytest.param(row, id=row.family) for row in FORMED]


def answers(row: ChatFormat, tokenizer: Tokenizer) -> AnswerFormat:
    marks = [mark for mark in tokenizer.control_texts.texts if any(mark in text for text in row.texts)]
    return AnswerFormat(row, tuple(tokenizer.encode(mark, add_special=False)[0] for mark in marks), tuple(marks))


def read(form: AnswerFormat, text: str) -> tuple[str, str, list[ToolCall]]:
    reader = AnswerReader(form.format, (GO, STAY), AnswerStart(constrained=True, formed=True), form.hidden)
    said = [*map(reader.push, text), reader.flush()]
    turns = [turn for _, found in said for turn in found]
    content = "".join(turn for turn in turns if isinstance(turn, str))
    return "".join(reasoning for reasoning, _ in said), content, join_calls(turns)


def closing_text(form: AnswerFormat, text: str) -> str:
    """What ends a text among the arguments of a call that goes so far."""
    channels = form.format.channels
    style = getattr(form.format.calls if channels is None else channels.calls, "arguments", None)
    key = TAGS.findall(text)[-1:] or [""]
    close = str(getattr(style, "close", "")).format(key=key[0])
    return close or '<|"|>' * (form.format.family == "Gemma 4") or '"'


def written(form: AnswerFormat, tokenizer: Tokenizer, seed: int, tools: tuple[SomeTool, ...] = (GO, STAY)) -> str:
    """A text that the constraint allows, drawn; where anything goes, what ends it comes soon."""
    matcher = ConstraintCompiler(tokenizer).compile(required_call(form, tools))
    drawn, ids = random.Random(seed), list[int]()
    ends = set(tokenizer.config.eos_token_ids)
    digits = set(tokenizer.encode("0123456789-+.eE", add_special=False))
    for _ in range(600):
        bits = np.unpackbits(matcher.mask().view(np.uint8), bitorder="little")[: tokenizer.config.vocab_size]
        allowed = [int(token) for token in np.flatnonzero(bits) if token not in ends]
        if not allowed:
            break
        closing = tokenizer.encode(closing_text(form, tokenizer.decode(ids, skip_special=False)), add_special=False)
        have = max(size for size in range(len(closing)) if ids[len(ids) - size :] == closing[:size])
        if closing[have] in allowed and (have or len(allowed) > 100):
            allowed = [closing[have]]
        elif len(allowed) > 100:
            allowed = tokenizer.encode("x", add_special=False)
        token = drawn.choice([one for one in allowed if one not in digits] or allowed)
        ids.append(token)
        if matcher.take(token):
            break
    return tokenizer.decode(ids, skip_special=False)


@pytest.mark.parametrize("row", IDS)
@pytest.mark.parametrize("tokenizer", [PLAIN, MARKED], ids=["plain", "marked"])
def test_what_is_allowed_is_a_call_and_nothing_else(row: ChatFormat, tokenizer: Tokenizer) -> None:
    form = answers(row, tokenizer)
    names = set()
    for seed in range(4):
        text = written(form, tokenizer, seed)
        reasoning, content, calls = read(form, text)
        assert (reasoning, content.strip()) == ("", ""), text
        (call,) = calls
        assert call.whole, text
        names.add(call.name)
        arguments = json.loads(call.arguments)
        if call.name == "go":
            assert arguments.keys() >= {"city", "days", "unit"}, text
            assert isinstance(arguments["city"], str)
            assert isinstance(arguments["days"], int)
            assert arguments["unit"] in ("C", "F")
            assert all(isinstance(line, int) for line in arguments.get("lines", ()))
            more = arguments.get("more", {})
            assert more.keys() <= {"deep", "line"}
            assert isinstance(more.get("deep", ""), str)
            assert row.family == "Gemma 4" or isinstance(more.get("line", 0), int)  # there references bind nothing
    assert names <= {"go", "stay"}


@pytest.mark.parametrize("row", IDS)
def test_a_tool_without_parameters_takes_none(row: ChatFormat) -> None:
    """As OpenAI's reference has it: "Omitting `parameters` defines a function with an empty parameter list"."""
    form = answers(row, PLAIN)
    for seed in range(4):
        _, _, (call,) = read(form, written(form, PLAIN, seed, (STAY,)))
        assert (call.name, json.loads(call.arguments)) == ("stay", {})


def test_a_family_without_a_form_calls_in_json() -> None:
    spec = required_call(AnswerFormat(GENERAL), (STAY,))
    assert (spec.kind, spec.parameter) == ("json_schema", "tools")
    assert [row.family for row in FORMATS if not row.written] == []


def test_a_control_token_is_asked_for_as_such() -> None:
    row = next(row for row in FORMED if row.family.startswith("Mistral"))
    matcher = ConstraintCompiler(MARKED).compile(required_call(answers(row, MARKED), (STAY,)))
    (first,) = np.flatnonzero(np.unpackbits(matcher.mask().view(np.uint8), bitorder="little"))
    assert MARKED.token_bytes(int(first), skip_special=False) == b"[TOOL_CALLS]"


def test_a_schema_that_is_too_deep() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"items": deep}
    row = next(row for row in FORMED if row.family.startswith("Kimi K2"))
    with pytest.raises(RequestError, match=r"^tools: nested too deep$"):
        required_call(AnswerFormat(row), (SomeTool("go", deep),))
    while deep:  # one that Python takes apart by itself would exhaust its stack
        deep = deep["items"]


@pytest.mark.parametrize("key", ['a"b', "a\nb", "a\\", "é🎉", "\x00", "%json", "<[1]>", "//c", "$ref"])
@pytest.mark.parametrize("row", IDS)
def test_names_are_no_part_of_the_grammar(row: ChatFormat, key: str) -> None:
    """What a client names is text in it: it compiles, whatever that is."""
    parts = [{"type": "string"}, {"enum": [key]}, {"type": "object", "properties": {key: {"type": "integer"}}}]
    schema = {"type": "object", "properties": {f"{key}{index}": part for index, part in enumerate(parts)}}
    matcher = ConstraintCompiler(PLAIN).compile(required_call(answers(row, PLAIN), (SomeTool(key, schema),)))
    assert matcher.mask().any()


# A call of `go` as each family writes it, by llama.cpp's own chat tests (tests/test-chat.cpp of 11434).
AS_WRITTEN = {
    "Muse": ' to=go<|message|><atem:function_calls>\n<atem:invoke name="go">\n<atem:parameter name="arg1">1'
    "</atem:parameter>\n</atem:invoke>\n</atem:function_calls>",
    "MiniMax M3": ']<]minimax[>[<tool_call>\n]<]minimax[>[<invoke name="go">]<]minimax[>[<arg1>1]<]minimax[>[</arg1>'
    "]<]minimax[>[<tags>]<]minimax[>[<item>a]<]minimax[>[</item>]<]minimax[>[<item>b]<]minimax[>[</item>"
    "]<]minimax[>[</tags>]<]minimax[>[</invoke>\n]<]minimax[>[</tool_call>",
    "GigaChat 3": '<|message_sep|>\n\nfunction call<|role_sep|>\n{"name": "go", "arguments": {"arg1": 1}}',
    "Hermes, Qwen, Granite 4 and many others": '<tool_call>\n{"name": "go", "arguments": {"arg1": 1}}\n</tool_call>',
    "Llama 3": '{"name": "go", "parameters": {"arg1": 1}}',
}


@pytest.mark.parametrize("family", AS_WRITTEN)
@pytest.mark.parametrize("tokenizer", [PLAIN, MARKED], ids=["plain", "marked"])
def test_a_call_as_the_family_writes_it_is_allowed(family: str, tokenizer: Tokenizer) -> None:
    tags = {"type": "array", "items": {"type": "string"}}
    tool = SomeTool("go", {"type": "object", "properties": {"arg1": {"type": "integer"}, "tags": tags}})
    row = next(row for row in FORMED if row.family == family)
    matcher = ConstraintCompiler(tokenizer).compile(required_call(answers(row, tokenizer), (STAY, tool)))
    for token in tokenizer.encode(AS_WRITTEN[family], add_special=False):
        assert np.unpackbits(matcher.mask().view(np.uint8), bitorder="little")[token]
        matcher.take(token)
