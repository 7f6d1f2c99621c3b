"""Decode and prefill of models of many weight types on the host, in turn with the `llama-bench` of others.

python -m rocmforge.tools.bench.type_speed FOLDER --peer llama.cpp=LLAMA_BENCH --peer "ik repacked=LLAMA_BENCH -rtr 1"

FOLDER has GGUF files, of `tools.generate.type_models` or others; their bundles are made beside them. With `--cpu`
processor time is counted, not the clock: on a machine that others use too, with one thread.
"""

from __future__ import annotations

import json
import math
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TextIO

import click

from rocmforge.artifacts.bundle import open_bundle
from rocmforge.runtime.benchmark import prefill
from rocmforge.runtime.device.host import load_host_program
from rocmforge.tools.bench.speed import decode

PROMPT, GENERATED = 512, 64
WORKLOADS: Final = {"decode": ("-p", "0", "-n", str(GENERATED)), "prefill": ("-p", str(PROMPT), "-n", "0")}
"""Options of `llama-bench` for the same work."""
OURS: Final = "rocmforge"

Speeds = dict[tuple[str, str], list[float]]
"""Tokens a second of each round, by workload and program."""


def bundle_of(model: Path, goal: Path | None = None) -> Path:
    """Compile a model for the host anew, beside it or as `goal`: what is measured is this checkout."""
    bundle = goal or model.with_suffix(".rfb")
    shutil.rmtree(bundle, ignore_errors=True)
    command = (sys.executable, "-m", "rocmforge.cli", "compile", str(model), "-o", str(bundle), "--arch", "host")
    subprocess.run(command, check=True, capture_output=True)
    return bundle


def run_peer(command: Sequence[str], repetitions: int) -> tuple[float, float]:
    """Run `llama-bench`: tokens a second as it says, and the processor time that it took in all, in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([*command, "-o", "json", "-r", str(repetitions)], check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    speed = float(json.loads(done.stdout[done.stdout.index("[") :])[0]["avg_ts"])
    return speed, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def peer_speed(command: Sequence[str], tokens: int, cpu: bool) -> float:
    """Tokens a second; of processor time by what two more repetitions take, for loading and warming up count too.

    NaN where the program cannot run the model.
    """
    try:
        if not cpu:
            return run_peer(command, 2)[0]
        return 2 * tokens / (run_peer(command, 3)[1] - run_peer(command, 1)[1])
    except subprocess.CalledProcessError:
        return math.nan


def measure(model: Path, peers: dict[str, list[str]], threads: int, rounds: int, cpu: bool) -> Speeds:
    """Measure a model; the first round, in which pages are touched for the first time, does not count."""
    clock: Callable[[], float] = time.process_time if cpu else time.perf_counter
    speeds: Speeds = {}
    with open_bundle(bundle_of(model)) as opened:
        program = load_host_program(opened, PROMPT // 16 + 1, threads)
        for index in range(rounds + 1):
            ours = {"decode": decode(program, GENERATED, clock), "prefill": prefill(program, PROMPT, clock)}
            for workload, options in WORKLOADS.items() if index else ():
                speeds.setdefault((workload, OURS), []).append(ours[workload])
                tokens = GENERATED if workload == "decode" else PROMPT
                for name, program_of in peers.items():
                    command = (*program_of, "-m", str(model), "-t", str(threads), *options)
                    speeds.setdefault((workload, name), []).append(peer_speed(command, tokens, cpu))
        program.close()
    return speeds


def table_row(name: str, speeds: Speeds) -> str:
    """Return a row of Markdown: medians of all programs, and ours by the best other's of the same round."""
    cells = [name]
    for workload in WORKLOADS:
        found = {program: values for (kind, program), values in speeds.items() if kind == workload}
        cells += [f"{median:.0f}" if (median := statistics.median(values)) > 0 else "-" for values in found.values()]
        others = [values for program, values in found.items() if program != OURS and min(values) > 0]
        best = [max(of_round) for of_round in zip(*others, strict=True)]
        ratios = [ours / other for ours, other in zip(found[OURS], best, strict=False)]
        cells += [f"{statistics.median(ratios):.2f}" if ratios else "-"] if len(found) > 1 else []
    return f"| {' | '.join(cells)} |"


def table_head(peers: Sequence[str]) -> str:
    """Return the head of the table."""
    cells = ["model"]
    for workload in WORKLOADS:
        cells += [f"{workload}: {OURS}", *peers, *(["ratio"] if peers else [])]
    return f"| {' | '.join(cells)} |\n|{' --- |' * len(cells)}"


def parse_peer(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> dict[str, list[str]]:
    """Read `NAME=PROGRAM OPTIONS`."""
    peers = {}
    for value in values:
        name, _, command = value.partition("=")
        if not command:
            raise click.BadParameter(f"expected NAME=LLAMA_BENCH, found {value}")
        peers[name] = shlex.split(command)
    return peers


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--peer", "peers", multiple=True, callback=parse_peer, help="NAME=LLAMA_BENCH, with options.")
@click.option("--threads", default=2, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--cpu", is_flag=True, help="Count processor time.")
@click.option("--only", multiple=True, help="Names of files, without .gguf.")
@click.option("-o", "--output", type=click.File("w"), default="-", help="Where the table goes.")
def main(
    folder: Path,
    peers: dict[str, list[str]],
    threads: int,
    rounds: int,
    cpu: bool,
    only: tuple[str, ...],
    output: TextIO,
) -> None:
    """Write a table in Markdown, a row a model."""
    click.echo(table_head(list(peers)), output)
    for model in sorted(folder.glob("*.gguf")):
        if not only or model.stem in only:
            click.echo(table_row(model.stem, measure(model, peers, threads, rounds, cpu)), output)
            output.flush()


if __name__ == "__main__":
    main()
