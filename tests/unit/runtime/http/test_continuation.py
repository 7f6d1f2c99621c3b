"""A last message of the assistant's is gone on with, on every API that has conversations."""

from __future__ import annotations

from typing import Any

import falcon.testing
import pytest

from rocmforge.runtime.text.chat_formats import format_of
from rocmforge.runtime.text.continuation import continue_prompt
from rocmforge.tests.support.fake_engine import FakeEngine, FakeTemplate, make_app

ASK = {"role": "user", "content": "Who?"}
BEGUN = {"role": "assistant", "content": "It is "}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
OPENED = "user:Who?\n"  # by the fake template, which has no words for the assistant's turn
HARMONY = "<|channel|>analysis<|message|>"


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def template() -> FakeTemplate:
    return FakeTemplate()


@pytest.fixture
def client(engine: FakeEngine, template: FakeTemplate) -> falcon.testing.TestClient:
    return falcon.testing.TestClient(make_app(engine, template=template))


def prompt_of(engine: FakeEngine) -> str:
    return bytes(token for token in engine.last.request.prompt_token_ids if token < 256).decode()


@pytest.mark.parametrize(
    "path, body",
    [
        ("/v1/chat/completions", {}),
        ("/v1/chat/completions", {"continue_final_message": True}),
        ("/v1/chat/completions", {"continue_final_message": True, "add_generation_prompt": False}),
        ("/v1/chat/completions", {"continue_final_message": "content", "add_generation_prompt": False}),
        ("/v1/chat/completions", {"add_generation_prompt": True}),
        ("/v1/messages", {"max_tokens": 9}),
        ("/api/chat", {"model": "org/tiny:q4", "stream": False}),
    ],
)
def test_the_answer_goes_on(
    client: falcon.testing.TestClient, engine: FakeEngine, template: FakeTemplate, path: str, body: dict[str, Any]
) -> None:
    result = client.simulate_post(path, json={"messages": [ASK, BEGUN], **body})
    assert result.status_code == 200, result.text
    assert prompt_of(engine) == OPENED + "It is "
    assert template.opens
    assert " Paris, in France." in result.text
    assert "It is" not in result.text


@pytest.mark.parametrize(
    "last, body, prompt, opens",
    [
        (BEGUN, {"continue_final_message": False}, f"{OPENED}assistant:It is \n", True),
        (
            BEGUN,
            {"continue_final_message": False, "add_generation_prompt": False},
            f"{OPENED}assistant:It is \n",
            False,
        ),
        (ASK, {"add_generation_prompt": False}, OPENED * 2, False),
        ({"role": "assistant", "tool_calls": [CALL]}, {}, f"{OPENED}assistant:\n", True),
    ],
)
def test_or_it_does_not(
    client: falcon.testing.TestClient,
    engine: FakeEngine,
    template: FakeTemplate,
    last: dict[str, Any],
    body: dict[str, Any],
    prompt: str,
    opens: bool,
) -> None:
    assert client.simulate_post("/v1/chat/completions", json={"messages": [ASK, last], **body}).status_code == 200
    assert (prompt_of(engine), template.opens) == (prompt, opens)


@pytest.mark.parametrize(
    "messages, body",
    [
        ([ASK, BEGUN], {"add_generation_prompt": True}),
        ([ASK], {}),
        ([ASK, {"role": "assistant", "tool_calls": [CALL]}], {}),
    ],
)
def test_what_cannot_be_gone_on_with_is_a_400(
    client: falcon.testing.TestClient, messages: list[Any], body: dict[str, Any]
) -> None:
    asked = {"messages": messages, "continue_final_message": True, **body}
    result = client.simulate_post("/v1/chat/completions", json=asked)
    assert (result.status_code, result.json["error"]["param"]) == (400, "continue_final_message")
    result = client.simulate_post("/apply-template", json=asked)
    assert (result.status_code, "continue_final_message: " in result.text) == (400, True)


@pytest.mark.parametrize(
    "opened, reasoning, content, prompt, inside",
    [
        ("A:", "", "It", "A:It", False),
        ("A:", "", "", "A:", False),
        ("A:", "Hm", "It", "A:<think>\nHm\n</think>\n\nIt", False),
        ("A:", "Hm", "", "A:<think>\nHm", True),
        ("A:<think>\n", "Hm", "", "A:<think>\nHm", True),
        ("A:<think>\n", "Hm", "It", "A:<think>\nHm\n</think>\n\nIt", False),
        ("A:<think>\n", "", "It", "A:<think>\n\n</think>\n\nIt", False),
        ("A:<think>\n", "", "", "A:<think>\n", True),
        ("A:<think>\n\n</think>\n\n", "Hm", "It", "A:<think>\n\n</think>\n\nIt", False),
    ],
)
def test_reasoning_stands_before_the_content(
    opened: str, reasoning: str, content: str, prompt: str, inside: bool
) -> None:
    message: dict[str, object] = {"role": "assistant", "content": content, "reasoning_content": reasoning}
    assert continue_prompt(opened, message) == (prompt, inside)


@pytest.mark.parametrize(
    "sign, opened, reasoning, content, prompt, inside",
    [
        ("[TOOL_CALLS][ARGS]", "A:", "Hm", "It", "A:[THINK]Hm[/THINK]It", False),
        ("[TOOL_CALLS][ARGS]", "A:[THINK]", "Hm", "", "A:[THINK]Hm", True),
        ("[TOOL_CALLS][ARGS]", "A:", "", "It", "A:It", False),
        (HARMONY, "A:", "Hm", "", f"A:{HARMONY}Hm", True),
        (HARMONY, "A:", "Hm", "It", f"A:{HARMONY}Hm<|end|><|start|>assistant<|channel|>final<|message|>It", False),
        (HARMONY, "A:", "", "It", "A:<|channel|>final<|message|>It", False),
        (HARMONY, "A:", "", "", "A:", False),
    ],
)
def test_reasoning_stands_in_the_marks_of_the_family(
    sign: str, opened: str, reasoning: str, content: str, prompt: str, inside: bool
) -> None:
    message: dict[str, object] = {"role": "assistant", "content": content, "reasoning_content": reasoning}
    assert continue_prompt(opened, message, format_of(sign)) == (prompt, inside)
    assert continue_prompt(opened, None, format_of(sign)) == (opened, opened.endswith("[THINK]"))


def test_reasoning_goes_on() -> None:
    engine = FakeEngine(reply=["mm.", "</think>", "Paris"])
    client = falcon.testing.TestClient(make_app(engine))
    last = {"role": "assistant", "content": "", "reasoning_content": "H"}
    body = {"messages": [ASK, last], "continue_final_message": "reasoning_content"}
    message = client.simulate_post("/v1/chat/completions", json=body).json["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("mm.", "Paris")
    assert prompt_of(engine) == OPENED + "<think>\nH"


def test_tools_that_are_spelled_out_stand_before_it() -> None:
    engine, template = FakeEngine(), FakeTemplate()
    template.takes_tools = False
    client = falcon.testing.TestClient(make_app(engine, template=template))
    tool = {"type": "function", "function": {"name": "f"}}
    body = {"messages": [ASK, BEGUN], "tools": [tool], "max_tokens": 5}
    engine.max_context = 4096
    assert client.simulate_post("/v1/chat/completions", json=body).status_code == 200
    assert prompt_of(engine).endswith(f"</tool_call>\n{OPENED}It is ")
