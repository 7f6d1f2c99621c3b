"""Answers as they are recorded, whole: every API, as documents, as streams and as errors, and what the engine is asked.

After a change that is meant: `python -m rocmforge.tests.unit.runtime.http.test_recorded_answers` records anew.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import pkgutil
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import falcon.testing
import msgspec
import pytest

from rocmforge.runtime import http
from rocmforge.runtime.engine.generation import GenerationRequest, SamplingParams
from rocmforge.runtime.http.app import create_app
from rocmforge.runtime.http.core.limits import HttpLimits
from rocmforge.runtime.http.core.registry import Lease, OneModel
from rocmforge.runtime.http.core.service import ServedModel, Service
from rocmforge.runtime.telemetry.metrics import Metrics
from rocmforge.tests.support.fake_engine import MODEL, FakeEngine, FakeTemplate, FakeTokenizer, make_app
from rocmforge.tests.support.openai_requests import CITY, LARK, Specs

DATA = Path(__file__).parents[3] / "data" / "answers"
OPENAPI = DATA.with_name("openapi.txt")
# What differs from run to run: the digits of ids, times, rates, our version.
IDS = re.compile(r'("(?:id|call_id|item_id|tool_call_id)": ?"(?:[a-z]+[_-])*)[0-9a-zA-Z]{12,}"')
TIMES = re.compile(
    r'("(?:created|created_at|expires_at|[a-z_]*duration|(?:prompt|predicted)_[a-z_]*ms'
    r'|(?:prompt|predicted)_per_second|version|build_info)": ?)(?!1700000000|"9999)(?:"[^"]*"|[0-9.e+-]+)'
)
# The model thinks, answers, calls a tool and thinks again.
REPLY = ["<think>", "Hm", "m.\n", "</think>", "\n\n", "Look ", "here.", "<tool_call>", '{"name": "weather", "argu']
REPLY += ['ments": {"city": "Rö', 'm"}}', "</tool_call>", "\n", "Do", "ne."]
TEXT = [" Paris", ",\n", " in", " é"]
USER = {"role": "user", "content": "hi"}
TOOL = {"name": "weather", "description": "Now.", "parameters": CITY}
TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "function": {"name": "weather"}}]},
    {"role": "tool", "content": "sunny", "tool_call_id": "c1"},
]
SAMPLING: dict[str, Any] = {
    "temperature": 0.5,
    "top_p": 0.25,
    "top_k": 7,
    "min_p": 0.125,
    "seed": 11,
    "presence_penalty": 0.5,
}
SAMPLING |= {"frequency_penalty": -0.5, "repetition_penalty": 1.25, "logit_bias": {"65": 2, "66": -1.5}}


@dataclasses.dataclass
class Case:
    """A request, and how the engine answers it."""

    path: str
    body: Mapping[str, Any] | None = None
    reply: list[str] = dataclasses.field(default_factory=lambda: TEXT)
    engine: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    models: bool = False  # several, and not one alone


# Not loaded, and says little; and loaded, with much to say.
IDLE = dataclasses.replace(
    MODEL,
    name="idle",
    path="/models/idle.rfb",
    size_bytes=7 << 20,
    aliases=("other:x",),
    fingerprint="sha256:" + "0123456789abcdef" * 4,
    parameters=134_515_008,
    quantization="",
    weights_bytes=0,
    metadata={"general.architecture": "qwen3", "general.author": "A. Uthor", "qwen3.embedding_length": True},
)
TOLD = {"general.architecture": "qwen2", "general.organization": "Org", "general.license": "mit"}
RICH = dataclasses.replace(
    MODEL,
    name="org/c|x",
    size_bytes=1_234_567_890,
    context_length=64,
    tensor_count=30,
    vocab_size=99,
    weights_bytes=10**9,
    metadata={**TOLD, "general.author": "N. Obody", "qwen2.block_count": 30, "qwen2.embedding_length": 64},
)


class Several(OneModel):
    """The first and the last are loaded."""

    def __init__(self, engine: FakeEngine, template: FakeTemplate, specs: Specs) -> None:
        made = (Service(engine, FakeTokenizer(), template, model, specs) for model in (MODEL, RICH))
        self.services = {service.model.name: service for service in made}

    def cards(self) -> list[ServedModel]:
        return [MODEL, IDLE, RICH]

    def loaded(self) -> list[Service]:
        return list(self.services.values())

    def lease(self, name: str | None) -> Lease:
        return Lease(self.services[self.card(name).name])

    def expires_in(self, name: str) -> float | None:
        return None


def both(name: str, path: str, body: Mapping[str, Any], reply: list[str] = TEXT, **engine: Any) -> Iterator[Any]:
    for stream in (False, True):
        yield f"{name}{'_stream' if stream else ''}", Case(path, {**body, "stream": stream}, reply, engine)


def cases() -> Iterator[tuple[str, Case]]:
    """By name."""
    chat, tools = "/v1/chat/completions", [{"type": "function", "function": TOOL}]
    yield from both("chat", chat, {"messages": [USER]})
    yield from both(
        "chat_tools", chat, {"messages": TALK, "tools": tools, "stream_options": {"include_usage": True}}, REPLY
    )
    asked = {"messages": [USER], "n": 2, "logprobs": True, "top_logprobs": 2, "max_tokens": 2, "stop": ["x", "y"]}
    yield from both("chat_choices", chat, {**asked, **SAMPLING}, cached_tokens=3)
    yield from both("chat_timings", chat, {"messages": [USER], "timings_per_token": True, "verbose": True})
    yield from both("chat_fails", chat, {"messages": [USER], "stream_options": {"include_usage": True}}, fail_after=2)
    yield from both("chat_busy", chat, {"messages": [USER]}, busy=True)
    shape = {"type": "json_schema", "json_schema": {"name": "n", "schema": CITY}}
    yield from both("chat_shape", chat, {"messages": [USER], "response_format": shape, "max_completion_tokens": 3})
    more = {"tools": tools, "tool_choice": "required", "parallel_tool_calls": False, "reasoning_effort": "high"}
    yield from both("chat_required", chat, {"messages": [USER], **more}, ['{"name": "weather", "arguments"', ": {}}"])
    text = "/v1/completions"
    yield from both("text", text, {"prompt": "hi"})
    asked = {"prompt": ["hi", "é"], "echo": True, "logprobs": 2, "max_tokens": 2, "n": 2}
    yield from both("text_choices", text, {**asked, **SAMPLING, "stream_options": {"include_usage": True}})
    yield "text_prompt_logprobs", Case(text, {**asked, "n": 1, "prompt_logprobs": 2})
    yield from both("text_fails", text, {"prompt": [1, 2, 3]}, fail_after=1)
    yield from both("text_ends", text, {"prompt": "hi", "stop": "Z", "logprobs": 0}, end="stop", stop="Z", end_token=90)
    responses = "/v1/responses"
    yield from both("responses", responses, {"input": "hi"})
    flat = [{"type": "function", **TOOL}, {"type": "custom", "name": "patch", "format": LARK}]
    asked = {"input": TALK[:2], "tools": flat, "instructions": "z", "top_logprobs": 1}
    yield from both("responses_tools", responses, {**asked, "include": ["message.output_text.logprobs"]}, REPLY)
    yield from both("responses_custom", responses, {"input": "hi", "tools": flat}, custom())
    yield from both("responses_cut", responses, {"input": "hi", "tools": flat, "max_output_tokens": 10}, REPLY)
    yield from both("responses_fail", responses, {"input": "hi", "reasoning": {"effort": "low"}}, fail_after=2)
    form = {"type": "json_schema", "name": "n", "schema": CITY}
    asked = {"input": "hi", "text": {"format": form}, "temperature": 0.5, "top_p": 0.5, "store": False}
    yield from both("responses_shape", responses, asked, cached_tokens=4)
    messages = "/v1/messages"
    yield from both("messages", messages, {"messages": [USER], "max_tokens": 9, "system": "z"}, cached_tokens=2)
    asked = {"messages": [USER], "max_tokens": 40, "tools": [{"name": "weather", "input_schema": CITY}]}
    thinks = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "temperature": 0.5, "top_k": 3, "top_p": 0.5}
    yield from both("messages_tools", messages, {**asked, **thinks, "stop_sequences": ["x"]}, REPLY)
    yield from both("messages_cut", messages, {**asked, "max_tokens": 10}, REPLY)
    yield from both("messages_fail", messages, asked, fail_after=1)
    yield from both("messages_stop", messages, asked, end="stop", stop="x")
    yield "messages_count", Case("/v1/messages/count_tokens", {"messages": [USER], "tools": asked["tools"]})
    named = {"model": "org/tiny:q4"}
    yield from both("ollama_chat", "/api/chat", {**named, "messages": [USER]})
    yield from both(
        "ollama_tools", "/api/chat", {**named, "messages": [*TALK[:1], USER], "tools": tools, "think": True}, REPLY
    )
    options = {"temperature": 0.5, "num_predict": 2, "seed": 3, "stop": ["x"], "top_k": 4, "repeat_penalty": 1.5}
    yield from both("ollama_text", "/api/generate", {**named, "prompt": "hi", "system": "z", "options": options})
    yield from both(
        "ollama_raw", "/api/generate", {**named, "prompt": "hi", "raw": True, "logprobs": True, "top_logprobs": 2}
    )
    yield from both("ollama_shape", "/api/chat", {**named, "messages": [USER], "format": CITY, "logprobs": True})
    yield from both("ollama_fails", "/api/chat", {**named, "messages": [USER]}, fail_after=2)
    yield from both("llama", "/completion", {"prompt": "hi", "n_predict": 3, "n_probs": 2, "return_tokens": True})
    asked = {"prompt": ["hi", [1, 2]], "temperature": 0.5, "repeat_penalty": 1.5, "stop": ["x"], "json_schema": CITY}
    yield from both("llama_several", "/completion", {**asked, "top_k": 3, "min_p": 0.5}, cached_tokens=1)
    yield from both("llama_fails", "/completion", {"prompt": "hi"}, fail_after=1)
    yield "generate", Case("/generate", {"prompt": "hi", "max_tokens": 3, "logprobs": 1, **SAMPLING})
    yield "generate_stream", Case("/generate/stream", {"prompt": "hi", "logprobs": 2, "echo": True})
    yield "generate_fails", Case("/generate", {"prompt": "hi"}, TEXT, {"fail_after": 1})
    yield "generate_stream_fails", Case("/generate/stream", {"prompt": "hi"}, TEXT, {"fail_after": 1})
    plain: dict[str, dict[str, Any]] = {
        "/tokenize": {"content": "hé", "with_pieces": True, "add_special": True},
        "/detokenize": {"tokens": [104, 105]},
        "/apply-template": {"messages": TALK},
        "/v1/chat/completions/input_tokens": {"messages": [USER]},
        "/v1/embeddings": {"input": ["a", "bc"]},
        "/embedding": {"content": ["a", "bc"]},
        "/api/embed": {**named, "input": ["a", "bc"]},
        "/api/embeddings": {**named, "prompt": "a"},
        "/api/show": {**named, "verbose": True},
        "/api/pull": named,
        "/api/create": named,
        "/v1/models/check": {"models": ["org/tiny:q4", "none"]},
        "/infill": {},
        "/rerank": {},
    }
    for name, body in plain.items():
        yield name.strip("/").replace("/", "_").replace("-", "_"), Case(name, body)
    for path in ("models", "v1/models", "v1/models/org/tiny:q4", "v1/models/none", "props", "slots", "version"):
        yield path.replace("/", "_").replace(":", "_"), Case(f"/{path}")
    for path in ("tokenizer_info", "api/tags", "api/ps", "api/v0/models", "api/v1/models", "v1/throughput", "ready"):
        yield path.replace("/", "_"), Case(f"/{path}")
    for path in ("health", "nowhere", "v1/nowhere", "api/nowhere", "v1/responses/resp_x"):
        yield path.replace("/", "_"), Case(f"/{path}")

    yield "v1_throughput_given", Case("/v1/throughput?bandwidth_gbps=100&model=org/tiny:q4")
    yield "v1_throughput_wrong", Case("/v1/throughput?bandwidth_gbps=0")
    yield "health_broken", Case("/health", None, TEXT, {"running": False})
    yield "ready_broken", Case("/ready", None, TEXT, {"running": False})
    used = [
        {"type": "text", "text": "Look."},
        {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "A"}},
    ]
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "sunny"}]}
    talk = [USER, {"role": "assistant", "content": used}, {"role": "user", "content": [result, *used[:1]]}]
    for name, choice in {
        "any": {"type": "any"},
        "none": {"type": "none"},
        "one": {"type": "tool", "name": "weather"},
    }.items():
        more = {"tools": [{"name": "weather", "input_schema": CITY}], "tool_choice": choice}
        yield f"messages_{name}", Case(messages, {"messages": talk, "max_tokens": 30, **more}, REPLY[7:12])
    call = {"type": "function_call", "name": "weather", "arguments": '{"city": "A"}', "call_id": "c1", "id": "i1"}
    output = {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "sunny"}]}
    talk = [{"role": "developer", "content": "a"}, USER, {"type": "reasoning", "summary": []}, call, output]
    yield "responses_talk", Case(responses, {"input": talk, "tools": flat, "tool_choice": "none"}, REPLY)
    listed = (
        "models",
        "v1/models",
        "v1/models/other:x",
        "v1/models/idle",
        "api/tags",
        "api/v0/models",
        "api/v1/models",
    )
    asked_of_one = ("props?model=org/c|x", "v1/throughput?model=idle", "v1/throughput?model=org/c|x&bandwidth_gbps=7.5")
    for path in (*listed, *asked_of_one, "api/v0/models/idle", "health", "api/ps", "slots", "tokenizer_info"):
        yield f"several_{re.sub(r'[^a-z0-9]', '_', path)}", Case(f"/{path}", models=True)
    yield "several_check", Case("/v1/models/check", {"models": ["idle", "other:x", "org/c|x", "none"]}, models=True)
    yield "several_show", Case("/api/show", {"model": "org/c|x"}, models=True)
    yield "several_chat", Case(chat, {"messages": [USER], "model": "org/c|x:latest"}, models=True)
    left_out = ("reasoning", "compaction", "web_search_call", "tool_search_call", "tool_search_output")
    items = [{"type": kind, "id": "x"} for kind in left_out]
    yield "responses_left_out", Case(responses, {"input": [USER, *items], "top_logprobs": 0, "metadata": {"a": "b"}})
    for name, (path, body) in WRONG.items():
        yield f"wrong_{name}", Case(path, body)


# What is refused, and how each API says it.
WRONG: dict[str, tuple[str, dict[str, Any]]] = {
    "chat_type": ("/v1/chat/completions", {"messages": "hi"}),
    "chat_missing": ("/v1/chat/completions", {}),
    "chat_range": ("/v1/chat/completions", {"messages": [USER], "temperature": 3}),
    "chat_model": ("/v1/chat/completions", {"messages": [USER], "model": "none"}),
    "chat_part": ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
    "chat_long": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x" * 200}]}),
    "chat_bias": ("/v1/chat/completions", {"messages": [USER], "logit_bias": {"300": 1}}),
    "chat_template": ("/v1/chat/completions", {"messages": [{"role": "assistant", "content": "a"}]}),
    "chat_variables": ("/v1/chat/completions", {"messages": [USER], "chat_template_kwargs": {"tools": 1}}),
    "chat_tool": ("/v1/chat/completions", {"messages": [USER], "tool_choice": "required"}),
    "chat_top": ("/v1/chat/completions", {"messages": [USER], "top_logprobs": 2}),
    "text_prompt": ("/v1/completions", {"prompt": [1, "a"]}),
    "text_token": ("/v1/completions", {"prompt": [300]}),
    "text_best_of": ("/v1/completions", {"prompt": "hi", "best_of": 2}),
    "text_suffix": ("/v1/completions", {"prompt": "hi", "suffix": "a"}),
    "text_stop": ("/v1/completions", {"prompt": "hi", "stop": ["a"] * 17}),
    "responses_background": ("/v1/responses", {"input": "hi", "background": True}),
    "responses_previous": ("/v1/responses", {"input": "hi", "previous_response_id": "resp_x"}),
    "responses_item": ("/v1/responses", {"input": [{"type": "nothing"}]}),
    "responses_part": ("/v1/responses", {"input": [{"role": "user", "content": [{"type": "input_image"}]}]}),
    "responses_call": ("/v1/responses", {"input": [{"type": "function_call", "name": "a", "arguments": "["}]}),
    "responses_reference": ("/v1/responses", {"input": [{"type": "item_reference", "id": "x"}]}),
    "messages_missing": ("/v1/messages", {"messages": [USER]}),
    "messages_part": (
        "/v1/messages",
        {"messages": [{"role": "user", "content": [{"type": "image"}]}], "max_tokens": 1},
    ),
    "messages_long": ("/v1/messages", {"messages": [{"role": "user", "content": "x" * 200}], "max_tokens": 1}),
    "messages_tool": (
        "/v1/messages",
        {"messages": [USER], "max_tokens": 1, "tools": [{"type": "bash_1", "name": "b"}]},
    ),
    "ollama_model": ("/api/chat", {"model": "none", "messages": [USER]}),
    "ollama_range": ("/api/chat", {"model": "org/tiny:q4", "messages": [USER], "options": {"top_p": 2}}),
    "ollama_image": ("/api/generate", {"model": "org/tiny:q4", "prompt": "hi", "images": ["aGk="]}),
    "ollama_suffix": ("/api/generate", {"model": "org/tiny:q4", "prompt": "hi", "suffix": "a"}),
    "ollama_format": ("/api/chat", {"model": "org/tiny:q4", "messages": [USER], "format": "xml"}),
    "ollama_keep": ("/api/chat", {"model": "org/tiny:q4", "messages": [USER], "keep_alive": "5x"}),
    "llama_long": ("/completion", {"prompt": "x" * 200}),
    "llama_prompt": ("/completion", {"prompt": [1, None]}),
    "llama_mirostat": ("/completion", {"prompt": "hi", "mirostat": 2}),
    "generate": ("/generate", {"prompt": 5}),
    "generate_range": ("/generate", {"prompt": "hi", "top_p": 1.5}),
    "generate_unknown": ("/generate", {"prompt": "hi", "model": "none"}),
    "embeddings": ("/v1/embeddings", {"input": []}),
    "embeddings_dimensions": ("/v1/embeddings", {"input": "a", "dimensions": 2}),
    "embeddings_format": ("/v1/embeddings", {"input": "a", "encoding_format": "hex"}),
    "detokenize": ("/detokenize", {"tokens": [300]}),
    "tokenize": ("/tokenize", {}),
}


def custom() -> list[str]:
    return ["<tool_call>", '{"name": "patch", "arguments": {"input": "a\\n', 'b"}}', "</tool_call>"]


CASES = dict(cases())


def described(request: GenerationRequest) -> str:
    """What differs from a plain request."""
    plain, sampling = GenerationRequest((), 0), request.sampling
    found = {
        field.name: getattr(request, field.name)
        for field in dataclasses.fields(request)
        if field.name != "sampling" and getattr(request, field.name) != getattr(plain, field.name)
    }
    found |= {
        field.name: getattr(sampling, field.name)
        for field in dataclasses.fields(sampling)
        if getattr(sampling, field.name) != getattr(SamplingParams(), field.name)
    }
    return f"asked: {found}"


def exchange(case: Case) -> str:
    """The answer, and what was asked of the engine, the template and the constraints."""
    engine, template, specs = FakeEngine(reply=case.reply, **case.engine), FakeTemplate(), Specs()
    one = OneModel(Service(engine, FakeTokenizer(), template, MODEL, specs))
    models = Several(engine, template, specs) if case.models else one
    app = create_app(models, Metrics(), HttpLimits(max_streams=3))
    client = falcon.testing.TestClient(app)
    result = client.simulate_get(case.path) if case.body is None else client.simulate_post(case.path, json=case.body)
    lines = [f"{result.status_code} {result.headers['content-type']}", *result.text.splitlines()]
    lines += [described(one.request) for one in engine.generations]
    lines += [f"read: {json.dumps([*template.messages, template.tools, template.extra, template.opens])}"]
    lines += [f"constraint: {spec}" for spec in specs.asked]
    return TIMES.sub(r"\1*", IDS.sub(r'\1*"', "\n".join(lines))) + "\n"


@pytest.mark.parametrize("name", CASES)
def test_an_answer_is_the_recorded_one(name: str) -> None:
    assert exchange(CASES[name]) == (DATA / f"{name}.txt").read_text("utf-8")


def test_each_record_has_its_case() -> None:
    assert {path.stem for path in DATA.iterdir()} == set(CASES)


def openapi() -> Iterator[str]:
    """What OpenAPI says of each operation and each schema, a line each, without texts for people."""
    document = falcon.testing.TestClient(make_app(FakeEngine())).simulate_get("/openapi.json").json
    components = document["components"]
    yield json.dumps({"paths": len(document["paths"]), "components": sorted(components), **without(document, "paths")})
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield f"{method} {path} {bare(operation)}"
    for name, shape in components["schemas"].items():
        yield f"{name} {bare(shape)}"


def without(value: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {key: item for key, item in value.items() if key not in (*names, "components", "info")}


def bare(value: Any) -> str:
    def strip(value: Any, named: bool = False) -> Any:
        if isinstance(value, dict):
            told = value if named else without(value, "description", "title", "summary")
            return {key: strip(item, key == "properties") for key, item in told.items()}
        return [strip(item) for item in value] if isinstance(value, list) else value

    text = json.dumps(strip(value), separators=(",", ":"))
    text = re.sub(r'\{"\$ref":"#/components/schemas/(\w+)"\}', r"\1", text)
    return re.sub(r'\{"content":\{"application/json":\{"schema":(\w+)\}\}\}', r"\1", text)


def test_what_openapi_says_is_the_recorded_one() -> None:
    assert list(openapi()) == OPENAPI.read_text("utf-8").splitlines()


def test_documents_are_made_by_keyword_alone() -> None:
    """So the order of their fields is that of the JSON, and no caller's."""
    names = [item.name for item in pkgutil.walk_packages(http.__path__, f"{http.__name__}.")]
    modules = [importlib.import_module(name) for name in names if name.endswith("schema")]
    structs = {one for module in modules for one in vars(module).values() if isinstance(one, type(msgspec.Struct))}
    structs.discard(msgspec.Struct)
    assert len(structs) > 100
    for struct in structs:
        kinds = {parameter.kind for parameter in inspect.signature(struct).parameters.values()}
        assert kinds <= {inspect.Parameter.KEYWORD_ONLY}, struct


if __name__ == "__main__":
    DATA.mkdir(exist_ok=True)
    for old in DATA.iterdir():
        old.unlink()
    for case_name, one in CASES.items():
        (DATA / f"{case_name}.txt").write_text(exchange(one), "utf-8")
    OPENAPI.write_text("".join(f"{line}\n" for line in openapi()), "utf-8")
