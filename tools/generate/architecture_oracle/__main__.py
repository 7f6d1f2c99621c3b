"""How far our logits of a model of each architecture are from llama.cpp's.

tools/generate/architecture_oracle/make.sh DIR builds llama.cpp, its models and its logits; then

python -m rocmforge.tools.generate.architecture_oracle judge DIR [--arch host] [--arch gfx1100] [--only REGEX]
python -m rocmforge.tools.generate.architecture_oracle table DIR... -o docs/architectures.md
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click

from .adapters import write_adapter_vectors
from .clean import clean
from .drafts import write_draft_vectors
from .eagle import write_eagle_vectors
from .judge import Verdict, judge
from .logits import Oracle, write_logits, write_vectors
from .table import table

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_VERDICTS = "verdicts.json"


@click.group()
def main() -> None:
    """Compare logits of small models with llama.cpp's."""


@main.command()
@click.argument("folder", type=_FOLDER)
@click.argument("program", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def logits(folder: Path, program: Path) -> None:
    """Run PROGRAM, llama.cpp's, over the models of FOLDER: a step of `make.sh`."""
    for line in write_logits(folder, program):
        click.echo(line)


@main.command()
@click.argument("program", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
def vectors(program: Path, output: Path) -> None:
    """Write what PROGRAM, llama.cpp's, makes of our own small models: tests/data/architecture_logits.npz."""
    for line in write_vectors(program, output):
        click.echo(line)


@main.command("adapter-vectors")
@click.argument("program", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
def adapter_vectors(program: Path, output: Path) -> None:
    """Write what PROGRAM, llama.cpp's, makes of small models with adapters: tests/data/adapter_logits.npz."""
    for line in write_adapter_vectors(program, output):
        click.echo(line)


@main.command("draft-vectors")
@click.argument("program", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
def draft_vectors(program: Path, output: Path) -> None:
    """Write what PROGRAM (`refdrafts`) makes of blocks that draft tokens: tests/data/draft_logits.npz."""
    for line in write_draft_vectors(program, output):
        click.echo(line)


@main.command("eagle-vectors")
@click.argument("program", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
def eagle_vectors(program: Path, output: Path) -> None:
    """Write what PROGRAM (`refeagle`) makes of EAGLE 3 heads: tests/data/eagle_logits.npz."""
    for line in write_eagle_vectors(program, output):
        click.echo(line)


@main.command("clean")
@click.argument("folder", type=_FOLDER)
@click.argument("name")
def clean_models(folder: Path, name: str) -> None:
    """Make what the generator wrote of an architecture look like published files: a step of `make.sh`."""
    for line in clean(folder / "raw", folder / "models", name):
        click.echo(line)


@main.command("judge")
@click.argument("folder", type=_FOLDER)
@click.option("--arch", "archs", multiple=True, help="compile for it too: host, or a GPU, which is emulated")
@click.option("--only", default="", help="regular expression of names")
@click.option("--toolchain", default="auto", show_default=True)
def judge_models(folder: Path, archs: tuple[str, ...], only: str, toolchain: str) -> None:
    """Judge the models of FOLDER, and keep what was found there."""
    oracle, kept = Oracle.read(folder), folder / _VERDICTS
    found: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    for path in oracle.models():
        if re.search(only, path.stem):
            whole, stepwise = oracle.logits(path.stem), oracle.logits(path.stem, stepwise=True)
            verdict = judge(path, oracle.ids, whole, stepwise, archs, toolchain)
            before = found.get(path.stem, {}).get("programs") or {}  # for other archs
            found[path.stem] = {**verdict.to_json(), "programs": {**before, **(verdict.programs or {})}}
            kept.write_text(json.dumps(dict(sorted(found.items())), indent=1))
            click.echo(f"{path.stem}: {verdict.problem or _shown(verdict)}")


def _shown(verdict: Verdict) -> str:
    programs = {"meaning": verdict.meaning, **(verdict.programs or {})}
    return ", ".join(f"{name} {value:.0e}" for name, value in programs.items() if value is not None)


@main.command("table")
@click.argument("folders", type=_FOLDER, nargs=-1, required=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
def write_table(folders: tuple[Path, ...], output: Path) -> None:
    """Write the page of what was found in FOLDERS, one a seed."""
    read = [json.loads((folder / _VERDICTS).read_text()) for folder in folders]
    names = sorted({name for one in read for name in one})
    output.write_text(table({name: [Verdict(**one[name]) for one in read if name in one] for name in names}))


if __name__ == "__main__":
    main()
