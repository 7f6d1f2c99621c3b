"""Two bundles of one model on the host, such as one with another KV cache: how far apart they are, and how fast.

python -m rocmforge.tools.bench.compare_bundles BUNDLE OTHER
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import click
import numpy as np

from rocmforge.artifacts.bundle import Bundle, open_bundle
from rocmforge.runtime.device.host import HostProgram, load_host_program
from rocmforge.runtime.device.solo import Solo
from rocmforge.runtime.engine.loading import load_tokenizer
from rocmforge.tools.bench.accuracy import kl_divergence, program_logits


def _load(bundle: Bundle, tokens: int, threads: int) -> HostProgram:
    return load_host_program(bundle, -(-tokens // bundle.layout.kv.block_size), threads)


def fill(program: HostProgram, context: int) -> None:
    """Prefill a context of arbitrary tokens."""
    tokens, size = [(7919 * i) % program.layout.vocab_size for i in range(context)], program.layout.max_batch_tokens
    solo = Solo(program.layout)
    for start in range(0, context, size):
        program.step(solo.batch(tokens[start : start + size], start, program.num_blocks))


def decode(program: HostProgram, context: int, count: int) -> float:
    """Tokens a second of `count` tokens, each at the position after `context`."""
    solo = Solo(program.layout)
    began = time.perf_counter()
    for index in range(count):
        program.step(solo.batch([index], context, program.num_blocks))
    return count / (time.perf_counter() - began)


@click.command()
@click.argument("paths", metavar="BUNDLE OTHER", nargs=2, type=click.Path(exists=True, path_type=Path))
@click.option("--positions", default=200, show_default=True, help="Of our LICENSE, whose logits are compared.")
@click.option("--contexts", default="100,2000", show_default=True, help="Positions before the decoded token.")
@click.option("--threads", default=2, show_default=True)
@click.option("--rounds", default=11, show_default=True)
def main(paths: tuple[Path, Path], positions: int, contexts: str, threads: int, rounds: int) -> None:
    """Divergence of OTHER's logits from BUNDLE's, and decode of both in turn; medians over the rounds."""
    bundles = [open_bundle(path) for path in paths]
    text = (Path(__file__).parents[2] / "LICENSE").read_text("utf-8")
    token_ids = load_tokenizer(bundles[0]).encode(text)[:positions]
    programs = [_load(bundle, positions, threads) for bundle in bundles]
    first, other = (program_logits(program, token_ids) for program in programs)
    divergence = kl_divergence(first, other)
    same = float(np.mean(first.argmax(axis=-1) == other.argmax(axis=-1)))
    click.echo(
        f"mean KL over {len(token_ids)} positions {divergence.mean():.6f} (median {np.median(divergence):.6f}), "
        f"logits {float(np.sqrt(np.mean((first - other) ** 2))):.4f} rms apart, best token equal at {same:.1%}"
    )
    for program in programs:
        program.close()
    for context in map(int, contexts.split(",")):
        programs = [_load(bundle, context + 1, threads) for bundle in bundles]
        speeds: list[list[float]] = [[], []]
        for program in programs:
            fill(program, context)
        for _ in range(rounds):
            for program, found in zip(programs, speeds, strict=True):
                found.append(decode(program, context, 32))
        ratio = statistics.median(b / a for a, b in zip(*speeds, strict=True))
        one, two = map(statistics.median, speeds)
        click.echo(f"decode after {context}: {one:.0f} and {two:.0f} tokens/s, median ratio {ratio:.2f}")
        for program, bundle in zip(programs, bundles, strict=True):
            click.echo(f"  KV cache: {program.num_blocks * bundle.layout.kv.bytes_per_block / 2**20:.1f} MiB")
            program.close()


if __name__ == "__main__":
    main()
