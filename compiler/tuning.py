"""Tuning of GPU kernels by hand: checked against the target, part of the plan and so of the bundle's digest.

`--tune KEY=VALUE` wins over the environment's `ROCFORGE_KEY`; what is not given, the plan chooses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from ..artifacts.dataclass import dataclass
from ..artifacts.errors import UsageError, printable
from ..artifacts.packing_sizes import LANE_ROWS
from .target import Target

UNIT_COLUMNS = 64  # least that a wave takes of a row
MOST_TOKENS = 8  # of a GEMV
SLICE_LDS_BYTES = 4 * 2 * LANE_ROWS * MOST_TOKENS  # of each wave of a GEMV: `partial` of kernels/hip/gemv.h


@dataclass(frozen=True, slots=True)
class Tuning:
    """What the user fixed; None is left to the plan.

    Attributes:
        block_size: work items of a workgroup of the elementwise kernels (norm, quantize, gate).
        warp_size: lanes of a wave; an arch has kernels for one size alone, so this only asserts it.
        use_lds: False: the columns of a row are never cut between waves, whose sums meet in LDS.
        lds_size: bytes of LDS that a workgroup of a GEMV may take.
        tile_k: columns that a wave takes of a row, at least; fewer waves share a row where it is larger.
        tile_n: rows that a workgroup of a GEMV makes.
    """

    block_size: int | None = None
    warp_size: int | None = None
    use_lds: bool | None = None
    lds_size: int | None = None
    tile_k: int | None = None
    tile_n: int | None = None

    def to_json(self) -> dict[str, int | bool]:
        """Return what was fixed, for the manifest."""
        return {key: value for key, value in asdict(self).items() if value is not None}


DEFAULT_TUNING = Tuning()


def read_tuning(items: Sequence[str], environment: Mapping[str, str]) -> Tuning:
    """Read a tuning from `KEY=VALUE` items and `ROCFORGE_*` variables.

    Raises:
        UsageError: an unknown key, or a value that is no number.
    """
    names = [field.name for field in fields(Tuning)]
    variables = {name: environment.get(f"ROCFORGE_{name.upper()}") for name in names}
    given = {name: value for name, value in variables.items() if value}
    for item in items:
        key, equals, value = item.partition("=")
        name = key.strip().lower()
        if name not in names or not equals:
            raise UsageError(f"--tune {printable(item)}: expected KEY=VALUE with one of {', '.join(names)}")
        given[name] = value
    use_lds = given.pop("use_lds", None)
    tuning = Tuning(use_lds=None if use_lds is None else _flag("use_lds", use_lds))
    numbers: dict[str, Any] = {name: _number(name, value) for name, value in given.items()}
    return replace(tuning, **numbers)


def _flag(name: str, value: str) -> bool:
    text = value.strip().lower()
    if text not in {"0", "1", "true", "false"}:
        raise UsageError(f"{name}: expected 0 or 1, found {printable(value)}")
    return text in {"1", "true"}


def _number(name: str, value: str) -> int:
    text = value.strip()
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UsageError(f"{name}: expected a whole number, found {printable(value)}")
    return int(text)


def check_tuning(tuning: Tuning, target: Target) -> None:
    """Hold a tuning against what a target can do.

    Raises:
        UsageError: it cannot; names the key, what is possible and what was asked.
    """
    gpu = target.gpu
    if gpu is None:
        return
    block, wave = tuning.block_size, gpu.wave_size
    if block is not None and (not wave <= block <= gpu.max_threads or block & (block - 1)):
        raise _refused(target, "block_size", f"a power of two from {wave} to {gpu.max_threads}", block)
    if tuning.warp_size not in {None, wave}:
        raise _refused(target, "warp_size", str(wave), tuning.warp_size)
    if tuning.lds_size is not None and not SLICE_LDS_BYTES <= tuning.lds_size <= gpu.lds_bytes:
        raise _refused(target, "lds_size", f"{SLICE_LDS_BYTES} to {gpu.lds_bytes}", tuning.lds_size)
    if tuning.tile_k is not None and (tuning.tile_k < UNIT_COLUMNS or tuning.tile_k % UNIT_COLUMNS):
        raise _refused(target, "tile_k", f"a multiple of {UNIT_COLUMNS}", tuning.tile_k)
    rows = (2 * LANE_ROWS,) if wave == 64 else (LANE_ROWS, 2 * LANE_ROWS)
    if tuning.tile_n is not None and tuning.tile_n not in rows:
        raise _refused(target, "tile_n", " or ".join(map(str, rows)), tuning.tile_n)


def _refused(target: Target, key: str, expected: str, found: object) -> UsageError:
    return UsageError(f"{key}: {target.arch} takes {expected}, found {found}")
