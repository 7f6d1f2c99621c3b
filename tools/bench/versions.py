"""Two checkouts of this repository side by side, each seen only through its commands and HTTP.

python -m rocmforge.tools.bench.versions MODEL.gguf OLD NEW [--rounds 7]

Each compiles the model, and in each round serves its bundle, in turn: seconds until ready, tokens a second of a long
prompt, of one stream, and of eight. Ratios of a round are of neighbours in time.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import click

from rocmforge.tools.bench.http_load import Address, Exchange
from rocmforge.tools.bench.quiet import wait_until_quiet
from rocmforge.tools.bench.server import PATH, body_of, random_ids
from rocmforge.tools.bench.server_process import ServerProcess, free_port

PROMPT_TOKENS, DECODED, STREAMS = 512, 128, 8
START = "from rocmforge.cli import main; main()"


class Version:
    """A checkout as a package of its own, and a bundle that it made.

    Args:
        checkout: folder of the repository.
        folder: for the package's name and the bundle.
        model: a GGUF.
    """

    def __init__(self, checkout: Path, folder: Path, model: Path) -> None:
        folder.mkdir()
        (folder / "rocmforge").symlink_to(checkout.resolve())
        self._folder = folder
        self.bundle = folder / "model.rfb"
        self._environment = {**os.environ, "PYTHONPATH": str(folder)}
        command = [sys.executable, "-c", START, "compile", str(model), "--arch", "host", "-o", str(self.bundle)]
        subprocess.run(command, env=self._environment, cwd=folder, check=True, capture_output=True)

    def measure(self) -> Mapping[str, float]:
        """One round: see the module."""
        port = free_port()
        command = [sys.executable, "-c", START, "serve", str(self.bundle), "--addr", f"127.0.0.1:{port}"]
        began = time.perf_counter()
        with ServerProcess([*command, "--device", "host"], port, environment=self._environment):
            ready = time.perf_counter() - began
            return {"seconds until ready": ready, **asyncio.run(rates(Address("127.0.0.1", port)))}


async def rates(address: Address) -> dict[str, float]:
    """Tokens a second of a server."""
    chooser = random.Random(1)
    await stream(address, random_ids(chooser, 16), 4)  # the first request is slower
    first, _ = await stream(address, random_ids(chooser, PROMPT_TOKENS), 1)
    began, ended = await stream(address, random_ids(chooser, 16), DECODED)
    at = time.perf_counter()
    await asyncio.gather(*(stream(address, random_ids(chooser, 16), DECODED // 2) for _ in range(STREAMS)))
    return {
        "prefill, tokens/s": PROMPT_TOKENS / first,
        "decode of one stream, tokens/s": (DECODED - 1) / (ended - began),
        f"{STREAMS} streams, tokens/s": STREAMS * DECODED // 2 / (time.perf_counter() - at),
    }


async def stream(address: Address, token_ids: list[int], tokens: int) -> tuple[float, float]:
    """Seconds from sending a request to its first token and to its last."""
    times: list[float] = []
    async with Exchange(address, "POST", PATH, body_of(token_ids, tokens)) as exchange:
        async for event in exchange.events():
            if event.document["choices"] and event.document["choices"][0]["text"]:
                times.append(event.at - exchange.sent_at)
    return times[0], times[-1]


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("old", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("new", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--rounds", default=7, show_default=True)
def main(model: Path, old: Path, new: Path, rounds: int) -> None:
    """Measure both, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        versions = [Version(checkout, Path(folder) / name, model) for checkout, name in ((old, "old"), (new, "new"))]
        found: list[list[Mapping[str, float]]] = []
        for number in range(rounds):
            wait_until_quiet(0.03, 60)
            order = (
                versions if number % 2 else versions[::-1]
            )  # whoever comes first finds the machine as others left it
            by_version = {version: version.measure() for version in order}
            found.append([by_version[version] for version in versions])
            click.echo(f"round {number + 1} of {rounds}", err=True)
    for name in found[0][0]:
        pairs = [(one[name], other[name]) for one, other in found]
        ratios = sorted(new / old for old, new in pairs)
        medians = [statistics.median(values) for values in zip(*pairs, strict=True)]
        spread = f"{ratios[0]:.3f} to {ratios[-1]:.3f}"
        click.echo(f"{name}: {medians[0]:.2f} -> {medians[1]:.2f}, ratio {statistics.median(ratios):.3f} ({spread})")


if __name__ == "__main__":
    main()
