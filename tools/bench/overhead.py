"""What HTTP costs: the same streams through `rfc serve`, and from the engine in this process, in turn.

python -m rocmforge.tools.bench.overhead BUNDLE [--worker]

At one stream: how much later the first token comes, and each further one. At 64: how much of the throughput is left.
"""

from __future__ import annotations

import json
import os
import random
import selectors
import socket
import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import click

from rocmforge.artifacts.bundle import open_bundle
from rocmforge.runtime.device.host import load_host_program
from rocmforge.runtime.engine.engine import Engine
from rocmforge.runtime.engine.generation import GenerationRequest, SamplingParams, events_of
from rocmforge.runtime.engine.loading import load_tokenizer
from rocmforge.runtime.telemetry.metrics import Metrics
from rocmforge.tools.bench.http_load import Address
from rocmforge.tools.bench.quiet import Others, wait_until_quiet
from rocmforge.tools.bench.server import PATH, body_of, random_ids
from rocmforge.tools.bench.server_process import ServerProcess, children_of, free_port, rfc_serve

PROMPT_TOKENS = 64
# Of both caches. Pages are slower when they are first used, and after two rounds all of these have been.
KV_BLOCKS = 1024
WARM_ROUNDS = 2
READ_SECONDS = 0.005  # between reads of several streams
WHOLE_STREAM_BYTES = 1 << 20  # more than a stream has: the system keeps them until its end


@dataclass(frozen=True, slots=True)
class Run:
    """Some streams at once: seconds to each one's first token, and of all; tokens of each."""

    first: tuple[float, ...]
    seconds: float
    tokens: int

    @property
    def per_token(self) -> float:
        """Seconds of a further token: what the run took after the first tokens, by tokens of one stream."""
        return (self.seconds - statistics.median(self.first)) / (self.tokens - 1)

    @property
    def rate(self) -> float:
        """Tokens a second of all streams together."""
        return len(self.first) * self.tokens / self.seconds


class _Stream:
    """A request that was sent, and what was seen of its answer."""

    def __init__(self, address: Address, request: bytes) -> None:
        self.socket = socket.socket()
        self.socket.connect((address.host, address.port))
        self._last = b""
        self.first_at = 0.0
        self.sent_at = time.perf_counter()
        self.socket.sendall(request)

    def read(self) -> bool:
        """Take what has come; whether there will be more. Looks at nothing but the first `data:` and the end."""
        data = self.socket.recv(1 << 18, socket.MSG_DONTWAIT)
        if data:
            if not self.first_at and b"data:" in self._last + data:
                self.first_at = time.perf_counter()
                # From now on the socket is readable at its end alone: the reader shares the server's processors.
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, WHOLE_STREAM_BYTES)
            self._last = (self._last + data)[-1024:]
            return True
        self.socket.close()
        if b"[DONE]" not in self._last:
            raise click.ClickException(f"the stream broke off with {self._last!r}")
        return False


def _request(prompt: list[int], tokens: int) -> bytes:
    body = json.dumps(body_of(prompt, tokens)).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def over_http(address: Address, prompts: list[list[int]], tokens: int) -> Run:
    """The streams through the server.

    The server computes on all processors, so the reader must cost it little: several streams are read together.
    """
    pause = READ_SECONDS if len(prompts) > 1 else 0.0
    requests = [_request(prompt, tokens) for prompt in prompts]
    began = time.perf_counter()
    streams = [_Stream(address, request) for request in requests]
    with selectors.DefaultSelector() as selector:
        for stream in streams:
            selector.register(stream.socket, selectors.EVENT_READ, stream)
        while selector.get_map():
            selector.select()
            time.sleep(pause)  # what is written to the others meanwhile is read with it
            for key, _ in selector.select():
                if not key.data.read():
                    selector.unregister(key.fd)
    seconds = time.perf_counter() - began
    return Run(tuple(stream.first_at - stream.sent_at for stream in streams), seconds, tokens)


def in_process(engine: Engine, prompts: list[list[int]], tokens: int) -> Run:
    """The same from the engine itself."""
    requests = [
        GenerationRequest(tuple(prompt), tokens, SamplingParams(temperature=0.0), ignore_eos=True) for prompt in prompts
    ]
    began = time.perf_counter()
    first = [0.0] * len(prompts)
    for event in events_of(engine.submit_all(requests)):
        if event is not None and not first[event.index]:
            first[event.index] = time.perf_counter() - began
    return Run(tuple(first), time.perf_counter() - began, tokens)


def measure(
    server: ServerProcess, engine: Engine, streams: int, tokens: int, rounds: int, others_share: float, patience: float
) -> list[tuple[Run, Run]]:
    """Rounds in turn, over HTTP and in this process; those that others disturbed are left out."""
    chooser, deadline = random.Random(streams), time.monotonic() + patience
    pids = [os.getpid(), server.pid, *children_of(server.pid)]
    found: list[tuple[Run, Run]] = []
    past = 0
    while len(found) < rounds and wait_until_quiet(others_share, deadline - time.monotonic()):
        with Others(pids) as others:
            mine = over_http(server.address, [random_ids(chooser, PROMPT_TOKENS) for _ in range(streams)], tokens)
            bare = in_process(engine, [random_ids(chooser, PROMPT_TOKENS) for _ in range(streams)], tokens)
        click.echo(f"  {mine.rate:.0f} and {bare.rate:.0f} tokens/s, others {others.share:.0%}")
        past += 1
        if past > WARM_ROUNDS and others.share <= others_share:
            found.append((mine, bare))
    return found


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.option("--threads", default=2, show_default=True)
@click.option("--rounds", default=15, show_default=True)
@click.option("--streams", type=int, multiple=True, default=(1, 64), show_default=True)
@click.option("--tokens", default=64, show_default=True, help="Of each stream.")
@click.option("--others", default=0.1, show_default=True, help="Share of the machine that others may use in a round.")
@click.option("--worker", is_flag=True, help="The server's engine has a process of its own.")
@click.option("--patience", default=300.0, show_default=True, help="Seconds to wait for quiet, for each measurement.")
def main(
    bundle: Path,
    threads: int,
    rounds: int,
    streams: tuple[int, ...],
    tokens: int,
    others: float,
    worker: bool,
    patience: float,
) -> None:
    """One stream, then 64; medians over the rounds that count: those in which others used little of the machine."""
    port = free_port()
    with ExitStack() as stack:
        opened = open_bundle(bundle)
        kv_tokens = KV_BLOCKS * opened.layout.kv.block_size
        more = ["--worker"] if worker else []
        command = rfc_serve(bundle, port, "--threads", str(threads), "--kv-tokens", str(kv_tokens), *more)
        server = stack.enter_context(ServerProcess(command, port))
        program = load_host_program(opened, KV_BLOCKS, threads)
        engine = Engine(program, load_tokenizer(opened), opened.layout.max_seq_len, Metrics())
        engine.start()
        stack.callback(engine.stop, 1.0)
        for count in streams:
            found = measure(server, engine, count, tokens, rounds, others, patience)
            click.echo(f"{count} streams, {len(found)} rounds")
            if not found:
                continue
            later = [statistics.median(mine.first) - statistics.median(bare.first) for mine, bare in found]
            slower = [mine.per_token - bare.per_token for mine, bare in found]
            shares = [mine.rate / bare.rate for mine, bare in found]
            click.echo(
                f"  tokens/s over HTTP {statistics.median(mine.rate for mine, _ in found):.0f}, in process "
                f"{statistics.median(bare.rate for _, bare in found):.0f}: median ratio {statistics.median(shares):.3f}"
            )
            click.echo(
                f"  first token later by {1000 * statistics.median(later):.1f} ms (worst {1000 * max(later):.1f}), "
                f"each further one by {1000 * statistics.median(slower):.3f} ms (medians)"
            )


if __name__ == "__main__":
    main()
