"""Commands that look: `rfc inspect`, `rfc models`, `rfc doctor`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from ..artifacts.errors import UsageError, printable
from .emulator import roofline


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--kernels", is_flag=True, help="Of a bundle: its kernel table.")
@click.option("--arch", help="Of a bundle: the kernels of this arch, with registers, LDS, spills and occupancy.")
@click.option("--emulate", is_flag=True, help="With --arch: run a prefill and a token on the emulator; a roofline.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def inspect(path: Path, kernels: bool, arch: str | None, emulate: bool, as_json: bool) -> None:
    """What is in a model or a bundle, and the memory it will need."""
    from ..compiler.inspect import format_facts, inspect_gguf

    if emulate and (arch is None or as_json or not os.path.isdir(path)):
        raise UsageError("--emulate: expected a bundle and --arch, and not --json")
    if not os.path.isdir(path) or (path / "config.json").is_file():
        facts = inspect_gguf(path)
    else:
        from ..runtime.inspect import inspect_bundle

        facts = inspect_bundle(path, kernels, arch)
    if as_json:
        click.echo(json.dumps(facts))
        return
    table = facts.pop("kernels", None)
    for line in format_facts(facts):
        click.echo(line)
    if isinstance(table, list):
        _print_kernels(table, arch)
    if emulate and arch is not None:
        _print_roofline(path, arch)


def _print_kernels(table: list[dict[str, Any]], arch: str | None) -> None:
    from ..runtime.inspect import format_resources

    for row in table:
        click.echo(f"{row['launches_per_step']:>5} x {printable(row['symbol'], 512)}")
        for found in row["resources"]:
            if arch in {None, found["arch"]}:
                click.echo(f"        {format_resources(found)}")


def _print_roofline(path: Path, arch: str) -> None:
    from ..artifacts.bundle import open_bundle

    with open_bundle(path) as bundle:
        for line in roofline(bundle, arch):
            click.echo(line)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), envvar="ROCMFORGE_MODELS", default=".", required=False)
@click.option("--url", help="Ask this server instead of looking into a folder.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def models(folder: Path, url: str | None, as_json: bool) -> None:
    """GGUF files and bundles below FOLDER (default: $ROCMFORGE_MODELS, else here), or those of a server."""
    from ..runtime.client import Client
    from ..runtime.inspect import find_models

    if url is not None:
        served = Client(url).models()
        for model in served:
            path = model.get("path") if isinstance(model, dict) else model
            click.echo(json.dumps(model) if as_json else printable(path))
        return
    rows = find_models(folder)
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        click.echo(f"{row['kind']:<7} {int(str(row['size_bytes'])) / 2**20:>9.1f} MiB  {row['path']}  {row['about']}")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def doctor(as_json: bool) -> None:
    """Toolchains and devices found here, what is missing, and how to get it."""
    from ..compiler.doctor import examine

    findings = examine()
    if as_json:
        click.echo(json.dumps([{"what": f.what, "ok": f.ok, "text": f.text} for f in findings]))
    else:
        for finding in findings:
            click.echo(f"{'ok' if finding.ok else '--':<3} {finding.what:<22} {finding.text}")
    if not all(finding.ok for finding in findings if finding.needed):
        raise SystemExit(4)
