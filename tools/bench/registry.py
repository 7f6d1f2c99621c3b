"""Push and pull beside plain hashing: bytes a second, and seconds of CPU.

python -m rocmforge.tools.bench.registry BUNDLE

It runs Debian's `docker-registry` on this machine, with its storage in a new folder; its own CPU time is told apart.
"""

from __future__ import annotations

import hashlib
import os
import re
import resource
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import click

from rocmforge.artifacts.bundle import verify_bundle
from rocmforge.registry.cache import Cache
from rocmforge.registry.pull import pull_bundle
from rocmforge.registry.push import push_bundle
from rocmforge.registry.reference import parse_reference

_CONFIG = """version: 0.1
log: {{level: info}}
storage: {{filesystem: {{rootdirectory: {folder}/storage}}}}
http: {{addr: '127.0.0.1:0', secret: x}}
"""


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
def main(bundle: Path) -> None:
    """Measure, and print a line for each."""
    with verify_bundle(bundle) as opened:  # from now on it is in memory
        n_bytes = sum(entry.n_bytes for entry in opened.manifest.files.values())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.yml").write_text(_CONFIG.format(folder=folder))
        server = subprocess.Popen(
            ["docker-registry", "serve", str(folder / "config.yml")], stderr=subprocess.STDOUT, stdout=subprocess.PIPE
        )
        try:
            assert server.stdout is not None
            lines = iter(server.stdout.readline, b"")
            host = next(found[1].decode() for line in lines if (found := re.search(rb"listening on (\S+?)\"", line)))
            threading.Thread(target=lambda: [*lines], daemon=True).start()  # what nobody reads holds it up
            _measure(bundle, n_bytes, host, folder, server.pid)
        finally:
            server.kill()
            server.wait()


def _measure(bundle: Path, n_bytes: int, host: str, folder: Path, server: int) -> None:
    def quiet(name: str, n_bytes: int) -> None:
        """No progress."""

    def hash_all() -> None:
        for path in bundle.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    hashlib.file_digest(file, "sha256")

    cache, name = Cache(folder / "cache"), parse_reference(f"{host}/a/b:1")
    for what, action in (
        ("hash", hash_all),
        ("push", lambda: push_bundle(bundle, name, cache, quiet)),
        ("push again", lambda: push_bundle(bundle, name, cache, quiet)),
        ("pull", lambda: pull_bundle(name, folder / "copy.rfb", cache, ("all",), quiet)),
    ):
        _report(what, n_bytes, server, action)


def _report(what: str, n_bytes: int, server: int, action: Callable[[], object]) -> None:
    begin, mine, its = time.monotonic(), _cpu_seconds(), _cpu_of(server)
    action()
    seconds = time.monotonic() - begin
    rate = n_bytes / seconds / 1e6
    cpu = f"{_cpu_seconds() - mine:.2f} s of CPU, the registry {_cpu_of(server) - its:.2f} s"
    print(f"{what:<11}{n_bytes / 1e6:9.1f} MB {seconds:7.2f} s {rate:8.1f} MB/s  {cpu}")


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / float(os.sysconf("SC_CLK_TCK"))


if __name__ == "__main__":
    main()
