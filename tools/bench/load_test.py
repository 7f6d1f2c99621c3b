"""Many streams at once, with cancels and disconnects, each compared with its solo run.

python -m rocmforge.tools.bench.load_test BUNDLE --seconds 600
python -m rocmforge.tools.bench.load_test BUNDLE --requests 1000 --disconnects 300

Exit status 0: no error that was not asked for, no token lost or repeated, pages, descriptors, threads and memory back.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import click

from rocmforge.runtime.http.core.limits import HttpLimits
from rocmforge.tools.bench.http_load import Address, Event, Exchange, HttpError, call
from rocmforge.tools.bench.server_process import Held, ServerProcess, free_port, rfc_serve
from rocmforge.tools.bench.traffic import STREAM, Case, Step, judge, judge_beginning, make_bodies, run_alone, step_of

COMPLETE: Final = "complete"
CANCEL: Final = "cancel"
DISCONNECT: Final = "disconnect"
RESET: Final = "reset"
SETTLE_SECONDS: Final = 10.0
# Between the end of the solo runs and the end of the load: allocator arenas of the server's threads, the tables of
# finished requests (1,024 of them). A leak of 1 KiB a request shows in 10 minutes of load.
MEMORY_ALLOWED_MIB: Final = 24.0


@dataclass(slots=True)
class Result:
    """What happened. `problems` should be empty."""

    fates: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    gaps: list[float] = field(default_factory=list)  # seconds between two tokens of a stream
    first: list[float] = field(default_factory=list)  # seconds from sending to the first token
    problems: list[str] = field(default_factory=list)


async def run_one(address: Address, case: Case, fate: str, after: int, result: Result) -> None:
    """One stream, that ends as `fate` says once `after` events have come."""
    steps: list[Step] = []
    problem: str | None
    try:
        async with Exchange(address, "POST", STREAM, case.body) as exchange:
            if fate in {DISCONNECT, RESET} and after == 0:
                exchange.leave(fate == RESET)
                result.fates[fate] += 1
                return
            async for event in _timed(exchange, result):
                steps.append(step_of(event.document))
                if len(steps) == after and fate == CANCEL:
                    problem = await _cancel(address, event.document["request_id"])
                    if problem:
                        result.problems.append(problem)
                elif len(steps) == after and fate in {DISCONNECT, RESET}:
                    exchange.leave(fate == RESET)
                    break
        result.fates[fate] += 1
        left = fate in {DISCONNECT, RESET} and len(steps) == after
        problem = judge_beginning(case, steps) if left else judge(case, steps, fate == CANCEL)
    except (HttpError, ValueError, KeyError) as error:
        problem = f"{type(error).__name__}: {error}"
    result.tokens += len(steps)
    if problem:
        result.problems.append(f"seed {case.body['seed']}, {fate} after {after}: {problem}")


async def _timed(exchange: Exchange, result: Result) -> AsyncIterator[Event]:
    last: float | None = None
    async for event in exchange.events():
        if last is None:
            result.first.append(event.at - exchange.sent_at)
        else:
            result.gaps.append(event.at - last)
        last = event.at
        yield event


async def _cancel(address: Address, request_id: int) -> str | None:
    """The answer tells of the end; or of none yet, where a step takes longer than it waits, as on an emulated GPU."""
    asked = time.perf_counter()
    status, answer = await call(address, "POST", f"/cancel/{request_id}")
    waited = time.perf_counter() - asked >= HttpLimits().cancel_seconds
    if status != 200 or not (answer["finished"] or waited):
        return f"/cancel/{request_id}: {status} {answer}"
    return None


def fates(chooser: random.Random, cases: list[Case]) -> Iterator[tuple[Case, str, int]]:
    """Without end: a request, how it ends, and after how many events."""
    while True:
        case = chooser.choice(cases)
        fate = chooser.choices((COMPLETE, CANCEL, DISCONNECT, RESET), (70, 14, 8, 8))[0]
        yield case, fate, chooser.randint(fate == CANCEL, len(case.expected))


def fixed_fates(
    chooser: random.Random, cases: list[Case], count: int, leave: int, cancel: int = 0
) -> Iterator[tuple[Case, str, int]]:
    """`count` requests, of which `leave` are left by their clients and `cancel` cancelled."""
    kinds = [DISCONNECT] * (leave // 2) + [RESET] * (leave - leave // 2) + [CANCEL] * cancel
    kinds += [COMPLETE] * (count - len(kinds))
    chooser.shuffle(kinds)
    for kind in kinds:
        case = chooser.choice(cases)
        first = int(kind == CANCEL)  # a cancel needs the number that comes with the first event
        yield case, kind, chooser.randint(first, max(first, len(case.expected) - 1))


async def run_load(
    address: Address, plan: Iterator[tuple[Case, str, int]], streams: int, deadline: float, result: Result
) -> None:
    """Keep `streams` running until the plan or the time (`time.monotonic`) is over."""

    async def worker() -> None:
        while time.monotonic() < deadline and (item := next(plan, None)) is not None:
            await run_one(address, *item, result)

    await asyncio.gather(*(worker() for _ in range(streams)))


async def pages_used(address: Address) -> int:
    """Pages of the KV cache that requests hold."""
    _, health = await call(address, "GET", "/health")
    return int(health["checks"]["cache"]["pages_used"])


async def seconds_until_free(address: Address, pages: int) -> float:
    """How long it takes until only `pages` are held; at most `SETTLE_SECONDS`."""
    began = time.perf_counter()
    while (waited := time.perf_counter() - began) < SETTLE_SECONDS:
        if await pages_used(address) <= pages:
            return waited
        await asyncio.sleep(0.001)
    return SETTLE_SECONDS


async def all_leave(address: Address, cases: list[Case], streams: int) -> tuple[float, float]:
    """`streams` run, and all of their clients leave at once.

    Returns:
        seconds until all of their pages are free, and between two tokens of a stream before that (median).
    """
    base = await pages_used(address)
    longest = sorted(cases, key=lambda case: len(case.expected), reverse=True)
    exchanges: list[Exchange] = []
    gaps: list[float] = []

    async def watch(case: Case, running: asyncio.Event) -> None:
        body = {**case.body, "max_tokens": 1000, "ignore_eos": True}
        async with Exchange(address, "POST", STREAM, body) as exchange:
            exchanges.append(exchange)
            last = 0.0
            async for event in exchange.events():
                if len(exchanges) == streams and last:
                    gaps.append(event.at - last)
                last = event.at
                if len(gaps) > 8 * streams:
                    running.set()

    running = asyncio.Event()
    tasks = [asyncio.create_task(watch(longest[index % len(longest)], running)) for index in range(streams)]
    await asyncio.wait_for(running.wait(), 120)
    for exchange in exchanges:
        exchange.leave()
    waited = await seconds_until_free(address, base)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return waited, sorted(gaps)[len(gaps) // 2]


async def settled(server: ServerProcess) -> Held:
    """What the server holds once its connections are closed."""
    held = server.held()
    for _ in range(20):
        await asyncio.sleep(0.25)
        found, held = held, server.held()
        if (found.descriptors, found.threads) == (held.descriptors, held.threads):
            break
    return held


def check_held(before: Held, after: Held, pages_before: int, pages_after: int) -> list[str]:
    """What did not come back to where it began."""
    found = []
    if pages_after != pages_before:
        found.append(f"pages: {pages_before} before, {pages_after} after")
    if after.descriptors > before.descriptors:
        found.append(f"descriptors: {before.descriptors} before, {after.descriptors} after")
    if after.threads > before.threads:
        found.append(f"threads: {before.threads} before, {after.threads} after")
    if after.anonymous > before.anonymous + MEMORY_ALLOWED_MIB:
        found.append(f"anonymous memory: {before.anonymous:.0f} MiB before, {after.anonymous:.0f} MiB after")
    return found


def _median_and_worst(values: list[float]) -> str:
    ordered = sorted(values)
    if not ordered:
        return "none"
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return f"median {1000 * ordered[len(ordered) // 2]:.0f} ms, p95 {1000 * p95:.0f}, worst {1000 * ordered[-1]:.0f}"


def _bodies(options: dict[str, Any]) -> list[dict[str, Any]]:
    bodies = make_bodies(options["distinct"], options["seed"], options["max_tokens"])
    return [{**body, "prompt": body["prompt"][: options["prompt_length"]]} for body in bodies]


async def measure(server: ServerProcess, options: dict[str, Any]) -> Result:
    """Solo runs, warm-up, load, and the reckoning."""
    address, streams, chooser = server.address, options["streams"], random.Random(options["seed"])
    cases = [await run_alone(address, body) for body in _bodies(options)]
    click.echo(f"{len(cases)} solo runs, {sum(len(case.expected) for case in cases)} tokens")
    warm_up = fixed_fates(chooser, cases, 2 * streams, streams // 2)
    result = Result()
    await run_load(address, warm_up, streams, float("inf"), result)
    await seconds_until_free(address, 0)
    before, pages_before = await settled(server), await pages_used(address)
    result = Result(problems=result.problems)
    began = time.monotonic()
    if options["requests"]:
        plan = fixed_fates(chooser, cases, options["requests"], options["disconnects"], options["cancels"])
        await run_load(address, plan, streams, float("inf"), result)
    else:
        await run_load(address, fates(chooser, cases), streams, began + options["seconds"], result)
    took = time.monotonic() - began
    freed = await seconds_until_free(address, pages_before)
    click.echo(f"{took:.0f} s, {dict(result.fates)}, {result.tokens} tokens ({result.tokens / took:.0f} a second)")
    click.echo(
        f"to the first token: {_median_and_worst(result.first)}; between tokens: {_median_and_worst(result.gaps)}"
    )
    click.echo(f"pages free again {1000 * freed:.0f} ms after the last stream")
    waited, gap = await all_leave(address, cases, streams)
    click.echo(
        f"{streams} clients leave at once: pages free after {1000 * waited:.0f} ms; a step took {1000 * gap:.0f} ms"
    )
    after = await settled(server)
    click.echo(f"before {before}\nafter  {after}")
    result.problems += check_held(before, after, pages_before, await pages_used(address))
    return result


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.option("--seconds", default=600.0, show_default=True, help="How long, without --requests.")
@click.option("--requests", type=int, help="So many requests in all.")
@click.option("--disconnects", default=300, show_default=True, help="How many of --requests are left by their clients.")
@click.option("--cancels", default=0, show_default=True, help="How many of --requests are cancelled.")
@click.option("--streams", default=64, show_default=True, help="At once.")
@click.option("--distinct", default=100, show_default=True, help="Different requests, each run alone first.")
@click.option("--max-tokens", default=128, show_default=True, help="Of a request.")
@click.option("--prompt-length", type=int, help="Characters of a prompt at most.")
@click.option("--device", default="host", show_default=True, help="As of rfc serve.")
@click.option("--threads", default=2, show_default=True)
@click.option("--kv-tokens", default=16384, show_default=True, help="Small enough that pages run out now and then.")
@click.option("--seed", default=1, show_default=True)
def main(bundle: Path, device: str, threads: int, kv_tokens: int, **options: Any) -> None:
    """Load `rfc serve BUNDLE`."""
    port = free_port()
    command = rfc_serve(bundle, port, "--threads", str(threads), "--kv-tokens", str(kv_tokens), device=device)
    with ServerProcess(command, port) as server:
        result = asyncio.run(measure(server, options))
        status = server.stop()
        if status:
            result.problems.append(f"the server's exit status is {status}")
        if "Traceback" in server.log():
            result.problems.append("the server logged a traceback:\n" + server.log()[-3000:])
    for problem in result.problems[:20]:
        click.echo(f"PROBLEM {problem}", err=True)
    click.echo(f"{len(result.problems)} problems")
    sys.exit(bool(result.problems))


if __name__ == "__main__":
    main()
