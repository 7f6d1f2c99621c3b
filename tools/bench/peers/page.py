"""The page and its plots: of each kind of machine a section."""

from __future__ import annotations

import io
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from rocmforge.cli.bench import bar

from .models import MODELS
from .results import OURS, QUIET_SHARE, Cell, Sample, cells, counted

_HEAD: Final = f"""# Beside llama.cpp and ik_llama.cpp

Written by `python -m rocmforge.tools.bench.peers` ([performance.md](performance.md) says how to run it) from
`peers.json`, which holds each sample.

Medians of rounds in which ours and the peers took turns. Rounds beside which others used more than {QUIET_SHARE:.0%} of
the machine are left out, and of each part of a row the newest version alone counts. The 1.1B and the 8B are shapes with
random weights and SmolLM2's vocabulary.

Tokens a second; of several sequences, all together. The start is in seconds: `rfc run` until it has printed a token,
beside `llama-bench` until it has computed a prompt of five. Busy processes: one for each thread.

Ratio: ours by the better peer's (of seconds, by the quicker's). Of the limit: decode of one sequence by the bytes of
weights that a token reads and the reads probed beside it; prompts by their multiplications with weights and the int8
peak probed beside them (AMX's, where there is one).
"""


def number(value: float | None) -> str:
    """Return a figure with three digits, or a dash for none."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def share(value: float | None) -> str:
    """Return a share, or nothing."""
    return "" if value is None else f"{value:.2f}"


def slug(machine: str) -> str:
    """Return a kind of machine as a part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", machine.lower()).strip("-")


def groups(samples: Sequence[Sample]) -> Mapping[tuple[str, int], list[Sample]]:
    """Return the samples that count by machine and threads."""
    found: dict[tuple[str, int], list[Sample]] = {}
    for one in sorted(counted(samples), key=lambda one: (one.machine, -one.threads)):
        found.setdefault((one.machine, one.threads), []).append(one)
    return found


def by_model(samples: Sequence[Sample]) -> dict[str, list[Cell]]:
    """Return the cells of each model, in the order of the table."""
    return {name: cells([one for one in samples if one.model == name]) for name in MODELS}


def peaks_line(samples: Sequence[Sample]) -> str:
    """Return what was probed, by threads, medians."""
    lines = []
    for count in sorted({key for one in samples for key in one.peaks}, key=int):
        of = [one.peaks[count] for one in samples if count in one.peaks]
        peaks = {name: [value for one in of if (value := one[name]) is not None] for name in of[0]}
        read, float32, int8, amx = (number(statistics.median(values)) if values else "-" for values in peaks.values())
        lines.append(f"with {count}: reads {read} GB/s, float32 {float32} GFLOPS, int8 {int8} GOPS, AMX {amx} GOPS")
    return f"Probed beside the samples, medians, by threads {'; '.join(lines)}."


def table(models: Mapping[str, Sequence[Cell]]) -> str:
    """Return the table in Markdown."""
    peers = list(dict.fromkeys(name for found in models.values() for cell in found for name in cell.medians))
    head = ["model", "what", *peers, "ratio", "of the limit", "rounds"]
    rows = [
        [
            *(MODELS[name].title, cell.what),
            *(number(cell.medians.get(peer)) for peer in peers),
            *(share(None if math.isnan(cell.ratio) else cell.ratio), share(cell.share), str(cell.rounds)),
        ]
        for name, found in models.items()
        for cell in found
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def plot(title: str, models: Mapping[str, Sequence[Cell]], goal: Path) -> None:
    """Draw bars, a line for each program, of each figure the longest whole; drawn as `rfc bench --svg` draws."""
    drawn = Table("model", "what", "", "", "")
    drawn.columns[3].justify = "right"
    for name, found in models.items():
        for cell in found:
            most = max(cell.medians.values())
            for program, median in cell.medians.items():
                first = program == OURS
                texts = (MODELS[name].title, cell.what) if first else ("", "")
                style = "bold green" if first else None
                drawn.add_row(*texts, program, number(median), bar(median / most), style=style)
    console = Console(file=io.StringIO(), record=True, width=110)
    console.print(drawn)
    console.save_svg(str(goal), title=title)


def write_page(samples: Sequence[Sample], folder: Path) -> None:
    """Write `peers.md` and its plots into a folder."""
    sections = [_HEAD]
    for (machine, threads), found in groups(samples).items():
        title = f"{machine}, {threads} thread{'s' if threads > 1 else ''}"
        models, picture = by_model(found), f"peers-{slug(title)}.svg"
        versions, days = sorted({one.version for one in found}), sorted({one.at[:10] for one in found})
        plot(title, models, folder / picture)
        sections.append(
            f"## {title}\n\nVersion {', '.join(versions)}; {', '.join(days)}. {peaks_line(found)}\n\n"
            f"{table(models)}\n\n![The same as bars]({picture})\n"
        )
    (folder / "peers.md").write_text("\n".join(sections), "utf-8")
