"""`rfc serve --device hip` on AMD's own runtime: many streams at once, each equal to the emulated device's when it is
alone."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rocmforge.tests.amd.runtime import Compiled, Runtime
from rocmforge.tests.support.process import environment
from rocmforge.tools.bench.http_load import Address, call
from rocmforge.tools.bench.load_test import COMPLETE, Result, fixed_fates, run_load, seconds_until_free
from rocmforge.tools.bench.server_process import ServerProcess, free_port, rfc_serve
from rocmforge.tools.bench.traffic import Case, make_bodies, run_alone
from rocmforge.tools.generate.fixtures import write_model

ARCH = "gfx1100"


@pytest.fixture(scope="module")
def bundles(compiled: Compiled, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two models; the first has a context that real text fits into."""
    folder = tmp_path_factory.mktemp("served")
    first = write_model(folder / "first.gguf", num_layers=1, context_length=4096)
    second = write_model(folder / "second.gguf", num_layers=1, seed=5)
    return compiled(first, ARCH), compiled(second, ARCH)


@contextlib.contextmanager
def emulated(*arguments: object) -> Iterator[ServerProcess]:
    """The same on the emulated API."""
    port = free_port()
    first, *others = map(str, arguments)
    command = rfc_serve(Path(first), port, *others, device=f"emulated:{ARCH}")
    with ServerProcess(command, port, environment=environment()) as server:
        yield server


def post(server: ServerProcess, path: str, body: dict[str, Any]) -> Any:
    status, answer = asyncio.run(call(server.address, "POST", path, body))
    assert status == 200, answer
    return answer


async def load(address: Address, cases: list[Case], streams: int, count: int, cancels: int) -> Result:
    result = Result()
    plan = fixed_fates(random.Random(3), cases, count, 0, cancels)
    await asyncio.wait_for(run_load(address, plan, streams, float("inf"), result), 240)
    assert await seconds_until_free(address, 0) < 10
    return result


def test_streams_cancels_and_preemption(trixie: Runtime, bundles: tuple[Path, Path]) -> None:
    """Nothing is lost, repeated or other than alone; the cache is too small for all at once."""
    options = (bundles[0], "--max-context", "256", "--kv-tokens", "256")
    bodies = [
        {**body, "prompt": body["prompt"][: 20 + index], "max_tokens": 48, "ignore_eos": True}
        for index, body in enumerate(make_bodies(6, 4))
    ]
    with emulated(*options) as server:
        cases = [asyncio.run(run_alone(server.address, body)) for body in bodies]
    with trixie.serving(ARCH, *options, "--device", "hip") as server:
        result = asyncio.run(load(server.address, cases, 6, 24, 6))
        assert result.problems == []
        assert result.fates[COMPLETE] == 18
        _, text = asyncio.run(call(server.address, "GET", "/metrics"))
        assert preemptions(text) > 0
        assert f"GPU 0 ({ARCH}" in server.log()


def preemptions(text: Any) -> float:
    line = next(line for line in str(text).splitlines() if line.startswith("rocmforge_preemptions_total "))
    return float(line.split()[1])


def test_two_models_and_what_else_is_served(trixie: Runtime, bundles: tuple[Path, Path]) -> None:
    """Several bundles, speculation, structured output, embeddings, chat: the same answers as on the emulated API."""
    schema = {
        "type": "object",
        "properties": {"a": {"enum": ["x", "y"]}},
        "required": ["a"],
        "additionalProperties": False,
    }
    asked: list[tuple[str, dict[str, Any]]] = []
    for name in ("first", "second"):
        asked += [
            ("/v1/completions", {"model": name, "prompt": "abcabcabcabc", "max_tokens": 12, "temperature": 0}),
            ("/v1/embeddings", {"model": name, "input": ["one text", "another"]}),
            (
                "/v1/chat/completions",
                {
                    "model": name,
                    "messages": [{"role": "user", "content": "x or y?"}],
                    "max_tokens": 24,
                    "temperature": 1,
                    "seed": 3,
                    "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
                },
            ),
        ]
    found = []
    for context in (
        emulated(*bundles, "--kv-tokens", "1024"),
        trixie.serving(ARCH, *bundles, "--kv-tokens", "1024", "--device", "hip"),
    ):
        with context as server:
            answers = [post(server, path, body) for path, body in asked]
        found.append(
            [{key: answer[key] for key in ("choices", "data", "usage") if key in answer} for answer in answers]
        )
    assert found[0] == found[1]


@pytest.mark.nightly
@pytest.mark.parametrize("arch", ["gfx1100", "gfx942"])
def test_a_served_load_of_smollm2(trixie: Runtime, arch: str, smollm2_gpu: Path) -> None:
    """200 requests on 8 streams, 50 of them cancelled: none lost, repeated or other than alone, and all given back."""
    done = trixie.run(
        arch,
        *(
            "python",
            "-m",
            "rocmforge.tools.bench.load_test",
            smollm2_gpu,
            "--device",
            "hip",
            "--requests",
            200,
            "--cancels",
            50,
        ),
        *("--disconnects", 0, "--streams", 8, "--distinct", 12, "--max-tokens", 12, "--prompt-length", 30),
        *("--kv-tokens", 8192),
        seconds=7200,
    )
    sys.stdout.write(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "0 problems", done.stdout + done.stderr
