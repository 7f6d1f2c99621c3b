"""From an empty folder to an answer on another machine, and all that may go wrong between, in one command.

python -m rocmforge.tools.prove.supply_chain [MODEL] [--bytes 50] [--kills 20]

It runs Debian's `docker-registry` on this machine, and `deploy/supply_chain` against it: compile, sign, attest, push,
and as another user with another home pull by digest, verify the signature, serve and ask. Then it changes bytes of each
layer, of the config, of the manifest and of each file that was pulled, one at a time, and has each refused by name; and
it kills pushes and pulls at random moments, until the whole is there, is served, and answers as before. Each step is
said; the exit code is 1 where one fails.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import click

from rocmforge.registry.reference import parse_reference
from rocmforge.tools.debian.registry import RunningRegistry, running_registry
from rocmforge.tools.generate.fixtures import write_model

from .kills import killed_pulls, killed_pushes
from .machines import Machine, ProofError
from .tampering import tampered_files, tampered_registry

SCRIPT = Path(__file__).parents[2] / "deploy/supply_chain"
PROMPT = "The answer is"


@click.command()
@click.argument("model", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--bytes", "n_bytes", type=click.IntRange(1), default=50, show_default=True, help="Changed, of each.")
@click.option("--kills", type=click.IntRange(1), default=20, show_default=True, help="Of pushes, and of pulls.")
@click.option("--seed", default=15, show_default=True, help="Of the bytes and of the moments.")
def main(model: Path | None, n_bytes: int, kills: int, seed: int) -> None:
    """Prove it of MODEL, else of a small one with random weights."""
    if not SCRIPT.exists():
        raise click.ClickException(f"{SCRIPT}: expected a checkout of rocmforge, found none")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o711)  # another user is to get through
        try:
            prove(model or write_model(folder / "tiny.gguf"), folder, n_bytes, kills, Random(seed))
        except (ProofError, RuntimeError) as problem:
            raise click.ClickException(str(problem)) from None
    click.echo("\nall of it holds")


def prove(model: Path, folder: Path, n_bytes: int, kills: int, chosen: Random) -> None:
    """All steps, in a folder that is empty but for the model.

    Raises:
        ProofError: one of them does not hold.
        RuntimeError: there is no registry.
    """
    (folder / "registry").mkdir()
    with running_registry(folder / "registry") as registry:
        name, answer = chain(model.resolve(), registry, folder)
        work, bundle = folder / "chain", folder / "chain/model.rfb"
        trust = ("--key", work / "key.pub", "--require-signature")
        sender, other = Machine(folder / "sender"), Machine(folder / "other")
        reference = parse_reference(name)
        step(
            f"{n_bytes} bytes of each blob, changed in the registry: served by that name",
            lambda: refusals(tampered_registry(other, registry, reference, trust, n_bytes, chosen)),
        )
        goal = folder / "goal.rfb"
        said = other.rfc("pull", name, "-o", goal, *trust)
        if said.code:
            raise ProofError(f"pull: expected what was pushed, found {said.code}: {said.last}")
        step(
            f"{n_bytes} bytes of each file, changed where it was pulled to: served from there",
            lambda: refusals(tampered_files(other, goal, trust, n_bytes, chosen)),
        )
        reader = Machine(folder / "reader")
        step("kill -9 in mid push", lambda: str(killed_pushes(sender, reader, registry, bundle, kills, chosen)))
        step("kill -9 in mid pull", lambda: str(killed_pulls(other, registry, reference, trust, bundle, kills, chosen)))
        step("served after all that", lambda: same(answer, other.answer(f"oci://{name}", PROMPT, *trust)))


def chain(model: Path, registry: RunningRegistry, folder: Path) -> tuple[str, str]:
    """Run the script, which says its steps; return the name by digest, and the answer.

    Raises:
        ProofError: it fails.
    """
    commands = folder / "commands"
    commands.mkdir()
    rfc = commands / "rfc"
    rfc.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m rocmforge.cli "$@"\n')
    rfc.chmod(0o755)
    command = [str(SCRIPT), str(model), f"{registry.host}/team/model:v1", str(folder / "chain")]
    environment = {**os.environ, "PATH": f"{commands}:{os.environ['PATH']}"}
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            click.echo(line, nl=False)
            lines.append(line.strip())
    if process.returncode:
        raise ProofError(f"{SCRIPT.name}: expected exit code 0, found {process.returncode}")
    name = next(line.removeprefix("pushed ") for line in lines if line.startswith("pushed "))
    return name, "\n".join(lines[lines.index("== ask") + 1 :]).strip()


def step(title: str, action: Callable[[], str]) -> None:
    """Say a step, do it, and say what came of it."""
    click.echo(f"\n== {title}")
    began = time.monotonic()
    found = action()
    click.echo(f"{found} ({time.monotonic() - began:.1f} s)")


def refusals(found: dict[str, int]) -> str:
    """Say how many were refused of what."""
    return f"{sum(found.values())} refused by name, of " + ", ".join(found)


def same(first: str, second: str) -> str:
    """Say that two answers are the same.

    Raises:
        ProofError: they are not.
    """
    if first != second:
        raise ProofError(f"expected the answer {first!r}, found {second!r}")
    return f"the same answer: {second}"


if __name__ == "__main__":
    main()
