"""The load tools against a real server: short runs, which must find nothing wrong."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rocmforge.tests.support.killed import forked
from rocmforge.tests.support.process import digest_of
from rocmforge.tools.bench.server_process import ServerProcess, free_port, rfc_serve
from rocmforge.tools.bench.soak import Traffic, take_sample
from rocmforge.tools.bench.traffic import make_bodies
from rocmforge.tools.generate.fixtures import write_model


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, small_cache: Path) -> Path:
    """A small model with a context that real text fits into."""
    folder = tmp_path_factory.mktemp("load")
    goal = folder / "small.rfb"
    model = write_model(folder / "small.gguf", context_length=4096)
    digest_of(forked(folder, "compile", model, "-o", goal, "--cache-dir", small_cache))
    return goal


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[ServerProcess]:
    port = free_port()
    with ServerProcess(rfc_serve(bundle, port, "--threads", "1", "--kv-tokens", "8192"), port) as running:
        yield running
        assert running.stop() == 0


def test_F56_many_streams_with_disconnects_equal_their_solo_runs(bundle: Path) -> None:
    # 8 streams of up to 1,800 bytes and as many tokens need more than the 4,096 of the cache: pages run out, too.
    command = [sys.executable, "-m", "rocmforge.tools.bench.load_test", str(bundle), "--threads", "1"]
    done = subprocess.run(
        [*command, "--requests=60", "--disconnects=20", "--streams=8", "--distinct=12", "--kv-tokens=4096"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "0 problems"), done.stdout + done.stderr


@pytest.mark.parametrize(
    "kind", ["generate", "stream", "chat", "structured", "cancel", "disconnect", "bad", "look"], ids=str
)
def test_each_kind_of_the_soaks_traffic(server: ServerProcess, kind: str) -> None:
    async def run() -> None:
        traffic = Traffic(server.address, make_bodies(10, 1, 16), random.Random(1))
        for _ in range(12 if kind in {"bad", "look"} else 4):
            await getattr(traffic, kind)()

    asyncio.run(run())
    assert asyncio.run(take_sample(server)).pages == 0
