"""Options that several commands have, and what they come to."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..artifacts.hip import GRAPH_MODES
from .emulator import make_emulator
from .errors import require_address_space


class NumberRange(click.FloatRange):
    """As click's, which takes nan for a number within any range, and infinity where a range has no end."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number, or refuse it."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


CACHE_DIR = click.option(
    "--cache-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Build cache. [default: $XDG_CACHE_HOME/rocmforge]",
)
MAX_CONTEXT = click.option(
    "--max-context",
    type=click.IntRange(1),
    envvar="ROCMFORGE_MAX_CONTEXT",
    help="Most tokens of a sequence; may be more than the model was trained on. [default: as many, up to 32768]",
)


_ON_DEVICE = (
    click.option(
        "--device",
        default="auto",
        show_default=True,
        help="auto, host, hip, hip:INDEX, emulated or emulated:ARCH;"
        " auto: a GPU that the bundle has code for, else host.",
    ),
    click.option(
        "--gpu-graphs",
        type=click.Choice(GRAPH_MODES),
        envvar="ROCMFORGE_GPU_GRAPHS",
        default="auto",
        show_default=True,
        help="Replay decode steps as HIP graphs; auto: unless a trial of them fails; on: that is an error.",
    ),
    click.option(
        "--gpu-layers",
        type=click.IntRange(0),
        envvar="ROCMFORGE_GPU_LAYERS",
        help="Keep the last so many layers on the GPU; it reads the matrices of the others in this machine's memory."
        " [default: as many as fit]",
    ),
    click.option(
        "--cpu-experts",
        type=click.IntRange(0),
        envvar="ROCMFORGE_CPU_EXPERTS",
        help="Keep the experts of the first so many layers in this machine's memory. [default: as few as must be]",
    ),
    click.option(
        "--state-slots",
        type=click.IntRange(2),
        envvar="ROCMFORGE_STATE_SLOTS",
        help="States of sequences that a model with recurrent state keeps at once. [default: two for each sequence of"
        " a step and 64, as far as they fit into 2 GiB; on a GPU into a quarter of what is free]",
    ),
    click.option(
        "--threads",
        type=click.IntRange(1, 1024),
        envvar="ROCMFORGE_THREADS",
        show_default="cores, or faster hyperthreads",
        help="Threads of the host target.",
    ),
)


def on_device(command: Callable[..., None]) -> Callable[..., None]:
    """Options of `device`: where to run a model."""

    @functools.wraps(command)
    def wrapped(
        *args: Any,
        device: str,
        gpu_graphs: str,
        gpu_layers: int | None,
        cpu_experts: int | None,
        state_slots: int | None,
        threads: int | None,
        **extra: Any,
    ) -> None:
        require_address_space()
        from ..runtime.device.hip.placement import WeightPlaces
        from ..runtime.device.load import DeviceOptions

        places = WeightPlaces(gpu_layers, cpu_experts)
        options = DeviceOptions(
            device, threads, make_emulator, graphs=gpu_graphs, places=places, state_slots=state_slots
        )
        command(*args, device=options, **extra)

    return functools.reduce(lambda made, option: option(made), reversed(_ON_DEVICE), wrapped)


def say(line: str) -> None:
    """Print a line that is no result."""
    click.echo(line, err=True)
