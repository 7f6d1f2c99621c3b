"""`rfc bench`: how fast a bundle is here."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..artifacts.errors import UsageError
from .compile import compiled
from .options import CACHE_DIR, on_device, say

if TYPE_CHECKING:
    from rich.table import Table

    from ..runtime.benchmark import Measurement
    from ..runtime.device.load import DeviceOptions

BAR_CELLS = 24


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--prompt", "prompts", type=click.IntRange(1), multiple=True, help="Tokens. [default: 128, 512]")
@click.option("--context", "contexts", type=click.IntRange(1), multiple=True, help="Tokens before. [default: 4, 512]")
@click.option("--batch", "batches", type=click.IntRange(1), multiple=True, help="Sequences. [default: 1, 2, 4, 8, 16]")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Samples of each figure, in turn.")
@click.option("--profile", "kernels", is_flag=True, help="Time each kernel too (on a CPU; on a GPU see rfc profile).")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--svg", type=click.Path(dir_okay=False, path_type=Path), help="Draw it into this file too.")
@on_device
@CACHE_DIR
def bench(
    bundle: Path,
    prompts: tuple[int, ...],
    contexts: tuple[int, ...],
    batches: tuple[int, ...],
    rounds: int,
    kernels: bool,
    as_json: bool,
    svg: Path | None,
    device: DeviceOptions,
    cache_dir: Path | None,
) -> None:
    """Measure a BUNDLE here: prompts, single tokens by context and by sequences, and with --profile each kernel."""
    from ..runtime.benchmark import BenchOptions, measure

    drawn = svg is not None or not as_json
    if drawn:
        _check_rich()
    path = compiled(bundle, cache_dir, None)
    found = measure(BenchOptions(path, device, prompts, contexts, batches, rounds, kernels), say)
    if as_json:
        click.echo(json.dumps(found.to_json()))
    if drawn:
        _draw(found, svg, shown=not as_json)


def _check_rich() -> None:
    """Say what drawing lacks before anything is measured."""
    if importlib.util.find_spec("rich") is None:
        raise UsageError("rfc bench: tables and drawings need the package rich: pip install rich, or --json alone")


def _draw(found: Measurement, svg: Path | None, shown: bool) -> None:
    import io

    from rich.console import Console

    sink = None if shown else io.StringIO()
    console = Console(file=sink, record=svg is not None, width=None if shown and svg is None else 110)
    console.print(_summary(found), highlight=False)
    console.print(_figures(found))
    for step in dict.fromkeys(kernel.step for kernel in found.kernels):
        console.print(_kernels(found, step))
    if svg is not None:
        console.save_svg(str(svg), title="rfc bench")


def _summary(found: Measurement) -> str:
    probe = f", memory gives {found.bandwidth / 1e9:.1f} GB/s" if found.bandwidth else ""
    return (
        f"{found.device}: loaded and checked in {found.load_seconds:.2f} s, {found.weight_bytes / 1e6:.1f} MB of "
        f"weights, {found.arena_bytes / 1e6:.1f} MB of arena{probe}"
    )


def _figures(found: Measurement) -> Table:
    from rich.table import Table

    table = Table("", "tokens", "sequences", "tokens/s", "lowest", "highest", "of memory", "")
    for column in table.columns[1:7]:
        column.justify = "right"
    most = {what: max(one.median for one in found.figures if one.what == what) for what in ("prefill", "decode")}
    for one in found.figures:
        rates = (f"{rate:.1f}" for rate in (one.median, one.lowest, one.highest))
        rest = _percent(one.bandwidth_share), bar(one.median / most[one.what])
        table.add_row(one.what, str(one.tokens), str(one.sequences), *rates, *rest)
    return table


def _kernels(found: Measurement, step: str) -> Table:
    from rich.table import Table

    table = Table(step, "launches", "ms", "", "GB/s", "of memory", "GOPS", "")
    for column in table.columns[1:7]:
        column.justify = "right"
    for one in found.kernels:
        if one.step == step:
            read = "" if one.gigabytes is None else f"{one.gigabytes:.1f}"
            cells = (str(one.launches), f"{one.milliseconds:.3f}", _percent(one.share), read)
            done = f"{one.gigaoperations:.0f}" if one.gigaoperations else ""
            table.add_row(one.kernel, *cells, _percent(one.bandwidth_share), done, bar(one.share))
    return table


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def bar(share: float) -> str:
    """Return a bar of a share of 1."""
    return "█" * max(1, round(BAR_CELLS * share))
