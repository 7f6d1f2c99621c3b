"""What a request's fields come to, and which are refused; what an answer's events come to."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Literal

import pytest

from rocmforge.artifacts.errors import RequestError
from rocmforge.artifacts.sampling import MAX_BIASES
from rocmforge.runtime.engine.failure import Failure
from rocmforge.runtime.engine.generation import SamplingParams, TokenEvent
from rocmforge.runtime.http.core.body import convert
from rocmforge.runtime.http.core.chat_answer import AnswerReader, join_parts
from rocmforge.runtime.http.core.conversation import (
    Conversation,
    TextTool,
    choose_tool,
    thinking_variables,
)
from rocmforge.runtime.http.core.generation_params import (
    GenerationParams,
    check_token_ids,
    constraint_of_format,
    read_params,
    read_seed,
)
from rocmforge.runtime.http.core.schema import FunctionTool, JsonSchemaFormat, ResponseFormat, SamplingFields
from rocmforge.runtime.http.core.service import ChatPrompt
from rocmforge.runtime.http.native.schema import GenerateRequest
from rocmforge.runtime.http.openai.schema import ChatRequest, CompletionRequest
from rocmforge.runtime.text.constraints import ConstraintSpec
from rocmforge.runtime.text.tool_prompt import call_schema, spell_out_tools

VOCAB = 300


def read(**fields: Any) -> GenerationParams:
    return read_params(SamplingFields(**fields), None, VOCAB, SamplingParams(top_k=7, temperature=0.5))


@pytest.mark.parametrize(
    "seed, expected",
    [(None, None), (0, 0), (5, 5), (-1, 2**64 - 1), (2**64 - 1, 2**64 - 1), (-(2**63), 2**63), (2**63, 2**63)],
)
def test_a_seed_has_64_bits_with_a_sign_or_without(seed: int | None, expected: int | None) -> None:
    assert read_seed(seed) == read(seed=seed).sampling.seed == expected


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1])
def test_a_seed_of_more(seed: int) -> None:
    with pytest.raises(RequestError) as caught:
        read_seed(seed, "options.seed")
    text = f"options.seed: expected an integer from {-(2**63)} to {2**64 - 1}, found {seed}"
    assert str(caught.value) == text


@pytest.mark.parametrize("top_k, expected", [(None, 7), (-1, 0), (0, 0), (1, 1), (300, 300), (301, 300)])
def test_top_k(top_k: int | None, expected: int) -> None:
    assert read(top_k=top_k).sampling.top_k == expected


def test_what_is_not_said_is_as_the_api_has_it() -> None:
    assert read() == GenerationParams(sampling=SamplingParams(top_k=7, temperature=0.5))
    given = read(temperature=0.0, stop="x", ignore_eos=True, stop_token_ids=[0, 299])
    assert given == GenerationParams(None, SamplingParams(top_k=7, temperature=0.0), ("x",), True, (0, 299))
    assert read(stop=["x", "y"]).stop == ("x", "y")


def test_the_penalty_in_other_clients_words() -> None:
    plain = read().sampling
    penalized = dataclasses.replace(plain, repetition_penalty=1.5)
    assert read(repeat_penalty=1.5).sampling == penalized
    assert read(repeat_penalty=1.5, repeat_last_n=64).sampling == penalized
    assert read(repeat_penalty=1.5, repeat_last_n=-1).sampling == penalized
    assert read(repeat_penalty=1.5, repeat_last_n=0).sampling == plain
    assert read(repetition_penalty=1.5, repeat_penalty=1.1).sampling == penalized
    for kind in (ChatRequest, CompletionRequest, GenerateRequest):
        asked = {"messages": [{"role": "user", "content": "x"}], "prompt": "x", "repeat_penalty": 0}
        with pytest.raises(RequestError, match=r"^repeat_penalty: expected float >= 0.01, found 0$"):
            convert(asked, kind)


def test_token_ids_are_the_models() -> None:
    assert check_token_ids("p", [0, 299], VOCAB) == (0, 299)
    for bad in (-1, 300):
        with pytest.raises(RequestError) as caught:
            check_token_ids("p", [5, bad], VOCAB)
        assert str(caught.value) == f"p: expected token ids from 0 to 299, found {bad}"


def test_biases() -> None:
    assert read(logit_bias={"0": 1.0, "299": -2.0, "000000007": 3.0, "7": 4.0}).sampling.logit_bias == (
        (0, 1.0),
        (299, -2.0),
        (7, 4.0),
    )
    for bad in ("300", "-1", "0000000007", "\u0667", "", "a", "1.0"):
        with pytest.raises(RequestError, match=r"^logit_bias: expected token ids from 0 to 299, found the string "):
            read(logit_bias={"1": 0.0, bad: 1.0})
    most = {str(token): 0.5 for token in range(MAX_BIASES + 1)}
    with pytest.raises(RequestError, match=f"expected at most {MAX_BIASES} tokens, found {MAX_BIASES + 1}"):
        read_params(SamplingFields(logit_bias=most), None, 10**6)
    most.pop("0")
    assert len(read_params(SamplingFields(logit_bias=most), None, 10**6).sampling.logit_bias) == MAX_BIASES


SCHEMA = {"type": "object"}


def test_formats() -> None:
    def spec(kind: Literal["text", "json_object", "json_schema"], **fields: Any) -> ConstraintSpec | None:
        return constraint_of_format(ResponseFormat(type=kind, **fields), "p")

    assert constraint_of_format(None) is None
    assert spec("text") is None
    assert spec("json_object") == ConstraintSpec("json_object", None, "p")
    for found in (
        spec("json_object", schema=SCHEMA),
        spec("json_schema", schema=SCHEMA),
        spec("json_schema", json_schema=JsonSchemaFormat(schema=SCHEMA)),
    ):
        assert found == ConstraintSpec("json_schema", SCHEMA, "p")
    with pytest.raises(RequestError) as caught:
        spec("json_schema")
    assert str(caught.value) == "p.json_schema: expected an object with a schema, found nothing"


def test_one_constraint_at_most() -> None:
    sources: dict[str, Any] = {"json_schema": SCHEMA, "regex": "a+", "grammar": 'root ::= "a"'}
    for name, source in sources.items():
        assert read(**{name: source}).constraint == ConstraintSpec(name, source, name)  # type: ignore[arg-type]
    assert read(grammar="").constraint is None
    assert read(grammar="", regex="").constraint == ConstraintSpec("regex", "", "regex")
    assert read(response_format=ResponseFormat(type="text"), regex="a").constraint == ConstraintSpec(
        "regex", "a", "regex"
    )
    pairs = [("json_schema", "regex"), ("json_schema", "grammar"), ("regex", "grammar")]
    for first, second in pairs:
        with pytest.raises(RequestError, match=f"^{second}: expected no other constraint beside {first}$"):
            read(**{name: sources[name] for name in (first, second)})
    with pytest.raises(RequestError, match=r"^regex: expected no other constraint beside response_format$"):
        read(response_format=ResponseFormat(type="json_object"), regex="a")


CITY = {"type": "object", "properties": {"at": {"$ref": "#/$defs/at"}}, "$defs": {"at": {"anyOf": [{"$ref": "#"}]}}}
TOOLS = (FunctionTool(name="go", description="Goes.", parameters=CITY), FunctionTool(name="stay"))


def called(name: str, arguments: object) -> dict[str, object]:
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def test_references_of_a_tools_schema_hold_where_it_comes_to_lie() -> None:
    def city(at: str) -> dict[str, object]:
        where = f"{at}/properties/arguments"
        properties = {"at": {"$ref": f"{where}/$defs/at"}}
        return {"type": "object", "properties": properties, "$defs": {"at": {"anyOf": [{"$ref": where}]}}}

    assert call_schema(TOOLS[:1]) == called("go", city("#"))
    none = {"type": "object", "properties": {}, "additionalProperties": False}
    assert call_schema(TOOLS) == {"anyOf": [called("go", city("#/anyOf/0")), called("stay", none)]}
    assert call_schema([FunctionTool(name="go", parameters={})]) == called("go", {"type": "object"})
    elsewhere = FunctionTool(name="go", parameters={"$ref": "https://x/y", "properties": {"$ref": {"type": "null"}}})
    assert call_schema([elsewhere]) == called("go", elsewhere.parameters)


@pytest.mark.parametrize(
    "choice, name, expected",
    [
        (None, None, (TOOLS, "auto")),
        ("auto", None, (TOOLS, "auto")),
        ("none", None, (TOOLS, "none")),
        ("required", None, (TOOLS, "required")),
        ("auto", "stay", (TOOLS[1:], "required")),
    ],
)
def test_which_tools_may_be_called(choice: str | None, name: str | None, expected: object) -> None:
    assert choose_tool(TOOLS, choice, name, "p") == expected
    with pytest.raises(RequestError, match=r"^p: expected the name of one of the tools$"):
        choose_tool(TOOLS, choice, "gone", "p")


def test_what_must_be_called_constrains_the_answer() -> None:
    assert Conversation((), tools=TOOLS).constrained() == GenerationParams()
    spec = Conversation((), tools=TOOLS, tool_choice="required").constrained().constraint
    assert spec == ConstraintSpec("json_schema", call_schema(TOOLS), "tools")
    shaped = GenerationParams(constraint=ConstraintSpec("json_object", None, "response_format"))
    assert Conversation((), shaped, TOOLS, "required").constrained().constraint == spec
    lark = ConstraintSpec("grammar", "g", "tools[0]")
    assert Conversation((), shaped, TOOLS, "required", text_tool=TextTool("go", lark)).constrained().constraint == lark
    with pytest.raises(RequestError, match=r"^tool_choice: expected tools beside it, found none$"):
        Conversation((), tool_choice="required").constrained()
    for kind in ("regex", "grammar"):
        own = GenerationParams(constraint=ConstraintSpec(kind, "a", kind))
        assert Conversation((), own, TOOLS).constrained() == own
        with pytest.raises(RequestError, match=f"^{kind}: expected no {kind} beside a required tool$"):
            Conversation((), own, TOOLS, "required").constrained()


def test_when_nothing_can_be_thought_before_the_answer() -> None:
    shaped = GenerationParams(constraint=ConstraintSpec("json_object", None, "p"))
    assert not Conversation(()).begins_at_once
    assert Conversation((), shaped).begins_at_once
    assert Conversation((), tools=TOOLS, tool_choice="required").begins_at_once
    lark = ConstraintSpec("grammar", "g", "p")
    for constraint, expected in ((lark, True), (None, False)):
        text_tool = TextTool("go", constraint)
        one = Conversation((), shaped, TOOLS, "required", text_tool=text_tool)
        assert one.begins_at_once == expected
    assert Conversation((), tools=TOOLS, tool_choice="none").usable_tools == ()


@pytest.mark.parametrize(
    "effort, expected",
    [
        (None, {}),
        ("none", {"reasoning_effort": "none", "enable_thinking": False}),
        ("minimal", {"reasoning_effort": "minimal", "enable_thinking": False}),
        ("low", {"reasoning_effort": "low", "enable_thinking": True}),
    ],
)
def test_how_much_is_thought(effort: str | None, expected: dict[str, object]) -> None:
    assert thinking_variables(effort) == expected


def test_tools_for_a_template_that_knows_of_none() -> None:
    call = {"function": {"name": "go", "arguments": {"at": "\u00e9"}}, "id": "c"}
    talk: list[dict[str, object]] = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Look.", "tool_calls": [call, call]},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "sunny"},
    ]
    text = '<tool_call>\n{"name": "go", "arguments": {"at": "\u00e9"}}\n</tool_call>'
    plain = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": f"Look.\n{text}\n{text}"},
        {"role": "assistant", "content": text},
        {"role": "user", "content": "<tool_response>\nsunny\n</tool_response>"},
    ]
    assert spell_out_tools(talk, ()) == plain
    first, *rest = spell_out_tools(talk, TOOLS)
    assert rest == plain
    assert first["role"] == "system"
    lines = str(first["content"]).splitlines()
    begin, end = lines.index("<tools>"), lines.index("</tools>")
    assert [json.loads(line)["function"]["name"] for line in lines[begin + 1 : end]] == ["go", "stay"]
    system: dict[str, object] = {"role": "system", "content": "Be brief."}
    told, *rest = spell_out_tools([system, *talk], TOOLS)
    assert (told["content"], rest) == (f"Be brief.\n\n{first['content']}", plain)


def parts_of(conversation: Conversation, *events: TokenEvent) -> Any:
    reader = AnswerReader(conversation, ChatPrompt("", (), inside_reasoning=False))
    return join_parts([reader.read(event) for event in events])


CALL = '<tool_call>{"name": "go", "arguments": {}}</tool_call>'


@pytest.mark.parametrize(
    "text, reason, expected",
    [
        ("a", "eos", "stop"),
        ("a", "stop", "stop"),
        ("a", "length", "length"),
        ("a", "cancelled", "cancelled"),
        ("a", "failed", "failed"),
        (CALL, "eos", "tool_calls"),
        (CALL, "length", "tool_calls"),
        (CALL, "failed", "failed"),
        (CALL, "cancelled", "cancelled"),
        (CALL[:40], "length", "length"),
    ],
)
def test_why_an_answer_ended(text: str, reason: str, expected: str) -> None:
    error = Failure("lost") if reason == "failed" else None
    answer = parts_of(Conversation((), tools=TOOLS), TokenEvent(1, text), TokenEvent(None, "", True, reason, error))
    assert (answer.finish_reason, answer.tokens, answer.error) == (expected, 1, error)


@pytest.mark.parametrize("parallel, names", [(True, ["go", "go"]), (False, ["go"])])
def test_one_call_where_there_may_be_one_alone(parallel: bool, names: list[str]) -> None:
    conversation = Conversation((), tools=TOOLS, parallel_tool_calls=parallel)
    events = [TokenEvent(1, CALL), TokenEvent(2, CALL), TokenEvent(3, "", True, "eos")]
    answer = parts_of(conversation, *events)
    assert [call.name for call in answer.calls] == names
    assert (answer.tokens, answer.finish_reason) == (3, "tool_calls")
