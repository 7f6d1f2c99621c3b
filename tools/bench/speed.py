"""Tokens a second on the host target, alternating with llama.cpp on the same machine.

python -m rocmforge.tools.bench.speed BUNDLE [--model GGUF --peer $(tools/bench/build_peer)]
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import numpy as np

from rocmforge.artifacts.bundle import open_bundle
from rocmforge.runtime.device.host import HostProgram, load_host_program
from rocmforge.runtime.device.solo import Solo
from rocmforge.tools.bench.peer import Peer

_probe_data = np.ones(64 << 20, np.float32)


def read_bandwidth(threads: int) -> float:
    """GB/s at which `threads` threads read 256 MiB: the limit of decode, probed beside each sample."""
    parts = [threading.Thread(target=np.dot, args=(part, part)) for part in np.array_split(_probe_data, threads)]
    began = time.perf_counter()
    for part in parts:
        part.start()
    for part in parts:
        part.join()
    return float(_probe_data.nbytes / (time.perf_counter() - began) / 1e9)


def _token_ids(count: int, vocab_size: int) -> list[int]:
    return [(7919 * index) % vocab_size for index in range(count)]


def decode(program: HostProgram, count: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Tokens a second over `count` single tokens at positions from 4 on, sampling included."""
    solo = Solo(program.layout)
    program.step(solo.batch([1, 2, 3, 4], 0))
    tokens = _token_ids(count, program.layout.vocab_size)
    began = clock()
    for index, token in enumerate(tokens):
        program.step(solo.batch([token], 4 + index))
    return count / (clock() - began)


def prefill(program: HostProgram, count: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Tokens a second of a prompt of `count` tokens, in steps as the engine makes them."""
    tokens, size = _token_ids(count, program.layout.vocab_size), program.layout.max_batch_tokens
    solo = Solo(program.layout)
    began = clock()
    for start in range(0, count, size):
        program.step(solo.batch(tokens[start : start + size], start))
    return count / (clock() - began)


def _report(name: str, ours: list[float], theirs: list[float]) -> None:
    line = f"{name}: {statistics.median(ours):.0f} tokens/s (lowest {min(ours):.0f}, highest {max(ours):.0f})"
    if theirs:
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        line += f"; llama.cpp {statistics.median(theirs):.0f}; median ratio {statistics.median(ratios):.2f}"
    click.echo(line)


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.option("--model", type=click.Path(exists=True, path_type=Path), help="The GGUF, for llama.cpp.")
@click.option("--peer", type=click.Path(exists=True, path_type=Path), help="A Python that has llama_cpp.")
@click.option(
    "--prefill", "prompts", type=click.IntRange(1), multiple=True, default=(512,), show_default=True, help="Tokens."
)
@click.option("--threads", default=2, show_default=True)
@click.option("--rounds", default=11, show_default=True)
@click.option("--level", help="ISA level. [default: the best]")
def main(
    bundle: Path,
    model: Path | None,
    peer: Path | None,
    prompts: tuple[int, ...],
    threads: int,
    rounds: int,
    level: str | None,
) -> None:
    """Decode 64 tokens and prefill prompts, ours and llama.cpp's in turn; medians over the rounds."""
    opened = open_bundle(bundle)
    context = max(1024, *prompts)
    program = load_host_program(opened, context // 16 + 1, threads, level)
    weights = opened.layout.weights_bytes
    other = Peer(peer, model, threads, context=context) if peer and model else None
    shares = []
    runs: dict[str, tuple[Callable[[], float], Callable[[Peer], float]]] = {
        "decode": (lambda: decode(program, 64), lambda p: p.decode(64))
    }
    for count in prompts:
        runs[f"prefill of {count}"] = (partial(prefill, program, count), partial(Peer.prefill, count=count))
    results: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in runs}
    for index in range(rounds + 1):
        bandwidth = read_bandwidth(threads)
        for name, (ours, theirs) in runs.items():
            values = ours(), theirs(other) if other else 0.0
            if index == 0:
                continue  # pages are touched for the first time
            results[name][0].append(values[0])
            if other:
                results[name][1].append(values[1])
            if name == "decode":
                bandwidth = (bandwidth + read_bandwidth(threads)) / 2
                shares.append(values[0] * weights / (bandwidth * 1e9))
    for name, (ours_found, theirs_found) in results.items():
        _report(name, ours_found, theirs_found)
    click.echo(
        f"decode reads {weights / 1e6:.1f} MB a token: {statistics.median(shares):.0%} of the read bandwidth "
        "probed beside it (median)"
    )
    program.close()


if __name__ == "__main__":
    main()
