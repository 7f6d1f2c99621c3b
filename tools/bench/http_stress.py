"""A server under too many, too slow and too busy clients: what those who behave still get.

python -m rocmforge.tools.bench.http_stress BUNDLE         starts `rfc serve` and prints what it measures as JSON
python -m rocmforge.tools.bench.http_stress --url URL      asks a server that runs
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import click

PATIENCE_SECONDS = 120.0
OPEN_FILES = 8192
# Each with a little disorder, so that no two prompts are answered from the prefix cache alone.
PROMPT = "Tell me story number {} about a river and the town on its banks, with all its people."


class Http:
    """Requests over raw sockets: one connection each, so that nothing is hidden by a client's pool."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.host, self.port = str(parts.hostname), int(parts.port or 80)

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A connection for a while."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            yield reader, writer
        finally:
            writer.close()

    async def get(self, path: str) -> int:
        """Status of a GET; 0: no whole answer came."""
        return (await self.ask(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()))[0]

    async def generate(self, number: int, max_tokens: int, path: str = "/generate") -> tuple[int, bytes]:
        """Status and answer of a generation."""
        return await self.ask(self.generation(number, max_tokens, path))

    @staticmethod
    def generation(number: int, max_tokens: int, path: str) -> bytes:
        """The bytes that ask for one."""
        body = json.dumps({"prompt": PROMPT.format(number), "max_tokens": max_tokens}).encode()
        return b"POST %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (
            path.encode(),
            len(body),
            body,
        )

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a request; status (0: none came) and all that was answered."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS), self.connect() as (reader, writer):
                writer.write(request)
                answer = await reader.read()
        except (OSError, TimeoutError):
            return 0, b""
        found = re.match(rb"HTTP/1\.[01] (\d{3}) ", answer)
        return (int(found[1]), answer) if found else (0, answer)


def quantiles(seconds: list[float]) -> dict[str, float]:
    """Of times in seconds, in milliseconds."""
    ordered = sorted(seconds)
    at = {name: ordered[min(len(ordered) - 1, int(share * len(ordered)))] for name, share in SHARES.items()}
    return {name: round(1e3 * value, 1) for name, value in at.items()} | {"n": len(ordered)}


SHARES = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99, "max_ms": 1.0}


async def health_times(http: Http, stop: asyncio.Event, interval: float = 0.02) -> tuple[list[float], int]:
    """Ask /health until `stop`; seconds each took, and how many failed."""
    times, failed = [], 0
    while not stop.is_set():
        began = time.perf_counter()
        status = await http.get("/health")
        times.append(time.perf_counter() - began)
        failed += status != 200
        await asyncio.sleep(interval)
    return times, failed


async def connections(http: Http, count: int) -> dict[str, object]:
    """`count` connections that all ask at once for a stream: each gets it, or a 503 with Retry-After."""
    stop = asyncio.Event()
    watcher = asyncio.create_task(health_times(http, stop))
    first: list[float] = []
    outcomes: Counter[str] = Counter()

    async def one(number: int) -> None:
        began = time.perf_counter()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS), http.connect() as (reader, writer):
                writer.write(http.generation(number, 8, "/generate/stream"))
                head = await reader.readuntil(b"\r\n\r\n")
                first.append(time.perf_counter() - began)
                rest = await reader.read()
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            outcomes[type(error).__name__] += 1
            return
        status = head[9:12].decode()
        if status == "503":
            outcomes["503 with Retry-After" if b"\r\nRetry-After: " in head else "503 without"] += 1
        else:
            outcomes[f"{status} whole" if b'"finished":true' in rest else f"{status} cut"] += 1

    await asyncio.gather(*(one(number) for number in range(count)))
    stop.set()
    times, failed = await watcher
    return {
        "connections": count,
        "outcomes": dict(outcomes),
        "until_the_header": quantiles(first),
        "health": quantiles(times),
        "health_failed": failed,
    }


async def health_beside_streams(http: Http, streams: int, seconds: float) -> dict[str, object]:
    """How long /health takes while `streams` generations go on."""
    stop = asyncio.Event()
    outcomes: Counter[int] = Counter()
    tokens = 0

    async def stream(number: int) -> None:
        nonlocal tokens
        while not stop.is_set():
            async with http.connect() as (reader, writer):
                writer.write(http.generation(number, 400, "/generate/stream"))
                outcomes[int((await reader.readuntil(b"\r\n\r\n"))[9:12])] += 1
                while not stop.is_set() and (data := await reader.read(65536)):
                    tokens += data.count(b"data: ")

    running = [asyncio.create_task(stream(number)) for number in range(streams)]
    while not outcomes:
        await asyncio.sleep(0.05)
    await asyncio.sleep(1.0)
    watcher = asyncio.create_task(health_times(http, stop))
    began, before = time.perf_counter(), tokens
    await asyncio.sleep(seconds)
    rate = (tokens - before) / (time.perf_counter() - began)
    stop.set()
    times, failed = await watcher
    await asyncio.gather(*running, return_exceptions=True)
    return {
        "streams": streams,
        "statuses": dict(outcomes),
        "tokens_per_second": round(rate, 1),
        "health": quantiles(times),
        "health_failed": failed,
    }


async def normal_beside_slow(http: Http, slow: int, requests: int, senders: int = 8) -> dict[str, object]:
    """What becomes of `requests` ordinary ones, of `senders`, beside `slow` clients that send a byte at a time."""
    stop = asyncio.Event()
    ends: Counter[str] = Counter()

    async def trickle(number: int) -> None:
        host = b"Host: localhost\r\n"
        request = http.generation(number, 8, "/generate").replace(host, host + b"X: " + b"y" * 4000 + b"\r\n")
        while not stop.is_set():
            try:
                async with http.connect() as (reader, writer):
                    answer = asyncio.create_task(reader.read())
                    for byte in request:
                        if stop.is_set() or answer.done() or writer.is_closing():
                            break
                        writer.write(bytes([byte]))
                        await asyncio.sleep(0.1)
                    ends["closed by the server" if answer.done() or writer.is_closing() else "went on"] += 1
                    answer.cancel()
                    await asyncio.gather(answer, return_exceptions=True)
            except OSError:
                ends["not accepted"] += 1

    slow_tasks = [asyncio.create_task(trickle(number)) for number in range(slow)]
    await asyncio.sleep(2.0)
    statuses: Counter[int] = Counter()
    times: list[float] = []
    numbers = iter(range(requests))

    async def normal() -> None:
        for number in numbers:
            began = time.perf_counter()
            status = await (http.get("/v1/models") if number % 2 else ask_one(http, number))
            times.append(time.perf_counter() - began)
            statuses[status] += 1

    await asyncio.gather(*(normal() for _ in range(senders)))
    stop.set()
    await asyncio.gather(*slow_tasks)
    return {
        "slow_clients": slow,
        "their_connections": dict(ends),
        "requests": requests,
        "statuses": dict(statuses),
        "succeeded": statuses[200] / requests,
        "time": quantiles(times),
    }


async def ask_one(http: Http, number: int) -> int:
    """Status of a generation of one token."""
    return (await http.generate(number, 1))[0]


@contextlib.contextmanager
def serving(bundle: Path, options: tuple[str, ...]) -> Iterator[str]:
    """`rfc serve` for a while; its URL."""
    command = [sys.executable, "-m", "rocmforge.cli", "serve", str(bundle), "--addr", "127.0.0.1:0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if found := re.search(r"serving .* on (http://\S+)", line):
            break
    else:
        raise click.ClickException("".join(lines))
    drain = subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL)
    try:
        yield found[1]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        drain.wait()


SCENES: dict[str, Callable[[Http, float], Awaitable[dict[str, object]]]] = {
    "connections": lambda http, _: connections(http, 1000),
    "health": lambda http, seconds: health_beside_streams(http, 64, seconds),
    "slow": lambda http, _: normal_beside_slow(http, 500, 2000),
}


@click.command()
@click.argument("bundle", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--url", help="A server that runs, instead of a bundle.")
@click.option("--scene", "scenes", multiple=True, type=click.Choice(list(SCENES)), help="One of them. [default: all]")
@click.option("--seconds", default=20.0, show_default=True, help="How long /health is asked beside the streams.")
@click.option("--serve-option", "options", multiple=True, help="Passed on to `rfc serve`.")
def main(
    bundle: Path | None, url: str | None, scenes: tuple[str, ...], seconds: float, options: tuple[str, ...]
) -> None:
    """Measure what clients get of a server of BUNDLE under load."""
    if (bundle is None) == (url is None):
        raise click.UsageError("expected BUNDLE or --url")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, OPEN_FILES), hard))
    for name in scenes or SCENES:
        with serving(bundle, options) if bundle is not None else contextlib.nullcontext(str(url)) as base:
            click.echo(json.dumps({name: asyncio.run(_run(name, base, seconds))}))


async def _run(name: str, url: str, seconds: float) -> dict[str, object]:
    return await SCENES[name](Http(url), seconds)


if __name__ == "__main__":
    main()
