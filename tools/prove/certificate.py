"""Certificates of equivalence of a model: an older bundle with what this code compiles, and that with another KV type.

python -m rocmforge.tools.prove.certificate MODEL OLD [--text FILE] [--kv-type q8_0]

OLD is a bundle, or a revision of this checkout, which then compiles the model first. The exit code is 0 where all
logits of the first pair are identical and those of the second part (else it would prove nothing), 5 where they do not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from .machines import Machine, ProofError

ROOT = Path(__file__).parents[2]


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.argument("old")
@click.option("--text", type=click.Path(exists=True, path_type=Path), default=ROOT / "LICENSE", show_default=True)
@click.option("--kv-type", default="q8_0", show_default=True, help="Of the other bundle.")
def main(model: Path, old: str, text: Path, kv_type: str) -> None:
    """Print both certificates."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        machine = Machine(folder / "home")
        try:
            first = Path(old).resolve() if Path(old).is_dir() else compiled_by(old, model.resolve(), folder)
            new = compiled(machine, model.resolve(), folder / "new.rfb")
            other = compiled(machine, model.resolve(), folder / "other.rfb", "--kv-type", kv_type)
            same = certificate(machine, f"{old} and this code", first, new, text.resolve())
            parts = not certificate(machine, f"this code, and with --kv-type {kv_type}", new, other, text.resolve())
        except ProofError as problem:
            raise click.ClickException(str(problem)) from None
    if not (same and parts):
        sys.exit(5)


def compiled_by(revision: str, model: Path, folder: Path) -> Path:
    """What another revision of this checkout compiles.

    Raises:
        ProofError: there is no such revision, or it does not compile.
    """
    package, goal = folder / "package", folder / "old.rfb"
    package.mkdir()
    start = "from rocmforge.cli import main; main()"
    for command, environment in (
        (["git", "-C", str(ROOT), "worktree", "add", "--detach", str(package / "rocmforge"), revision], {}),
        (
            [sys.executable, "-c", start, "compile", str(model), "--arch", "host", "-o", str(goal)],
            {"PYTHONPATH": package},
        ),
    ):
        changes = {key: str(value) for key, value in environment.items()}
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=package, env=os.environ | changes, check=False
        )
        if done.returncode:
            raise ProofError(f"{revision}: {(done.stderr.strip().splitlines() or [''])[-1]}")
    subprocess.run(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(package / "rocmforge")], check=True)
    return goal


def compiled(machine: Machine, model: Path, goal: Path, *options: str) -> Path:
    """What this code compiles for the host.

    Raises:
        ProofError: it does not compile.
    """
    said = machine.rfc("compile", model, "-o", goal, "--arch", "host", *options)
    if said.code:
        raise ProofError(said.last)
    return goal


def certificate(machine: Machine, title: str, first: Path, second: Path, text: Path) -> bool:
    """Say where two bundles part, if they do; return whether they do not.

    Raises:
        ProofError: they cannot be compared.
    """
    said = machine.rfc("diff", first, second, "--text", text, "--device", "host", "--json")
    if said.code not in (0, 5):
        raise ProofError(f"{title}: {said.last}")
    found: dict[str, Any] = json.loads(said.out)
    if found["certificate"]["problem"]:
        raise ProofError(f"{title}: {found['certificate']['problem']}")
    click.echo(f"\n== {title}")
    click.echo("\n".join(f"{digest}" for digest in found["digests"]))
    click.echo("equal to the byte" if found["identical"] else "not equal to the byte")
    click.echo(json.dumps(found["certificate"], indent=1))
    return bool(found["certificate"]["equivalent"])


if __name__ == "__main__":
    main()
