"""Tokens a second on the host target, alternating with llama.cpp on the same machine.

python -m rocmforge.tools.bench.speed BUNDLE [--model GGUF --peer $(tools/bench/build_peer)]
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from rocmforge.artifacts.bundle import open_bundle
from rocmforge.runtime.benchmark import prefill, read_bandwidth
from rocmforge.runtime.device.host import HostProgram, load_host_program
from rocmforge.runtime.device.solo import Solo
from rocmforge.runtime.kernel_times import token_ids
from rocmforge.tools.bench.peer import Peer


def decode(program: HostProgram, count: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Tokens a second over `count` single tokens at positions from 4 on, sampling included."""
    solo = Solo(program.layout)
    program.step(solo.batch([1, 2, 3, 4], 0))
    tokens = token_ids(count, program.layout.vocab_size)
    began = clock()
    for index, token in enumerate(tokens):
        program.step(solo.batch([token], 4 + index))
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
                shares.append(values[0] * weights / bandwidth)
    for name, (ours_found, theirs_found) in results.items():
        _report(name, ours_found, theirs_found)
    click.echo(
        f"decode reads {weights / 1e6:.1f} MB a token: {statistics.median(shares):.0%} of the read bandwidth "
        "probed beside it (median)"
    )
    program.close()


if __name__ == "__main__":
    main()
