"""Claude Code, as it comes from npm, with the tools that it brings."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.compile import compile_model
from rocmforge.compiler.model import CompileOptions
from rocmforge.compiler.progress import PlainProgress
from rocmforge.library.compilation import make_golden
from rocmforge.tests.clients.forcing_proxy import ForcingProxy, forcing
from rocmforge.tests.clients.programs import node_program, offline
from rocmforge.tests.clients.scripted import MODEL, call_of, scripted
from rocmforge.tests.support.process import PATIENCE_SECONDS, Server, serving

NOTE = '{"file_path": "note.txt", "content": "Swordfish."}'
SAID = ["The", " note", " is", " written", "."]
# What the page says that a user sets.
SETTINGS = {
    "ANTHROPIC_AUTH_TOKEN": "none",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
}


@pytest.fixture(scope="module")
def claude() -> Path:
    """The program."""
    return node_program("claude-code", "@anthropic-ai/claude-code@2.1.330") / "claude"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An empty project."""
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


def run(
    claude: Path,
    url: str,
    project: Path,
    prompt: str,
    *arguments: str,
    settings: Mapping[str, str],
    seconds: float = PATIENCE_SECONDS,
) -> list[dict[str, Any]]:
    """`claude -p`, which may write files of the project; returns what it reports, message by message."""
    shown = ["--output-format", "stream-json", "--verbose", "--permission-mode", "acceptEdits"]
    done = subprocess.run(
        [claude, "-p", prompt, *shown, *arguments],
        cwd=project,
        env={**offline(project.parent / "home", claude.parent), "ANTHROPIC_BASE_URL": url, **SETTINGS, **settings},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert lines, done.stderr
    assert lines[-1]["type"] == "result", done.stdout
    return lines


def results_of(asked: dict[str, Any]) -> list[dict[str, Any]]:
    """The results of tools in a request."""
    contents = [message["content"] for message in asked["messages"] if isinstance(message["content"], list)]
    return [block for content in contents for block in content if block["type"] == "tool_result"]


@pytest.fixture
def proxy(request: pytest.FixtureRequest) -> Iterator[ForcingProxy]:
    """What was asked of a scripted server, whose context is the parameter."""
    with scripted(call_of("Write", NOTE), SAID, max_context=request.param) as (url, _), forcing(url) as made:
        yield made


@pytest.mark.parametrize("proxy", [1 << 20], indirect=True)
def test_a_tool_is_called_and_its_result_goes_back(claude: Path, proxy: ForcingProxy, project: Path) -> None:
    lines = run(claude, proxy.url, project, "Write the note.", settings={"ANTHROPIC_MODEL": MODEL})
    assert (project / "note.txt").read_text() == "Swordfish."
    assert (lines[-1]["subtype"], lines[-1]["result"]) == ("success", "".join(SAID))
    first, second = proxy.asked("/v1/messages")
    assert (first.status, second.status) == (200, 200)
    assert {tool["name"] for tool in first.body["tools"]} >= {"Bash", "Edit", "Read", "Write", "ToolSearch"}
    assert first.body["messages"][-1]["role"] == "system"  # it notes the surroundings behind the user's prompt
    assert [result.get("is_error", False) for result in results_of(second.body)] == [False]
    # Its counts are ours: those of its requests together.
    ends = [exchange.events()[-2]["usage"] for exchange in (first, second)]
    assert lines[-1]["usage"]["input_tokens"] == sum(end["input_tokens"] for end in ends) > 20_000
    assert lines[-1]["usage"]["output_tokens"] == sum(end["output_tokens"] for end in ends)
    # Nothing else is asked of the server.
    assert len(proxy.exchanges) == 2


@pytest.mark.parametrize("proxy", [40_000], indirect=True)
def test_it_asks_for_less_where_its_answer_does_not_fit(claude: Path, proxy: ForcingProxy, project: Path) -> None:
    lines = run(claude, proxy.url, project, "Write the note.", settings={"ANTHROPIC_MODEL": MODEL})
    assert lines[-1]["result"] == "".join(SAID)
    refused, first, *_ = proxy.asked("/v1/messages")
    assert (refused.status, refused.body["max_tokens"], first.status) == (400, 32000, 200)
    numbers = re.search(r"(\d+) \+ 32000 > 40000", json.loads(refused.answer)["error"]["message"])
    assert numbers is not None
    assert first.body["max_tokens"] == 40_000 - int(numbers[1]) - 1000


@pytest.mark.parametrize("proxy", [8192], indirect=True)
def test_it_tells_that_its_prompt_does_not_fit(claude: Path, proxy: ForcingProxy, project: Path) -> None:
    lines = run(claude, proxy.url, project, "Write the note.", settings={"ANTHROPIC_MODEL": MODEL})
    assert lines[-1]["is_error"]
    assert "prompt is too long" in lines[-1]["result"].lower()


def test_a_template_that_takes_no_later_system_message(claude: Path, project: Path) -> None:
    """It is told so, and says in the user's messages what it has to say: as Mistral's and Gemma's templates need it."""
    with scripted(call_of("Write", NOTE), SAID, strict=True) as (url, _), forcing(url) as proxy:
        lines = run(claude, proxy.url, project, "Write the note.", settings={"ANTHROPIC_MODEL": MODEL})
    assert lines[-1]["result"] == "".join(SAID)
    refused, *others = proxy.asked("/v1/messages")
    assert (refused.status, {exchange.status for exchange in others}) == (400, {200})
    assert "system" in [message["role"] for message in refused.body["messages"]]
    roles = {message["role"] for exchange in others for message in exchange.body["messages"]}
    assert roles == {"user", "assistant"}


@pytest.mark.parametrize("proxy", [1 << 20], indirect=True)
def test_the_settings_of_the_page(claude: Path, proxy: ForcingProxy, project: Path) -> None:
    """Model and answer's length; a name for the small model; no header in the prompt that changes with each session."""
    settings = {
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": MODEL,
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "500",
        "ENABLE_TOOL_SEARCH": "false",
    }
    run(claude, proxy.url, project, "Write the note.", "--model", "haiku", settings=settings)
    asked = proxy.asked("/v1/messages")[0]
    assert (asked.body["model"], asked.body["max_tokens"]) == (MODEL, 500)
    assert asked.headers["authorization"] == "Bearer none"
    assert "billing" not in json.dumps(asked.body["system"])
    assert "WebFetch" in [tool["name"] for tool in asked.body["tools"]]


CONTEXT = 65536  # as the page has it
SECONDS = 3000.0  # prefill of some 15,000 tokens on a CPU that may be busy


@pytest.fixture(scope="module")
def server(smollm2_gguf: Path, build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """SmolLM2 with a context that is longer than it was trained on, and a name that Claude Code asks for."""
    goal = tmp_path_factory.mktemp("long") / "smollm2.rfb"
    with PlainProgress() as progress:
        compile_model(CompileOptions(smollm2_gguf, goal, max_context=CONTEXT), build_cache, progress, make_golden)
    with serving(goal, "--alias", "claude-haiku=smollm2") as running:
        yield running


@pytest.mark.nightly
def test_smollm2_calls_a_tool_and_reads_its_result(claude: Path, server: Server, project: Path) -> None:
    """It is told to search for tools, as it would not by itself; for what, and how it goes on, it chooses.

    Its follow-up lies beyond what it was trained on and makes no sense: it may end at any white space.
    """
    body = {"temperature": 0, "stop_sequences": [" ", "\n", "-", "."]}
    choice = {"type": "tool", "name": "ToolSearch"}
    with forcing(server.url, tool_choice=choice, stop_sequences=None) as proxy:
        lines = run(
            claude,
            proxy.url,
            project,
            "Find a tool that reads web pages.",
            settings={
                "ANTHROPIC_MODEL": "claude-haiku",
                "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "128",
                "CLAUDE_CODE_EXTRA_BODY": json.dumps(body),
            },
            seconds=SECONDS,
        )
    assert lines[-1]["subtype"] == "success", lines[-1]
    first, second, *_ = proxy.asked("/v1/messages")
    assert {exchange.status for exchange in proxy.asked("/v1/messages")} == {200}
    assert (first.forced, "tool_choice" in second.body) == (True, False)
    assert first.events()[-2]["delta"]["stop_reason"] == "tool_use"
    (call,) = [block for block in second.body["messages"][-2]["content"] if block["type"] == "tool_use"]
    (result,) = results_of(second.body)
    assert (call["name"], result["tool_use_id"]) == ("ToolSearch", call["id"])
    assert not result.get("is_error")
    assert call["input"].keys() >= {"query"}
    usage = second.events()[-2]["usage"]
    print(call["input"], result["content"], usage, lines[-1]["result"], f"{lines[-1]['duration_ms']} ms")
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] > 10_000  # all of its tools
