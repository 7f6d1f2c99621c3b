"""Patches of a picture to rows of what the text model reads, by the part of the bundle that is the model's eyes."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...artifacts.bundle import Bundle
from ...artifacts.checker import Checker
from ...artifacts.dataclass import dataclass
from ...artifacts.errors import BundleError, DeviceError
from ...artifacts.layout import Layout
from ...artifacts.manifest import MANIFEST_NAME
from ...artifacts.mapped_weights import MappedWeights
from ...artifacts.vision import POSITIONS_TENSOR, VISION_PART, Vision, read_vision
from ..device.batch import Batch, Float32, Int32, Program
from ..device.load import Report
from ..device.parts import load_part
from .patches import Patches

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class VisionPart:
    """The eyes of a model, loaded; close it before the model's own program.

    Attributes:
        program: of the part.
        vision: its facts.
        table: float32[rows, elements] of places, see `Vision.positions`; None: it adds none.
    """

    program: Program
    vision: Vision
    table: Float32 | None

    def close(self) -> None:
        """Free what the program holds."""
        self.program.close()


def vision_of(bundle: Bundle) -> Vision:
    """Return the facts of a bundle's eyes.

    Raises:
        BundleError: it has none, or its manifest says of them what nobody can use.
    """
    part = bundle.manifest.parts.get(VISION_PART)
    if part is None:
        raise BundleError(bundle.path, f"parts.{VISION_PART}", "expected a model with eyes (--mmproj), found none")
    return read_vision(Checker(bundle.path / MANIFEST_NAME), part.facts)


def load_vision(bundle: Bundle, beside: Program, report: Report = log.info) -> VisionPart:
    """Load the eyes of a bundle on the device of its program.

    Raises:
        BundleError: as `vision_of`, or the table of places is missing.
        DeviceError: as `load_part`.
    """
    vision = vision_of(bundle)
    table = _table(bundle) if vision.positions != "none" else None
    return VisionPart(load_part(bundle, VISION_PART, beside, None, report), vision, table)


def _table(bundle: Bundle) -> Float32:
    """Return a copy of the table of places."""
    part = bundle.part(VISION_PART)
    target = part.manifest.targets[0]
    return table_of_places(bundle.path, part.layout_of(target), part.map_weights(target.backend))


def table_of_places(path: Path, layout: Layout, weights: MappedWeights) -> Float32:
    """Return a copy of the table that is added to patches for their places, see `Vision.positions`.

    Args:
        path: of the bundle, for messages.
        layout: of the part.
        weights: that it reads.

    Raises:
        BundleError: there is none.
    """
    tensor = next((one for one in layout.tensors if one.name == POSITIONS_TENSOR), None)
    if tensor is None or len(tensor.shape) != 2:
        raise BundleError(path, POSITIONS_TENSOR, "expected a table of places, found none")
    flat = np.frombuffer(weights, np.float32, tensor.shape[0] * tensor.shape[1], tensor.offset)
    return flat.reshape(tensor.shape).copy()


def encode(part: VisionPart, patches: Patches) -> Float32:
    """Return the rows of a picture, float32[rows, row_width], from the top left on.

    Raises:
        DeviceError: the device failed, or the picture is larger than the code is made for.
    """
    program, vision = part.program, part.vision
    sides = max(patches.height, patches.width)
    if part.table is not None and vision.positions == "axes" and sides > len(part.table) // 2:
        raise DeviceError(f"expected a picture of at most {len(part.table) // 2} patches a side, found {sides}")
    if len(patches.values) > vision.max_patches:
        raise DeviceError(f"expected a picture of at most {vision.max_patches} patches, found {len(patches.values)}")
    batch = picture_batch(vision, part.table, patches, program.layout.kv.block_size)
    program.step(batch)
    return program.logits(len(batch.logits_rows))


def picture_batch(vision: Vision, table: Float32 | None, patches: Patches, block_size: int) -> Batch:
    """Return the step that encodes a picture: its patches such that those that become a row are neighbours."""
    height, width = patches.height, patches.width
    cells, begins, ends = _cells(vision, height, width)
    row, column = _places(vision.merge, cells, width)
    order = row * width + column
    values = patches.values[order]
    if table is not None:
        values = np.concatenate([values, _added(vision, table, height, width)[order]], axis=1)
    own = len(table) - vision.grid_rows if table is not None and vision.positions == "table" else 0
    tokens = len(order) + own
    if table is not None and own:
        first = np.concatenate([np.zeros((own, vision.patch_values), np.float32), table[vision.grid_rows :]], axis=1)
        values = np.concatenate([values, first])
    axes = np.zeros((4, tokens), np.int32)
    axes[1, : len(order)], axes[2, : len(order)] = row, column
    axes[0], axes[3] = 0, tokens
    if vision.window:
        axes[0], axes[3] = begins, ends
    starts = np.empty(len(cells), np.int32)
    starts[cells] = np.arange(len(cells)) * vision.merge**2
    positions = np.arange(tokens, dtype=np.int32)
    return Batch(
        token_ids=np.zeros(tokens, np.int32),
        positions=positions,
        rows=np.zeros(tokens, np.int32),
        block_table=np.arange(-(-tokens // block_size), dtype=np.int32)[None],
        logits_rows=starts,
        sampling=(),
        input_rows=np.ascontiguousarray(values),
        row_of=positions,
        rope_positions=axes,
    )


def _cells(vision: Vision, height: int, width: int) -> tuple[Int32, Int32, Int32]:
    """Return the rows that patches become in the order in which they are computed, window by window where there are
    windows; and of each patch in that order the first that it sees, and the one behind the last."""
    merge = vision.merge
    grid = np.arange((height // merge) * (width // merge), dtype=np.int32).reshape(height // merge, width // merge)
    step = vision.window // merge if vision.window else max(grid.shape)
    pieces = [
        grid[top : top + step, left : left + step].reshape(-1)
        for top in range(0, grid.shape[0], step)
        for left in range(0, grid.shape[1], step)
    ]
    sizes = np.array([len(piece) * merge**2 for piece in pieces])
    stops = np.cumsum(sizes)
    return (
        np.concatenate(pieces),
        np.repeat(stops - sizes, sizes).astype(np.int32),
        np.repeat(stops, sizes).astype(np.int32),
    )


def _places(merge: int, cells: Int32, width: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return row and column of each patch, those of a cell one behind the other, row by row."""
    top, left = np.divmod(cells, width // merge)
    down, right = np.divmod(np.arange(merge * merge), merge)
    row, column = top[:, None] * merge + down, left[:, None] * merge + right
    return row.reshape(-1), column.reshape(-1)


def _added(vision: Vision, table: Float32, height: int, width: int) -> Float32:
    """Return what is added to each patch for its place, float32[height * width, elements], row by row."""
    if vision.positions == "table":
        return table[: height * width]
    if vision.positions == "axes":
        columns, rows = np.split(table, 2)
        both = rows[:height, None] + columns[None, :width]
        return both.reshape(height * width, -1)
    side = round(len(table) ** 0.5)
    square = table.reshape(side, side, -1)
    resized = _stretched(_stretched(square, height).swapaxes(0, 1), width).swapaxes(0, 1)
    return resized.reshape(height * width, -1)


def _stretched(table: Float32, count: int) -> Float32:
    """Return `count` entries of the first axis, evenly from the first to the last, between two of a table in line."""
    at = np.arange(count) * ((len(table) - 1) / max(count - 1, 1))
    low = np.minimum(np.floor(at).astype(np.intp), len(table) - 1)
    high = np.minimum(low + 1, len(table) - 1)
    share = (at - low).astype(np.float32)[:, None, None]
    result: Float32 = table[low] * (1 - share) + table[high] * share
    return result
