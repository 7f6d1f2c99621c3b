"""`rfc serve` beside llama.cpp's server: tokens a second and times to the first token, through the API that both have.

python -m rocmforge.tools.bench.server BUNDLE --model GGUF --peer LLAMA_SERVER
python -m rocmforge.tools.bench.server BUNDLE --prefix 2000
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from rocmforge.tools.bench.http_load import Address, Exchange, HttpError
from rocmforge.tools.bench.quiet import Others, wait_until_quiet
from rocmforge.tools.bench.server_process import ServerProcess, free_port, rfc_serve

PATH: Final = "/v1/completions"
# Ids of SmolLM2's tokens that are plain text. Chosen by chance, they are certain to be in nobody's cache.
FIRST_ID, LAST_ID = 1000, 40000


@dataclass(frozen=True, slots=True)
class Round:
    """32 requests, say: tokens a second of all together, and each one's seconds to its first token."""

    tokens_per_second: float
    first: tuple[float, ...]

    @property
    def p95(self) -> float:
        """The time to the first token that 95% keep."""
        return percentile(self.first, 0.95)


def percentile(values: tuple[float, ...], share: float) -> float:
    """The smallest of the values that `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1)]


def body_of(token_ids: list[int], max_tokens: int) -> dict[str, Any]:
    """A request that both servers take: exactly so many tokens in and out."""
    return {
        "prompt": token_ids,
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def random_ids(chooser: random.Random, count: int) -> list[int]:
    """Token ids of a prompt."""
    return [chooser.randrange(FIRST_ID, LAST_ID) for _ in range(count)]


async def stream(address: Address, body: dict[str, Any]) -> float:
    """Run a request to its end; seconds until its first text.

    Raises:
        HttpError: it was refused, or has not as many tokens as asked for.
    """
    first = tokens = 0.0
    async with Exchange(address, "POST", PATH, body) as exchange:
        async for event in exchange.events():
            if not first and any(choice.get("text") for choice in event.document["choices"]):
                first = event.at - exchange.sent_at
            tokens = (event.document.get("usage") or {}).get("completion_tokens", tokens)
    if tokens != body["max_tokens"]:
        raise HttpError(200, f"expected {body['max_tokens']} tokens, found {tokens}")
    return first


async def run_round(address: Address, bodies: list[dict[str, Any]], at_once: int) -> Round:
    """All requests, `at_once` at a time."""
    waiting: Iterator[dict[str, Any]] = iter(bodies)
    first: list[float] = []

    async def client() -> None:
        for body in waiting:
            first.append(await stream(address, body))

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(at_once)))
    seconds = time.perf_counter() - began
    return Round(sum(body["max_tokens"] for body in bodies) / seconds, tuple(first))


def llama_server(binary: Path, model: Path, port: int, threads: int, slots: int) -> list[str]:
    """The command that serves a GGUF, with 1,024 tokens a slot and all else as llama.cpp has it."""
    options = ["--host", "127.0.0.1", "--port", str(port), "-t", str(threads), "-np", str(slots)]
    return [str(binary), "-m", str(model), "-c", str(1024 * slots), *options]


@dataclass(frozen=True, slots=True)
class Conditions:
    """How many rounds, of how many requests, and how quiet the machine must be for a round to count."""

    rounds: int
    requests: int
    at_once: int
    others: float
    patience: float


async def compare(servers: list[ServerProcess], conditions: Conditions) -> list[list[Round]]:
    """Rounds of each server in turn; those in which others used too much of the machine are not counted."""
    chooser, deadline = random.Random(1), time.monotonic() + conditions.patience
    pids = [os.getpid(), *(server.pid for server in servers)]
    found: list[list[Round]] = []
    warm = False
    while len(found) < conditions.rounds and wait_until_quiet(conditions.others, deadline - time.monotonic()):
        bodies = [body_of(random_ids(chooser, 64), 64) for _ in range(conditions.requests)]
        with Others(pids) as others:
            line = [await run_round(server.address, bodies, conditions.at_once) for server in servers]
        if others.share > conditions.others:
            click.echo(f"  not counted, others used {others.share:.0%} of the machine: {_line(line)}")
        elif warm:
            click.echo(f"  {_line(line)} (others {others.share:.0%})")
            found.append(line)
        warm = True
    return found


def report(found: list[list[Round]]) -> None:
    """Medians, and the medians of the ratios."""
    click.echo(f"{len(found)} rounds")
    for index, name in enumerate(("rocmforge", "llama.cpp")[: len(found[0]) if found else 0]):
        rates = [line[index].tokens_per_second for line in found]
        firsts = [line[index].p95 for line in found]
        click.echo(
            f"{name}: {statistics.median(rates):.0f} tokens/s, p95 to the first token {statistics.median(firsts):.3f} s"
        )
    if found and len(found[0]) == 2:
        rates = [mine.tokens_per_second / other.tokens_per_second for mine, other in found]
        firsts = [mine.p95 / other.p95 for mine, other in found]
        click.echo(
            f"median ratio: tokens/s {statistics.median(rates):.2f} ({min(rates):.2f} to {max(rates):.2f}), "
            f"p95 to the first token {statistics.median(firsts):.2f} ({min(firsts):.2f} to {max(firsts):.2f})"
        )


def _line(line: list[Round]) -> str:
    return " | ".join(f"{found.tokens_per_second:.0f} tokens/s, p95 {found.p95:.3f} s" for found in line)


async def shared_prefix(address: Address, length: int, rounds: int) -> None:
    """Seconds to the first token with a prefix that nobody has sent before, and with another end after it."""
    chooser = random.Random(2)
    await stream(address, body_of(random_ids(chooser, length), 4))
    ratios = []
    for _ in range(rounds):
        prefix = random_ids(chooser, length)
        first, second = [await stream(address, body_of(prefix + random_ids(chooser, 16), 4)) for _ in range(2)]
        ratios.append(second / first)
        click.echo(f"  first {1000 * first:.0f} ms, second {1000 * second:.1f} ms")
    click.echo(f"prefix of {length}: median ratio {statistics.median(ratios):.3f} (worst {max(ratios):.3f})")


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.option("--model", type=click.Path(exists=True, path_type=Path), help="The GGUF, for llama.cpp.")
@click.option("--peer", type=click.Path(exists=True, path_type=Path), help="The binary llama-server.")
@click.option("--prefix", type=int, help="Measure the reuse of a prefix of so many tokens instead.")
@click.option("--threads", default=2, show_default=True)
@click.option("--rounds", default=7, show_default=True)
@click.option("--requests", default=32, show_default=True)
@click.option("--at-once", default=8, show_default=True)
@click.option("--others", default=0.1, show_default=True, help="Share of the machine that others may use in a round.")
@click.option("--patience", default=600.0, show_default=True, help="Seconds to wait for quiet.")
def main(
    bundle: Path, model: Path | None, peer: Path | None, prefix: int | None, threads: int, **conditions: Any
) -> None:
    """64 tokens in and 64 out, `--requests` of them, `--at-once` at a time; ours and llama.cpp's in turn."""
    given = Conditions(**conditions)
    with ExitStack() as stack:
        port = free_port()
        servers = [stack.enter_context(ServerProcess(rfc_serve(bundle, port, "--threads", str(threads)), port))]
        if prefix:
            asyncio.run(shared_prefix(servers[0].address, prefix, given.rounds))
            return
        if peer and model:
            port = free_port()
            command = llama_server(peer, model, port, threads, given.at_once)
            servers.append(stack.enter_context(ServerProcess(command, port)))
        report(asyncio.run(compare(servers, given)))


if __name__ == "__main__":
    main()
