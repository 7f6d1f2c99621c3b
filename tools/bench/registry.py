"""Push and pull beside plain hashing and copying of the same bytes, and a server's first token from a registry.

python -m rocmforge.tools.bench.registry BUNDLE [--rounds 7] [--json]

It runs Debian's `docker-registry` on this machine, with its storage in a new folder below $TMPDIR, as all that is
written. What is compared takes turns within each round; medians are printed, with the least and the most. Everything is
in the page cache before it begins. CPU seconds are this process's and, apart, the registry's.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from rocmforge.artifacts.bundle import verify_bundle
from rocmforge.registry.cache import Cache
from rocmforge.registry.pull import pull_bundle
from rocmforge.registry.push import push_bundle
from rocmforge.registry.reference import parse_reference
from rocmforge.tools.bench.startup import serve_once
from rocmforge.tools.debian.registry import running_registry


@dataclass(frozen=True, slots=True)
class Sample:
    """Seconds of the clock, and of CPU here and in the registry."""

    seconds: float
    cpu: float
    registry_cpu: float


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One object, with every sample.")
def main(bundle: Path, rounds: int, as_json: bool) -> None:
    """Measure, and print a line for each."""
    with verify_bundle(bundle) as opened:  # from now on it is in memory
        n_bytes = sum(entry.n_bytes for entry in opened.manifest.files.values())
    with tempfile.TemporaryDirectory() as name, running_registry(Path(name)) as registry:
        moved: dict[str, list[Sample]] = {}
        for number in range(rounds):
            for what, action in _transfers(bundle, registry.host, Path(name), number).items():
                moved.setdefault(what, []).append(_timed(action, registry.pid))
        started = _starts(bundle, registry.host, Path(name), rounds)
    if as_json:
        samples = {what: [asdict(sample) for sample in found] for what, found in moved.items()}
        click.echo(json.dumps({"n_bytes": n_bytes, "transfers": samples, "first_token_seconds": started}))
        return
    for what, found in moved.items():
        rates = sorted(n_bytes / sample.seconds / 1e6 for sample in found)
        cpu, its = (statistics.median(getattr(sample, key) for sample in found) for key in ("cpu", "registry_cpu"))
        line = f"{what:<12}{statistics.median(rates):8.0f} MB/s ({rates[0]:.0f} to {rates[-1]:.0f})"
        click.echo(f"{line}, CPU {cpu:.2f} s, the registry's {its:.2f} s, of {n_bytes / 1e6:.1f} MB")
    for what, seconds in started.items():
        click.echo(f"{what}: first token {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})")


def _transfers(bundle: Path, host: str, folder: Path, number: int) -> dict[str, Callable[[], object]]:
    """What a round times, in turn. Each pushes to a repository of its own, which has none of the blobs, and pulls with
    an empty cache."""
    here = folder / str(number)
    cache, name = Cache(here / "cache"), parse_reference(f"{host}/bench/round{number}:1")

    def quiet(name: str, n_bytes: int) -> None:
        """No progress."""

    def hash_all() -> None:
        for path in bundle.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    hashlib.file_digest(file, "sha256")

    def copy() -> None:
        here.mkdir()
        subprocess.run(["cp", "-r", "--reflink=never", bundle, here / "copy"], check=True)

    def pull() -> None:
        pull_bundle(name, here / "pulled.rfb", cache, ("all",), quiet)
        shutil.rmtree(here)

    return {
        "sha256": hash_all,
        "cp": copy,
        "push": lambda: push_bundle(bundle, name, cache, quiet),
        "push again": lambda: push_bundle(bundle, name, cache, quiet),
        "pull": pull,
    }


def _timed(action: Callable[[], object], server: int) -> Sample:
    begin, mine, its = time.monotonic(), _cpu_seconds(), _cpu_of(server)
    action()
    return Sample(time.monotonic() - begin, _cpu_seconds() - mine, _cpu_of(server) - its)


def _starts(bundle: Path, host: str, folder: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds from the start of `rfc serve` to the first token: from the registry with an empty cache, from the cache,
    and of the folder; the first pulls what this machine needs."""
    name = push_bundle(bundle, parse_reference(f"{host}/bench/start:1"), Cache(folder / "pushed"), lambda *_: None)
    found: dict[str, list[float]] = {"pulled": [], "in the cache": [], "a folder": []}
    for number in range(rounds):
        cache = folder / f"cache{number}"
        for what, source in (("pulled", f"oci://{name}"), ("in the cache", f"oci://{name}"), ("a folder", bundle)):
            ready, first, _ = serve_once(Path(source), ROCMFORGE_REGISTRY_CACHE=str(cache))
            found[what].append(ready + first)
        shutil.rmtree(cache)
    return found


def _cpu_seconds() -> float:
    """Of this process and its children that have ended."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, kinds))


def _cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / float(os.sysconf("SC_CLK_TCK"))


if __name__ == "__main__":
    main()
