"""Mixed traffic for half an hour; what the server holds must stay flat.

python -m rocmforge.tools.bench.soak BUNDLE --minutes 30

Traffic comes in rounds of ten seconds. After each the server is idle, and is asked what it holds: pages, descriptors
and threads must be the same after each round from the warm-up on. Memory may be noisy: it is flat where the median of
the last third of the samples is above the median of the first third by no more than `MEMORY_ALLOWED_MIB` and three
standard errors of such a difference, taken from the samples' own scatter.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import click

from rocmforge.tools.bench.http_load import Address, Exchange, HttpError, call
from rocmforge.tools.bench.load_test import pages_used, seconds_until_free
from rocmforge.tools.bench.server_process import Held, ServerProcess, free_port, rfc_serve
from rocmforge.tools.bench.traffic import STREAM, make_bodies

ROUND_SECONDS: Final = 10.0
# Until both are over, bounded tables fill (1,024 finished requests, 1,000 traces: every request is traced), and pages
# are touched for the first time. The tokenizer's own table of 10,000 words would take longer: it is filled at once.
WARM_UP_SHARE: Final = 0.2  # of the time
WARM_UP_REQUESTS: Final = 2000
MEMORY_ALLOWED_MIB: Final = 2.0
WORDS: Final = 12_000
LONGEST_TIMEOUT: Final = 120.0
_SCHEMA: Final = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "size": {"enum": ["small", "large"]}},
    "required": ["name", "size"],
    "additionalProperties": False,
}
# Requests that are wrong, and the statuses that they may get.
_BAD: Final[tuple[tuple[str, str, dict[str, object] | bytes, set[int]], ...]] = (
    ("POST", "/generate", b'{"prompt": ', {400}),
    ("POST", "/generate", {"prompt": "x", "temperature": "warm"}, {400}),
    ("POST", "/generate", {"prompt": "x " * 20000}, {400}),
    ("POST", "/v1/chat/completions", {"messages": 7}, {400}),
    ("POST", "/v1/chat/completions", {"messages": [], "n": -1}, {400}),
    ("POST", "/cancel/999999999", b"", {404}),
    ("GET", "/status/none", b"", {404}),
    ("GET", "/no/such/path", b"", {404}),
    ("DELETE", "/generate", b"", {405}),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """What an idle server holds after a round."""

    held: Held
    pages: int


@dataclass(slots=True)
class Traffic:
    """The kinds of requests, each a coroutine that raises where the answer is not as it should be."""

    address: Address
    bodies: list[dict[str, Any]]
    chooser: random.Random
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    async def one(self) -> None:
        """A request of some kind."""
        kinds: list[Callable[[], Awaitable[None]]]
        kinds = [
            self.generate,
            self.stream,
            self.chat,
            self.structured,
            self.cancel,
            self.disconnect,
            self.bad,
            self.look,
        ]
        kind = self.chooser.choice(kinds)
        name = getattr(kind, "__name__", "")
        self.counts[name] += 1
        try:
            await asyncio.wait_for(kind(), LONGEST_TIMEOUT)
        except (HttpError, TimeoutError, ValueError, KeyError, TypeError) as error:
            self.problems.append(f"{name}: {type(error).__name__}: {error}")

    async def _ask(self, path: str, body: dict[str, Any]) -> Any:
        status, answer = await call(self.address, "POST", path, body)
        if status != 200:
            raise HttpError(status, f"{path}: {answer}")
        return answer

    async def generate(self) -> None:
        """`POST /generate`, and the status of the request afterwards."""
        answer = await self._ask("/generate", self.chooser.choice(self.bodies))
        status, again = await call(self.address, "GET", f"/status/{answer['request_id']}")
        if (status, again) != (200, answer):
            raise ValueError(f"/status says {status} {again}, the answer was {answer}")

    async def stream(self) -> None:
        """A stream, to its end."""
        async with Exchange(self.address, "POST", STREAM, self.chooser.choice(self.bodies)) as exchange:
            documents = [event.document async for event in exchange.events()]
        if not documents or documents[-1]["finish_reason"] not in {"length", "stop", "eos"}:
            raise ValueError(f"ended with {documents[-1:]}")

    async def chat(self) -> None:
        """A chat, streamed or whole."""
        messages = [{"role": "user", "content": self.chooser.choice(self.bodies)["prompt"]}]
        body = {"messages": messages, "max_tokens": self.chooser.randint(1, 40), "temperature": 1}
        if self.chooser.random() < 0.5:
            answer = await self._ask("/v1/chat/completions", body)
            if answer["choices"][0]["finish_reason"] not in {"length", "stop"}:
                raise ValueError(f"answered {answer}")
            return
        async with Exchange(self.address, "POST", "/v1/chat/completions", {**body, "stream": True}) as exchange:
            if not [event async for event in exchange.events()]:
                raise ValueError("no events")

    async def structured(self) -> None:
        """JSON that a schema demands."""
        answer = await self._ask(
            "/v1/chat/completions",
            {
                "messages": [{"role": "user", "content": "Describe an animal."}],
                "max_tokens": 100,
                "temperature": 1,
                "response_format": {"type": "json_schema", "json_schema": {"name": "animal", "schema": _SCHEMA}},
            },
        )
        choice = answer["choices"][0]
        if choice["finish_reason"] == "stop" and set(json.loads(choice["message"]["content"])) != {"name", "size"}:
            raise ValueError(f"not of the schema: {choice}")

    async def cancel(self) -> None:
        """A stream that is cancelled from elsewhere."""
        await self._interrupted(leave=False)

    async def disconnect(self) -> None:
        """A stream whose client goes away."""
        await self._interrupted(leave=True)

    async def _interrupted(self, leave: bool) -> None:
        body = {**self.chooser.choice(self.bodies), "max_tokens": 300, "ignore_eos": True}
        after, seen = self.chooser.randint(1, 20), 0
        async with Exchange(self.address, "POST", STREAM, body) as exchange:
            async for event in exchange.events():
                seen += 1
                if seen == after and leave:
                    exchange.leave(reset=self.chooser.random() < 0.5)
                    return
                if seen == after:
                    await self._ask(f"/cancel/{event.document['request_id']}", {})
                if event.document["finished"] and event.document["finish_reason"] != "cancelled":
                    raise ValueError(f"ended with {event.document}")

    async def bad(self) -> None:
        """A request that must be refused."""
        method, path, body, statuses = self.chooser.choice(_BAD)
        status, answer = await call(self.address, method, path, body)
        if status not in statuses:
            raise ValueError(f"{method} {path}: expected one of {statuses}, found {status} {str(answer)[:100]}")

    async def look(self) -> None:
        """What a person or a monitor looks at."""
        path = self.chooser.choice(("/metrics", "/health", "/ready", "/models", "/v1/models"))
        status, answer = await call(self.address, "GET", path)
        if status != 200:
            raise HttpError(status, f"{path}: {answer}")


def growth(values: Sequence[float]) -> tuple[float, float]:
    """Of samples in the order of time: how much higher the last third is than the first (medians), and the standard
    error of such a difference. A median's is 1.2533 times that of a mean; the scatter is the median absolute
    deviation from the line through both thirds, times 1.4826 (both for normal noise).

    Raises:
        ValueError: there are fewer than six.
    """
    count = len(values)
    third = count // 3
    if third < 2:
        raise ValueError(f"expected at least 6 samples, found {count}")
    first, last = statistics.median(values[:third]), statistics.median(values[-third:])
    slope = (last - first) / (count - third)
    middle = (third - 1) / 2
    scatter = statistics.median(abs(value - first - slope * (i - middle)) for i, value in enumerate(values))
    return last - first, float(1.2533 * 1.4826 * scatter * (2 / third) ** 0.5)


def check_flat(samples: Sequence[Sample]) -> list[str]:
    """What is not flat."""
    found = []
    for name, values in (
        ("pages", [sample.pages for sample in samples]),
        ("descriptors", [sample.held.descriptors for sample in samples]),
        ("threads", [sample.held.threads for sample in samples]),
    ):
        if max(values) > values[0]:
            found.append(f"{name}: {values[0]} after the warm-up, later up to {max(values)}")
    rise, error = growth([sample.held.anonymous for sample in samples])
    if rise > MEMORY_ALLOWED_MIB + 3 * error:
        found.append(f"memory: {rise:.1f} MiB from the first to the last third (standard error {error:.2f})")
    return found


async def run_round(traffic: Traffic, clients: int) -> None:
    """`clients` at once for a round's time, until each has ended its last request."""
    deadline = time.monotonic() + ROUND_SECONDS

    async def client() -> None:
        while time.monotonic() < deadline:
            await traffic.one()

    await asyncio.gather(*(client() for _ in range(clients)))


async def take_sample(server: ServerProcess) -> Sample:
    """Once the server is idle and has closed its connections."""
    await seconds_until_free(server.address, 0)
    pages = await pages_used(server.address)
    held = server.held()
    for _ in range(8):
        await asyncio.sleep(0.1)
        held = min(held, server.held(), key=lambda one: (one.descriptors, one.threads))
    return Sample(held, pages)


async def fill_word_table(address: Address) -> None:
    """Have so many different words encoded that the tokenizer remembers no more: it takes 4 MiB for them.

    Raises:
        HttpError: it was refused.
    """
    for start in range(0, WORDS, 1000):
        # Letters for the four hexadecimal digits of a number: many tokenizers take digits one by one.
        words = " ".join(
            bytes(97 + (number >> shift) % 16 for shift in (12, 8, 4, 0)).decode()
            for number in range(start, start + 1000)
        )
        status, answer = await call(address, "POST", "/tokenize", {"content": words})
        if status != 200:
            raise HttpError(status, f"/tokenize: {answer}")


async def measure(server: ServerProcess, minutes: float, clients: int, seed: int) -> list[str]:
    """Rounds until the time is over, and what was wrong."""
    traffic = Traffic(server.address, make_bodies(200, seed, 64), random.Random(seed))
    await fill_word_table(server.address)
    began = time.monotonic()
    samples: list[Sample] = []
    warm_up = 0
    while (elapsed := time.monotonic() - began) < 60 * minutes:
        if elapsed < 60 * minutes * WARM_UP_SHARE or sum(traffic.counts.values()) < WARM_UP_REQUESTS:
            warm_up = len(samples) + 1
        await run_round(traffic, clients)
        samples.append(await take_sample(server))
        held, total = samples[-1].held, sum(traffic.counts.values())
        click.echo(
            f"{elapsed:5.0f} s: {total} requests, {len(traffic.problems)} problems, resident {held.resident:.1f} MiB, "
            f"anonymous {held.anonymous:.1f}, descriptors {held.descriptors}, threads {held.threads}, "
            f"pages {samples[-1].pages}"
        )
    flat = samples[warm_up:]
    rise, error = growth([sample.held.anonymous for sample in flat])
    click.echo(f"{dict(traffic.counts)}")
    click.echo(f"{len(flat)} samples after the warm-up: memory rose by {rise:.2f} MiB (standard error {error:.2f})")
    return traffic.problems + check_flat(flat)


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.option("--minutes", default=30.0, show_default=True)
@click.option("--clients", default=12, show_default=True, help="At once.")
@click.option("--threads", default=2, show_default=True)
@click.option("--kv-tokens", default=8192, show_default=True, help="Small, so that all of it is soon touched.")
@click.option("--seed", default=1, show_default=True)
def main(bundle: Path, minutes: float, clients: int, threads: int, kv_tokens: int, seed: int) -> None:
    """Soak `rfc serve BUNDLE`, on the host."""
    port = free_port()
    options = ("--threads", str(threads), "--kv-tokens", str(kv_tokens), "--trace-sample-rate", "1")
    command = rfc_serve(bundle, port, *options)
    with ServerProcess(command, port) as server:
        problems = asyncio.run(measure(server, minutes, clients, seed))
        status = server.stop()
        if status:
            problems.append(f"the server's exit status is {status}")
        if "Traceback" in server.log():
            problems.append("the server logged a traceback:\n" + server.log()[-3000:])
    for problem in problems[:20]:
        click.echo(f"PROBLEM {problem}", err=True)
    click.echo(f"{len(problems)} problems")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
