"""The API of llama.cpp's server."""

from __future__ import annotations

import json
from typing import Any

import falcon.testing
import pytest

from rocmforge import __version__
from rocmforge.runtime.http.app import ROUTES
from rocmforge.runtime.http.core.limits import HttpLimits
from rocmforge.runtime.http.llama_cpp.errors import LLAMA_CPP_PATHS
from rocmforge.runtime.http.llama_cpp.routes import API, EMBEDDINGS
from rocmforge.tests.support.fake_engine import BOS_ID, FakeEngine, make_app


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def client(engine: FakeEngine) -> falcon.testing.TestClient:
    return falcon.testing.TestClient(make_app(engine))


def complete(client: falcon.testing.TestClient, path: str = "/completion", **body: Any) -> falcon.testing.Result:
    return client.simulate_post(path, json={"prompt": "hi", **body})


def events(result: falcon.testing.Result) -> list[dict[str, Any]]:
    assert result.headers["content-type"].startswith("text/event-stream")
    assert "[DONE]" not in result.text  # nothing of llama.cpp's own sends it
    return [json.loads(part[6:]) for part in result.text.split("\n\n") if part.startswith("data: ")]


@pytest.mark.parametrize("path", ["/completion", "/completions"])
def test_completion(client: falcon.testing.TestClient, engine: FakeEngine, path: str) -> None:
    document = complete(client, path).json
    assert document["content"] == " Paris, in France."
    assert (document["index"], document["stop"], document["tokens"]) == (0, True, [])
    assert (document["stop_type"], document["stopping_word"], document["truncated"]) == ("eos", "", False)
    assert (document["tokens_evaluated"], document["tokens_predicted"]) == (3, 5)
    assert (document["model"], document["prompt"]) == ("org/tiny:q4", "hi")
    settings = document["generation_settings"]
    assert (settings["n_predict"], settings["n_ctx"], settings["seed"], settings["stream"]) == (-1, 128, -1, False)
    timings = document["timings"]
    assert (timings["prompt_n"], timings["cache_n"], timings["predicted_n"]) == (3, 0, 5)
    assert timings["predicted_per_second"] == pytest.approx(1e3 * 4 / timings["predicted_ms"])
    assert timings["prompt_per_token_ms"] == pytest.approx(timings["prompt_ms"] / 3)
    sampling = engine.last.request.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (0.8, 40, 0.95, 0.05)
    assert engine.last.request.max_tokens == 128 - 3


def test_completion_streams(client: falcon.testing.TestClient) -> None:
    got = events(complete(client, stream=True, n_predict=2))
    assert [(event["content"], event["tokens"], event["stop"]) for event in got] == [
        (" Paris", [100], False),
        (",", [101], False),
        ("", [], True),
    ]
    assert [event["tokens_predicted"] for event in got] == [1, 2, 2]
    assert (got[-1]["stop_type"], got[-1]["generation_settings"]["n_predict"]) == ("limit", 2)
    assert "timings" in got[-1]
    assert "timings" not in got[0]


def test_stopping_word(client: falcon.testing.TestClient, engine: FakeEngine) -> None:
    engine.end, engine.stop = "stop", "\nuser:"
    document = complete(client, stop=["x", "\nuser:"], return_tokens=True).json
    assert (document["stop_type"], document["stopping_word"]) == ("word", "\nuser:")
    assert document["tokens"] == [100, 101, 102, 103, 104]
    assert engine.last.request.stop == ("x", "\nuser:")


def test_options_become_conditions(client: falcon.testing.TestClient, engine: FakeEngine) -> None:
    complete(
        client,
        n_predict=7,
        temperature=0,
        top_k=0,
        top_p=1,
        min_p=0,
        typical_p=0.5,
        repeat_penalty=1.1,
        presence_penalty=0.2,
        frequency_penalty=0.3,
        seed=9,
        ignore_eos=True,
        logit_bias=[[5, 1.5], [6, False]],
        dry_multiplier=0.0,
        mirostat=0,
        cache_prompt=True,
    )
    request = engine.last.request
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (0.0, 0, 1.0, 0.0)
    assert (sampling.typical_p, sampling.repetition_penalty) == (0.5, 1.1)
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.seed) == (0.2, 0.3, 9)
    assert sampling.logit_bias == ((5, 1.5), (6, -100.0), (257, -100.0))
    assert (request.max_tokens, request.ignore_eos) == (7, True)
    complete(client, logit_bias={"5": 2}, seed=-1, n_predict=10_000)
    request = engine.last.request
    assert (request.sampling.logit_bias, request.sampling.seed, request.max_tokens) == (((5, 2.0),), None, 125)


def test_a_penalty_of_the_last_no_tokens_is_none(client: falcon.testing.TestClient, engine: FakeEngine) -> None:
    for last, penalty in [(0, 1.0), (64, 1.5), (-1, 1.5), (None, 1.5)]:
        complete(client, repeat_last_n=last, repeat_penalty=1.5)
        assert engine.last.request.sampling.repetition_penalty == penalty


HI = (BOS_ID, *b"hi")
PROMPTS: dict[str, tuple[object, list[tuple[int, ...]]]] = {
    "text": ("hi", [HI]),
    "tokens": ([1, 2], [(1, 2)]),
    "mixed": ([1, "a", 2], [(1, 97, 2)]),
    "mixed-text-first": (["a", 2, "b"], [(BOS_ID, 97, 2, 98)]),
    "object": ({"prompt_string": "hi"}, [HI]),
    "one-text": (["hi"], [HI]),
    "texts": (["hi", "yo"], [HI, (BOS_ID, *b"yo")]),
    "all-kinds": (["hi", [1, 2], {"prompt_string": "hi"}, [3, "a"]], [HI, (1, 2), HI, (3, 97)]),
}


@pytest.mark.parametrize(("prompt", "ids"), PROMPTS.values(), ids=PROMPTS.keys())
def test_prompts_in_all_forms(
    client: falcon.testing.TestClient, engine: FakeEngine, prompt: object, ids: list[tuple[int, ...]]
) -> None:
    document = complete(client, prompt=prompt).json
    assert [one.request.prompt_token_ids for one in engine.generations] == ids
    documents = document if len(ids) > 1 else [document]
    assert [one["index"] for one in documents] == list(range(len(ids)))
    assert {one["content"] for one in documents} == {" Paris, in France."}
    streamed = events(complete(client, prompt=prompt, stream=True))
    for index in range(len(ids)):
        assert "".join(e["content"] for e in streamed if e["index"] == index) == " Paris, in France."
    assert sum(event["stop"] for event in streamed) == len(ids)


def test_n_probs(client: falcon.testing.TestClient) -> None:
    document = complete(client, n_probs=2, n_predict=1).json
    assert document["completion_probabilities"] == [
        {
            "id": 100,
            "token": "d",
            "bytes": [100],
            "logprob": -0.5,
            "top_logprobs": [
                {"id": 100, "token": "d", "bytes": [100], "logprob": -0.5},
                {"id": 65, "token": "A", "bytes": [65], "logprob": -9999.0},
            ],
        }
    ]
    assert "completion_probabilities" not in complete(client).json


def test_what_was_cached_was_not_computed(client: falcon.testing.TestClient, engine: FakeEngine) -> None:
    engine.cached_tokens = 2
    document = complete(client).json
    assert (document["tokens_evaluated"], document["tokens_cached"]) == (3, 2)
    timings = document["timings"]
    assert (timings["cache_n"], timings["prompt_n"]) == (2, 1)
    assert timings["prompt_per_token_ms"] == pytest.approx(timings["prompt_ms"])
    assert timings["prompt_per_second"] == pytest.approx(1e3 / timings["prompt_ms"])
    last = events(complete(client, stream=True))[-1]
    assert (last["tokens_cached"], last["timings"]["prompt_n"]) == (2, 1)


def test_one_token_takes_no_step_of_its_own(client: falcon.testing.TestClient) -> None:
    timings = complete(client, n_predict=1).json["timings"]
    assert (timings["predicted_n"], timings["predicted_per_second"], timings["predicted_per_token_ms"]) == (1, 0, 0)


def test_what_the_context_cuts_is_truncated(client: falcon.testing.TestClient) -> None:
    assert complete(client, prompt="x" * 124).json["truncated"]  # 125 tokens, and room for 3 of the 5
    assert not complete(client, prompt="x" * 124, n_predict=2).json["truncated"]


def test_no_tokens(client: falcon.testing.TestClient, engine: FakeEngine) -> None:
    """The prompt is computed, and may fill the context."""
    document = complete(client, prompt="x" * 127, n_predict=0).json
    assert (document["content"], document["tokens_predicted"], document["stop_type"]) == ("", 0, "limit")
    assert document["timings"]["prompt_n"] == 128
    assert engine.last.request.max_tokens == 0
    assert [event["stop"] for event in events(complete(client, n_predict=0, stream=True))] == [True]


BIASES = [
    ([[5, 1.5], ["hé", False], [5, 2]], {5: 2.0, **dict.fromkeys("hé".encode(), -100.0)}),
    ({"7": -3, "i": 1, "8": False}, {7: -3.0, ord("i"): 1.0, 8: -100.0}),
]


@pytest.mark.parametrize("given, expected", BIASES)
def test_logit_bias_of_tokens_and_texts(
    client: falcon.testing.TestClient, engine: FakeEngine, given: object, expected: dict[int, float]
) -> None:
    settings = complete(client, logit_bias=given).json["generation_settings"]
    assert dict(engine.last.request.sampling.logit_bias) == expected
    told = {one["token"]: one["bias"] for one in settings["logit_bias"]}
    assert told == {token: None if bias == -100 else bias for token, bias in expected.items()}


def test_ignore_eos_rules_the_end_out(client: falcon.testing.TestClient, engine: FakeEngine) -> None:
    settings = complete(client, ignore_eos=True).json["generation_settings"]
    assert settings["logit_bias"] == [{"token": 257, "bias": None}]
    assert engine.last.request.sampling.logit_bias == ((257, -100.0),)
    assert complete(client).json["generation_settings"]["logit_bias"] == []


WRONG: dict[str, tuple[dict[str, object], str]] = {
    "F46-n_predict": ({"n_predict": -3}, "n_predict"),
    "F46-temperature": ({"temperature": -0.1}, "temperature"),
    "F46-n_probs": ({"n_probs": 21}, "n_probs"),
    "F46-mirostat": ({"mirostat": 2}, "mirostat"),
    "F46-xtc": ({"xtc_probability": 0.5}, "xtc_probability"),
    "F46-prompt-null": ({"prompt": None}, "prompt"),
    "F46-prompt-empty": ({"prompt": []}, "prompt"),
    "F46-prompt-many": ({"prompt": ["a"] * 65}, "prompt"),
    "F46-prompt-odd": ({"prompt": [1, None]}, "prompt[1]"),
    "F46-image": ({"prompt": {"prompt_string": "a", "multimodal_data": ["aGk="]}}, "prompt.multimodal_data"),
    "F46-bias": ({"logit_bias": [[5, 101.0]]}, "logit_bias"),
    "F46-two-constraints": ({"grammar": 'root ::= "a"', "json_schema": {}}, "grammar"),
    "F48-context": ({"prompt": "x" * 200}, "prompt"),
    "F49-bias": ({"logit_bias": [[300, 1.0]]}, "logit_bias"),
    "F49-prompt": ({"prompt": [300]}, "prompt"),
    "F49-one-of-two": ({"prompt": ["a", [-1]]}, "prompt"),
    "no-constraints-here": ({"json_schema": {}}, "json_schema"),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("body", "parameter"), WRONG.values(), ids=WRONG.keys())
def test_refused(
    client: falcon.testing.TestClient, engine: FakeEngine, body: dict[str, object], parameter: str, stream: bool
) -> None:
    result = client.simulate_post("/completion", json={"prompt": "hi", "stream": stream, **body})
    error = result.json["error"]
    assert (result.status_code, error["code"], error["message"].partition(": ")[0]) == (400, 400, parameter)
    kind = "exceed_context_size_error" if "context size" in error["message"] else "invalid_request_error"
    assert error["type"] == kind
    assert engine.generations == []


def test_a_failure_midway_ends_the_stream(client: falcon.testing.TestClient, engine: FakeEngine) -> None:
    engine.fail_after = 1
    got = events(complete(client, stream=True))
    assert got[-1] == {"error": {"code": 500, "message": "the device is lost", "type": "server_error"}}
    assert complete(client).status_code == 500


def test_tokenize_and_back(client: falcon.testing.TestClient) -> None:
    def tokens(**body: object) -> object:
        return client.simulate_post("/tokenize", json=body).json["tokens"]

    assert tokens(content="hé") == [*"hé".encode()]
    assert tokens(content="<s>hi") == [BOS_ID, *b"hi"]
    assert tokens(content="<s>", parse_special=False) == [*b"<s>"]
    assert tokens(content="hi", add_special=True) == [BOS_ID, *b"hi"]
    assert tokens(content=["hi", 7], add_special=True) == [BOS_ID, *b"hi", 7]
    assert tokens(content="é", with_pieces=True) == [{"id": 195, "piece": [195]}, {"id": 169, "piece": [169]}]
    assert tokens(content="a", with_pieces=True) == [{"id": 97, "piece": "a"}]
    assert tokens(content="") == []
    assert client.simulate_post("/detokenize", json={"tokens": [*"hé".encode()]}).json["content"] == "hé"
    assert client.simulate_post("/detokenize", json={"tokens": []}).json["content"] == ""


def test_tokenize_and_back_in_the_words_of_vllm(client: falcon.testing.TestClient) -> None:
    def tokenize(**body: object) -> object:
        return client.simulate_post("/tokenize", json=body).json

    assert tokenize(prompt="hi") == {"tokens": [BOS_ID, *b"hi"], "count": 3, "max_model_len": 128}
    assert tokenize(prompt="hi", add_special_tokens=False) == {"tokens": [*b"hi"], "count": 2, "max_model_len": 128}
    assert tokenize(prompt="<s>", add_special_tokens=False, model="org/tiny:q4") == {
        "tokens": [BOS_ID],
        "count": 1,
        "max_model_len": 128,
    }
    assert tokenize(content="hi") == {"tokens": [*b"hi"]}
    assert client.simulate_post("/detokenize", json={"tokens": [*b"hi"]}).json["prompt"] == "hi"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {}),
        ("/tokenize", {"content": 3}),
        ("/tokenize", {"prompt": [3]}),
        ("/tokenize", {"content": [300]}),
        ("/tokenize", {"content": [None]}),
        ("/detokenize", {"tokens": [300]}),
        ("/detokenize", {"tokens": [-1]}),
        ("/detokenize", {"tokens": "a"}),
        ("/infill", {"input_prefix": "a"}),
        ("/apply-template", {"messages": []}),
    ],
    ids=[
        "F46-none",
        "F46-type",
        "F46-prompt",
        "F49-content",
        "F46-null",
        "F49-id",
        "F49-negative",
        "F46-tokens",
        "infill",
        "F46-empty",
    ],
)
def test_refused_beside_completion(client: falcon.testing.TestClient, path: str, body: dict[str, object]) -> None:
    result = client.simulate_post(path, json=body)
    assert (result.status_code, result.json["error"]["type"]) == (400, "invalid_request_error")


def test_apply_template(client: falcon.testing.TestClient, engine: FakeEngine) -> None:
    messages = [{"role": "user", "content": "hi"}]
    assert client.simulate_post("/apply-template", json={"messages": messages}).json == {"prompt": "user:hi\n"}
    assert engine.generations == []


def test_props_slots_and_health(engine: FakeEngine) -> None:
    client = falcon.testing.TestClient(make_app(engine, HttpLimits(max_streams=3)))
    props = client.simulate_get("/props").json
    assert (props["total_slots"], props["model_path"], props["model_alias"]) == (3, "/models/tiny.rfb", "org/tiny:q4")
    assert props["default_generation_settings"]["n_ctx"] == 128
    assert props["default_generation_settings"]["params"]["top_k"] == 40
    assert props["chat_template"] == "{{ messages }}{{ tools }}"
    assert props["build_info"] == f"rocmforge-{__version__}"
    assert client.simulate_get("/props", params={"model": "gpt"}).status_code == 404
    slots = client.simulate_get("/slots").json
    assert [(slot["id"], slot["n_ctx"], slot["is_processing"]) for slot in slots] == [(i, 128, False) for i in range(3)]
    health = client.simulate_get("/v1/health")
    assert (health.status_code, health.json["status"]) == (200, "healthy")


def test_slots_count_what_runs(engine: FakeEngine) -> None:
    app = make_app(engine, HttpLimits(max_streams=2))
    with app.admission.enter():
        slots = falcon.testing.TestClient(app).simulate_get("/slots").json
    assert [slot["is_processing"] for slot in slots] == [True, False]


MESSAGES = [{"role": "user", "content": "hi"}]
# What is asked of a path of /v1, and of the same without it.
ALIASES = [
    ("/chat/completions", {"messages": MESSAGES}),
    ("/chat/completions/input_tokens", {"messages": MESSAGES}),
    ("/responses", {"input": "hi"}),
]


def without_ids(document: dict[str, Any]) -> dict[str, Any]:
    return {key: document[key] for key in ("usage", "input_tokens", "object", "model") if key in document}


@pytest.mark.parametrize("path, body", ALIASES)
def test_paths_without_v1_are_the_same(client: falcon.testing.TestClient, path: str, body: dict[str, Any]) -> None:
    assert path in LLAMA_CPP_PATHS
    there, here = (client.simulate_post(prefix + path, json=body) for prefix in ("/v1", ""))
    assert (there.status_code, here.status_code) == (200, 200)
    assert without_ids(here.json) == without_ids(there.json)
    assert client.simulate_post(path, json=[]).json["error"]["code"] == 400


def test_llama_cpps_paths_are_those_with_its_errors() -> None:
    aliases = {alias for route in ROUTES for alias in route.aliases if not alias.startswith("/v1/")}
    own = {route.path for api in (API, EMBEDDINGS) for route in api.routes if not route.path.startswith("/v1/")}
    assert (own - {"/version", "/tokenizer_info"}) | aliases == LLAMA_CPP_PATHS  # those two are vLLM's


def test_a_chat_that_exceeds_the_context(client: falcon.testing.TestClient) -> None:
    body = {"messages": [{"role": "user", "content": "x" * 200}]}
    here = client.simulate_post("/chat/completions", json=body).json["error"]
    assert (here["type"], here["n_prompt_tokens"], here["n_ctx"]) == ("exceed_context_size_error", 207, 128)
    there = client.simulate_post("/v1/chat/completions", json=body).json["error"]
    assert (there["code"], there["message"]) == ("context_length_exceeded", here["message"])


def test_timings_of_a_chat(client: falcon.testing.TestClient, engine: FakeEngine) -> None:
    engine.cached_tokens = 4
    body = {"messages": MESSAGES, "timings_per_token": True}
    timings = client.simulate_post("/v1/chat/completions", json=body).json["timings"]
    assert (timings["cache_n"], timings["prompt_n"], timings["predicted_n"]) == (4, 5, 5)
    options = {"stream": True, "stream_options": {"include_usage": True}}
    text = client.simulate_post("/v1/chat/completions", json=body | options).text
    first, *rest = [json.loads(part[6:]) for part in text.split("\n\n") if part.startswith("data: {")]
    assert "timings" not in first
    assert [chunk["timings"]["predicted_n"] for chunk in rest] == [1, 2, 3, 4, 5, 5, 5]
    assert "timings" not in client.simulate_post("/v1/chat/completions", json={"messages": MESSAGES}).json


def test_verbose_tells_the_prompt(client: falcon.testing.TestClient) -> None:
    body = {"messages": MESSAGES, "verbose": True}
    document = client.simulate_post("/chat/completions", json=body).json
    assert document["__verbose"] == {"prompt": "user:hi\n"}
    assert "__verbose" not in client.simulate_post("/chat/completions", json={"messages": MESSAGES}).json


def test_adapters_are_not_taken(client: falcon.testing.TestClient) -> None:
    result = client.simulate_post("/lora-adapters", json=[])
    assert (result.status_code, result.json["error"]["message"].partition(": ")[0]) == (400, "/lora-adapters")


def test_no_adapters(client: falcon.testing.TestClient) -> None:
    assert client.simulate_get("/lora-adapters").json == []


def test_version_and_tokenizer_as_vllm_has_them(client: falcon.testing.TestClient) -> None:
    assert client.simulate_get("/version").json == {"version": __version__}
    assert client.simulate_get("/tokenizer_info").json == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "add_bos_token": True,
        "add_eos_token": False,
        "chat_template": "{{ messages }}{{ tools }}",
        "model_max_length": 128,
        "vocab_size": 300,
    }
