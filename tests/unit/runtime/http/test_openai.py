"""The /v1 endpoints: shapes, streams, and what they refuse."""

from __future__ import annotations

import falcon.testing
import pytest

from rocmforge.tests.support.fake_engine import FakeEngine, FakeTemplate, make_app
from rocmforge.tests.support.openai_requests import HELLO, chat, complete, stream_of


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def client(engine: FakeEngine) -> falcon.testing.TestClient:
    return falcon.testing.TestClient(make_app(engine))


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, object]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def test_chat(client: falcon.testing.TestClient, engine: FakeEngine) -> None:
    document = chat(client, model="org/tiny:q4").json
    assert document["id"].startswith("chatcmpl-1")
    assert (document["object"], document["model"]) == ("chat.completion", "org/tiny:q4")
    assert document["system_fingerprint"] == "sha256-abc"
    assert document["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": " Paris, in France.", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert document["usage"] == usage(9, 5)
    assert engine.last.request.max_tokens == 128 - 9
    assert engine.last.request.sampling.top_k == 0


def test_chat_stream(client: falcon.testing.TestClient) -> None:
    chunks = stream_of(chat(client, stream=True, max_completion_tokens=2))
    assert chunks[-1] == "[DONE]"
    assert [c["choices"][0]["delta"] for c in chunks[:-1]] == [
        {"role": "assistant", "content": None},
        {"content": " Paris"},
        {"content": ","},
        {},
    ]
    assert [c["choices"][0]["finish_reason"] for c in chunks[:-1]] == [None, None, None, "length"]
    assert {c["object"] for c in chunks[:-1]} == {"chat.completion.chunk"}
    assert len({c["id"] for c in chunks[:-1]}) == 1
    assert all("usage" not in c for c in chunks[:-1])


def test_chat_stream_ends_with_usage_where_asked(client: falcon.testing.TestClient) -> None:
    chunks = stream_of(chat(client, stream=True, stream_options={"include_usage": True}))
    assert chunks[-2]["choices"] == []
    assert chunks[-2]["usage"] == usage(9, 5)
    assert chunks[-3]["choices"][0]["delta"] == {}
    assert chunks[-3]["usage"] is None


def test_chat_takes_all_forms_of_messages(engine: FakeEngine) -> None:
    template = FakeTemplate()
    client = falcon.testing.TestClient(make_app(engine, template=template))
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    parsed = {**call, "function": {"name": "f", "arguments": {}}}  # templates write the object as they like
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]},
        {"role": "user", "content": "hi", "name": "Ann"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
    ]
    extras = {"tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "reasoning_effort": "low"}
    assert chat(client, messages=messages, **extras).status_code == 200
    assert list(template.messages) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi", "name": "Ann"},
        {"role": "assistant", "content": "", "tool_calls": [parsed]},
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
    ]


def test_a_call_that_was_broken_off_is_text_when_it_comes_back(engine: FakeEngine) -> None:
    template = FakeTemplate()
    client = falcon.testing.TestClient(make_app(engine, template=template))
    broken = '{"name": "f", "arguments": {"a": '
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": '}}
    whole = {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "{}"}}
    turn = {"role": "assistant", "content": "So.", "tool_calls": [call, whole]}
    assert chat(client, messages=[*HELLO, turn, *HELLO]).status_code == 200
    parsed = {**whole, "function": {"name": "g", "arguments": {}}}
    assert template.messages[1] == {"role": "assistant", "content": f"So.\n{broken}", "tool_calls": [parsed]}
    item = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a": '}
    body = {"input": [{"role": "user", "content": "hi"}, item]}
    assert client.simulate_post("/v1/responses", json=body).status_code == 200
    assert template.messages[1] == {"role": "assistant", "content": broken}


@pytest.mark.parametrize("prefix", ["", "<s>"])
def test_bos_comes_once(engine: FakeEngine, prefix: str) -> None:
    client = falcon.testing.TestClient(make_app(engine, template=FakeTemplate(prefix)))
    assert chat(client).status_code == 200
    assert engine.last.request.prompt_token_ids.count(256) == 1


def test_a_template_that_refuses_is_a_400(client: falcon.testing.TestClient) -> None:
    result = chat(client, messages=[{"role": "assistant", "content": "x"}])
    assert (result.status_code, result.json["error"]["param"]) == (400, "messages")


def test_completion(client: falcon.testing.TestClient, engine: FakeEngine) -> None:
    document = complete(client, echo=True, stop="\nuser:", user="me").json
    assert document["id"].startswith("cmpl-1")
    assert document["object"] == "text_completion"
    assert document["choices"] == [
        {"text": "hi Paris, in France.", "index": 0, "logprobs": None, "finish_reason": "stop"}
    ]
    assert document["usage"]["total_tokens"] == 8
    assert (engine.last.request.max_tokens, engine.last.request.stop) == (16, ("\nuser:",))


@pytest.mark.parametrize("prompt", ["hi", ["hi"], [256, 104, 105], [[256, 104, 105]]])
def test_completion_takes_one_prompt_in_any_form(
    client: falcon.testing.TestClient, engine: FakeEngine, prompt: object
) -> None:
    assert complete(client, prompt=prompt, echo=True).json["choices"][0]["text"].startswith("hi ")
    assert engine.last.request.prompt_token_ids == (256, 104, 105)


def test_a_completion_of_no_tokens(client: falcon.testing.TestClient, engine: FakeEngine) -> None:
    """The prompt is computed, and may fill the context; nothing is drawn."""
    document = complete(client, prompt="x" * 127, max_tokens=0).json
    assert document["choices"] == [{"text": "", "index": 0, "logprobs": None, "finish_reason": "length"}]
    assert document["usage"] == usage(128, 0)
    assert engine.last.request.max_tokens == 0
    chunks = stream_of(complete(client, max_tokens=0, echo=True, stream=True))
    assert [(c["choices"][0]["text"], c["choices"][0]["finish_reason"]) for c in chunks[:-1]] == [
        ("hi", None),
        ("", "length"),
    ]
    assert complete(client, prompt="x" * 128, max_tokens=0).json["error"]["code"] == "context_length_exceeded"


def test_completion_stream(client: falcon.testing.TestClient) -> None:
    options = {"include_usage": True}
    chunks = stream_of(complete(client, stream=True, echo=True, max_tokens=1, stream_options=options))
    assert [c["choices"][0]["text"] for c in chunks[:-2]] == ["hi", " Paris", ""]
    assert [c["choices"][0]["finish_reason"] for c in chunks[:-2]] == [None, None, "length"]
    assert chunks[-2]["usage"]["completion_tokens"] == 1
    assert chunks[-1] == "[DONE]"


def test_a_failure_ends_the_stream_with_an_error(client: falcon.testing.TestClient, engine: FakeEngine) -> None:
    engine.fail_after = 1
    chunks = stream_of(chat(client, stream=True))
    assert chunks[-1]["error"] == {
        "message": "the device is lost",
        "type": "server_error",
        "param": None,
        "code": None,
    }
    assert chat(client).status_code == 500
    assert complete(client).json["error"]["message"] == "the device is lost"


def test_models(client: falcon.testing.TestClient) -> None:
    document = client.simulate_get("/v1/models").json
    assert document["object"] == "list"
    model = document["data"][0]
    assert {k: model[k] for k in ("id", "object", "created", "owned_by")} == {
        "id": "org/tiny:q4",
        "object": "model",
        "created": 1700000000,
        "owned_by": "rocmforge",
    }
    assert model["compact_id"] == "org/tiny:q4|Q4_K_M|0|272|0|300"
    assert (model["quantization"], model["tensor_count"], model["loaded"]) == ("Q4_K_M", 272, True)
    assert len(client.simulate_get("/v1/models/org/tiny:q4").content) < 1024
    assert client.simulate_get("/v1/models/org/tiny:q4").json == model
    assert client.simulate_get("/v1/models/org%2Ftiny%3Aq4/").json == model
    missing = client.simulate_get("/v1/models/other")
    assert (missing.status_code, missing.json["error"]["code"]) == (404, "model_not_found")


UNSUPPORTED = [
    ("chat", "response_format", {"type": "json_object"}),  # this service has no library for it
    ("text", "best_of", 2),
    ("text", "suffix", "x"),
]


@pytest.mark.parametrize("endpoint, name, value", UNSUPPORTED)
def test_what_is_not_supported_is_refused_by_name(
    client: falcon.testing.TestClient, endpoint: str, name: str, value: object
) -> None:
    result = (chat if endpoint == "chat" else complete)(client, **{name: value})
    assert result.status_code == 400
    error = result.json["error"]
    assert (error["param"], error["code"], error["type"]) == (
        name,
        "unsupported_parameter",
        "invalid_request_error",
    )


def test_a_required_tool_needs_tools(client: falcon.testing.TestClient) -> None:
    result = chat(client, tool_choice="required")
    assert (result.status_code, result.json["error"]["param"]) == (400, "tool_choice")


def test_a_model_that_is_not_here(client: falcon.testing.TestClient) -> None:
    for result in (chat(client, model="other"), complete(client, model="other")):
        assert (result.status_code, result.json["error"]["code"]) == (404, "model_not_found")
        assert "org/tiny:q4" in result.json["error"]["message"]
    assert chat(client, model="org/tiny:q4:latest").status_code == 200


def test_several_answers(client: falcon.testing.TestClient, engine: FakeEngine) -> None:
    document = chat(client, n=3, seed=7).json
    assert [choice["index"] for choice in document["choices"]] == [0, 1, 2]
    assert [generation.request.sampling.seed for generation in engine.generations] == [7, 8, 9]
    assert document["usage"] == usage(9, 15)
    chunks = stream_of(chat(client, n=2, stream=True))
    ends = [c["choices"][0]["index"] for c in chunks[:-1] if c["choices"][0]["finish_reason"]]
    assert sorted(ends) == [0, 1]


def test_several_prompts(client: falcon.testing.TestClient, engine: FakeEngine) -> None:
    document = complete(client, prompt=["ab", "c"], n=2, echo=True).json
    texts = [choice["text"] for choice in document["choices"]]
    assert texts == ["ab Paris, in France."] * 2 + ["c Paris, in France."] * 2
    assert document["usage"]["prompt_tokens"] == 3 + 2
    chunks = stream_of(complete(client, prompt=["ab", "c"], echo=True, stream=True))
    for index, echo in enumerate(["ab", "c"]):
        parts = [c["choices"][0]["text"] for c in chunks[:-1] if c["choices"][0]["index"] == index]
        assert "".join(parts) == echo + " Paris, in France."


@pytest.mark.parametrize("name", ["logprobs", "logit_bias", "suffix", "n", "best_of", "stop", "max_tokens", "seed"])
def test_null_is_absent(client: falcon.testing.TestClient, name: str) -> None:
    assert complete(client, **{name: None}).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_F48_a_prompt_past_the_context_is_a_400(
    client: falcon.testing.TestClient, engine: FakeEngine, stream: bool
) -> None:
    result = chat(client, messages=[{"role": "user", "content": "x" * 200}], stream=stream)
    assert result.status_code == 400
    assert result.json["error"]["code"] == "context_length_exceeded"
    assert result.json["error"]["param"] == "prompt"
    result = complete(client, max_tokens=126, stream=stream)
    assert (result.json["error"]["code"], result.json["error"]["param"]) == (
        "context_length_exceeded",
        "max_tokens",
    )
    native = client.simulate_post("/generate", json={"prompt": "x" * 200})
    assert (native.status_code, native.json["status"]) == (400, "error")
    assert engine.generations == []
    assert complete(client, max_tokens=125).status_code == 200


@pytest.mark.parametrize("prompt", [[300], [-1], [True], [1.5], [], ["a", 1], {}, None, [2**70], [[]]])
def test_F49_token_ids_out_of_range(client: falcon.testing.TestClient, prompt: object) -> None:
    result = complete(client, prompt=prompt)
    assert (result.status_code, result.json["error"]["param"]) == (400, "prompt")


def entry(token: int, logprob: float) -> dict[str, object]:
    return {"token": chr(token), "logprob": logprob, "bytes": [token]}


@pytest.mark.parametrize("top", [0, 2])
def test_chat_logprobs(client: falcon.testing.TestClient, top: int) -> None:
    """-9999 stands for minus infinity, which is no JSON."""
    drawn = [entry(100, -0.5), entry(101, -0.5)]
    expected = [{**item, "top_logprobs": [item, entry(65, -9999)][:top]} for item in drawn]
    asked = {"logprobs": True, "top_logprobs": top, "max_tokens": 2}
    assert chat(client, **asked).json["choices"][0]["logprobs"] == {"content": expected, "refusal": None}
    chunks = stream_of(chat(client, stream=True, **asked))[:-1]
    found = [c["choices"][0]["logprobs"] for c in chunks if c["choices"][0]["logprobs"]]
    assert [document["content"] for document in found] == [[item] for item in expected]


def test_completion_logprobs(client: falcon.testing.TestClient) -> None:
    document = complete(client, logprobs=1, max_tokens=2).json["choices"][0]["logprobs"]
    assert document == {
        "tokens": ["d", "e"],
        "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [{"d": -0.5}, {"e": -0.5}],
        "text_offset": [0, 1],
    }
    chunks = stream_of(complete(client, stream=True, logprobs=1, max_tokens=2))[:-1]
    streamed = [c["choices"][0]["logprobs"] for c in chunks if c["choices"][0]["logprobs"]]
    assert {key: [item for part in streamed for item in part[key]] for key in document} == document


def test_parameters_reach_the_engine(client: falcon.testing.TestClient, engine: FakeEngine) -> None:
    bias = {"5": -100, "7": 2.5}
    assert chat(client, typical_p=0.5, logit_bias=bias, stop_token_ids=[9, 299]).status_code == 200
    request = engine.last.request
    assert (request.sampling.typical_p, request.sampling.logit_bias) == (0.5, ((5, -100.0), (7, 2.5)))
    assert request.stop_token_ids == (9, 299)


@pytest.mark.parametrize(
    "asked", [{"max_tokens": -1}, {"max_completion_tokens": -1}, {"max_tokens": 3, "max_completion_tokens": -1}]
)
def test_minus_one_is_what_the_context_leaves(
    client: falcon.testing.TestClient, engine: FakeEngine, asked: dict[str, int]
) -> None:
    """As the examples of LM Studio have it, and llama.cpp's server."""
    assert chat(client).status_code == chat(client, **asked).status_code == 200
    plain, other = (generation.request for generation in list(engine.generations)[-2:])
    assert other.max_tokens == plain.max_tokens > 100
    if "max_completion_tokens" not in asked:
        assert complete(client, **asked).status_code == 200
        request = engine.last.request
        assert request.max_tokens == engine.max_context - len(request.prompt_token_ids)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("number", [0, -2])
def test_other_numbers_below_one_are_refused(client: falcon.testing.TestClient, name: str, number: int) -> None:
    answer = chat(client, **{name: number})
    assert (answer.status_code, answer.json["error"]["param"]) == (400, name)


CONSTRAINTS = [
    ("response_format", {"type": "yaml"}, "response_format.type"),
    ("response_format", {"type": "json_schema"}, "response_format.json_schema"),
    ("response_format", {"type": "json_schema", "json_schema": {"schema": 5}}, "response_format.json_schema.schema"),
    ("response_format", "json", "response_format"),
    ("regex", 5, "regex"),
    ("grammar", ["a"], "grammar"),
    ("logit_bias", {"x": 1}, "logit_bias"),
    ("logit_bias", {"300": 1}, "logit_bias"),
    ("logit_bias", {"-1": 1}, "logit_bias"),
    ("logit_bias", {"5": 101}, "logit_bias"),
    ("logit_bias", {"5": True}, "logit_bias"),
    ("logit_bias", {str(i): 1 for i in range(1025)}, "logit_bias"),
    ("stop_token_ids", [300], "stop_token_ids"),
    ("stop_token_ids", list(range(17)), "stop_token_ids"),
    ("typical_p", 1.5, "typical_p"),
    ("top_logprobs", 2, "top_logprobs"),
    ("top_logprobs", 21, "top_logprobs"),
    ("logprobs", 1, "logprobs"),
]


@pytest.mark.parametrize("name, value, parameter", CONSTRAINTS)
def test_F46_sampling_and_constraints(
    client: falcon.testing.TestClient, name: str, value: object, parameter: str
) -> None:
    result = chat(client, **{name: value})
    assert (result.status_code, result.json["error"]["param"]) == (400, parameter)


def test_one_constraint_at_most(client: falcon.testing.TestClient) -> None:
    result = chat(client, regex="a", response_format={"type": "json_object"})
    assert (result.status_code, result.json["error"]["param"]) == (400, "regex")
