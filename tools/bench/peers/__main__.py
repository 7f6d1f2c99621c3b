"""Ours beside llama.cpp and ik_llama.cpp on this machine: builds, models, probe, samples in turn, table and plot.

python -m rocmforge.tools.bench.peers [--prepare] [--only llama-1.1b-q4_k_m] [--part speed] [--rounds 3]
    [--peer llama.cpp=FOLDER --peer "ik_llama.cpp=FOLDER"]

Without `--peer` the peers are built, which takes half an hour once. `--prepare` builds, makes the models and compiles
the bundles alone. A run measures `--rounds` of each part of each row and adds them to docs/peers.json, from which it
writes docs/peers.md and its plots: a run may be a piece.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import click

from rocmforge.artifacts.bundle import open_bundle
from rocmforge.artifacts.errors import RocmforgeError, UsageError
from rocmforge.runtime.benchmark import token_work
from rocmforge.runtime.device.host import choose_variant
from rocmforge.tools.bench.quiet import Others, wait_until_quiet
from rocmforge.tools.bench.type_speed import parse_peer

from .builds import Peer, build_peer, given_peer, names_here
from .machine import probe, this_kind
from .models import MODELS, make_bundle, make_model, our_version
from .page import write_page
from .results import OURS, Sample, read_samples, write_samples
from .samples import PARTS, busy_processes

REPOSITORY = Path(__file__).parents[3]
WORK = Path(os.environ.get("ROCMFORGE_WORK", REPOSITORY / ".rocmforge"))


def take_sample(
    name: str, part: str, threads: int, version: str, paths: tuple[Path, Path], peers: Sequence[Peer]
) -> Sample:
    """Take a sample of a part of a row; `paths` are of the GGUF file and of our bundle."""
    model, bundle = paths
    with open_bundle(bundle) as opened:
        layout = opened.layout_of(choose_variant(opened.manifest.targets, None))
        token_bytes, token_operations = token_work(opened, layout)
    ours, theirs = PARTS[part]
    counts = sorted({1, threads})
    with (
        busy_processes(threads if part == "busy" else 0) as busy,
        Others([os.getpid(), *busy], children=True) as others,
    ):
        peaks = {str(count): probe(count).to_json() for count in counts}
        found = {OURS: ours(bundle, threads)} | {peer.name: theirs(peer, model, threads) for peer in peers}
    figures = {
        what: {program: values[what] for program, values in found.items() if what in values} for what in found[OURS]
    }
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    sizes = (round(others.share, 4), token_bytes, token_operations)
    return Sample(this_kind(), version, name, part, threads, at, *sizes, peaks, figures)


def prepare(
    names: Sequence[str], given: Mapping[str, Sequence[str]], smollm2: Path, work: Path, jobs: int
) -> tuple[list[Peer], dict[str, tuple[Path, Path]], str]:
    """Return the peers, GGUF file and bundle of each row, and our version; all are made where they lack."""
    if not smollm2.is_file():
        raise UsageError(f"--smollm2: expected a GGUF file, found none at {smollm2}: tools/quickstart fetches it")
    work.mkdir(parents=True, exist_ok=True)
    here = names_here(Path("/proc/cpuinfo").read_text("utf-8", "replace"))
    built = [build_peer(name, work, jobs=jobs) for name in here] if not given else []
    peers, version = built + [given_peer(name, words) for name, words in given.items()], our_version()
    paths = {}
    for name in names:
        model = make_model(name, smollm2, work)
        paths[name] = model, make_bundle(name, model, work, version)
    return peers, paths, version


def measure(
    rounds: int, threads: Sequence[int], parts: Sequence[str], names: Sequence[str], take: Callable[..., None]
) -> None:
    """Have each sample taken, round by round."""
    for index in range(rounds):
        for name in names:
            for part in parts:
                for count in threads:
                    wait_until_quiet(0.05, 30)
                    click.echo(f"round {index + 1} of {rounds}: {name}, {part}, {count} threads", err=True)
                    take(name, part, count)


@click.command()
@click.option("--peer", "given", multiple=True, callback=parse_peer, help="NAME=FOLDER of a build, with options.")
@click.option("--only", multiple=True, type=click.Choice(tuple(MODELS)), help="Rows. [default: all]")
@click.option("--part", "parts", multiple=True, type=click.Choice(tuple(PARTS)), help="[default: all]")
@click.option("--threads", multiple=True, type=click.IntRange(1), default=(2,), show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--jobs", default=2, show_default=True, help="Of the compiler, while peers are built.")
@click.option("--prepare", "prepared", is_flag=True, help="Measure nothing.")
@click.option("--smollm2", type=click.Path(path_type=Path), default=WORK / "models/SmolLM2-135M-Instruct.Q4_1.gguf")
@click.option("--work", type=click.Path(file_okay=False, path_type=Path), default=WORK / "peers")
@click.option("--docs", type=click.Path(file_okay=False, path_type=Path), default=REPOSITORY / "docs")
def main(
    given: dict[str, list[str]],
    only: tuple[str, ...],
    parts: tuple[str, ...],
    threads: tuple[int, ...],
    rounds: int,
    jobs: int,
    prepared: bool,
    smollm2: Path,
    work: Path,
    docs: Path,
) -> None:
    """Measure, and write docs/peers.md."""
    names = only or tuple(MODELS)
    try:
        peers, paths, version = prepare(names, given, smollm2, work.absolute(), jobs)
    except RocmforgeError as error:
        raise click.ClickException(str(error)) from None
    if prepared:
        return
    samples = read_samples(docs / "peers.json")

    def take(name: str, part: str, count: int) -> None:
        samples.append(take_sample(name, part, count, version, paths[name], peers))
        write_samples(docs / "peers.json", samples)

    measure(rounds, threads, parts or tuple(PARTS), names, take)
    write_page(samples, docs)


if __name__ == "__main__":
    main()
