"""What the runtime has to know of a model's eyes: how an image becomes patches, and where their rows go in a prompt.

A bundle whose model was compiled with a projector file has it in the manifest, as `facts` of its part `vision`. Sources
of the values: llama.cpp 11434, `tools/mtmd`, and the processors of Hugging Face's transformers of the same models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, Final

from .checker import Checker
from .dataclass import dataclass

VISION_PART: Final = "vision"
"""Name of the part of a bundle that encodes images."""
POSITIONS_TENSOR: Final = "positions@f32"
"""Name of its tensor that the CPU adds to patches for their places, where it has one."""

RESIZES: Final = ("square", "pixels", "idefics3", "internvl")
RESAMPLES: Final = ("bilinear", "bicubic", "lanczos")
POSITIONS: Final = ("none", "table", "resized", "axes")
CHANNELS: Final = 3

_MAX_SIDE: Final = 1 << 16
_MAX_PIXELS: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Vision:
    """How pictures are made of an image, and rows of a picture; a picture is what is encoded at once.

    A picture of height and width in patches (h, w), both multiples of `merge`, has h * w patches and
    h / merge * w / merge rows. Patches are given row by row, from the top left on. A patch has `patch_values` float32:
    of each channel (red, green, blue) its pixels row by row, as (value / 255 - mean) / std.

    Attributes:
        kind: GGUF's `clip.projector_type`.
        image_size: pixels a side of a picture, or of a tile; where `resize` is `pixels`, of pictures in training.
        patch_size: pixels a side.
        merge: patches a side that become one row.
        width: elements of a row that stand for a token: the text model's hidden size.
        deepstack: how often as many follow in each row, which are added after the text model's first layers.
        mean: of each channel.
        std: of each channel.
        resize: how an image becomes pictures, one of `RESIZES`. `square`: one of `image_size` a side. `pixels`: one of
            about its own proportions, sides multiples of `patch_size` * `merge`, `min_pixels` to `max_pixels` in all.
            `idefics3`: its longer side becomes `longest_edge`, both are rounded up to tiles, and an overview.
            `internvl`: `min_tiles` to `max_tiles` tiles of a grid of about its proportions, and an overview.
        resample: one of `RESAMPLES`.
        min_pixels: 0: no bound; so the three that follow.
        max_pixels: of a picture.
        longest_edge: pixels.
        min_tiles: of an image.
        max_tiles: of an image.
        max_patches: most patches of a picture that the code is made for.
        begin: text before the rows of an image; "" for none, so all texts.
        end: text after them.
        row_end: text after each row of rows but the last.
        tile_begin: text before the rows of a tile, with `{row}` and `{column}`, from 1 on.
        tile_row_end: text after each row of tiles.
        overview_begin: text before the rows of the overview, where an image has tiles.
        overview_end: text after those.
        both_ways: rows of an image see one another in the text model, those behind them too.
        m_rope: tokens and rows have positions of time, height and width in the text model.
        positions: what is added to a patch for its place, one of `POSITIONS`: nothing, a row of a table of as many, of
            a square table resized to the picture (bilinear, corners aligned), or a row for its column and one for its
            row.
        window: patches a side of the windows within which most layers look; 0: they see all.
    """

    kind: str
    image_size: int
    patch_size: int
    merge: int
    width: int
    deepstack: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: str
    resample: str
    min_pixels: int
    max_pixels: int
    longest_edge: int
    min_tiles: int
    max_tiles: int
    max_patches: int
    begin: str
    end: str
    row_end: str
    tile_begin: str
    tile_row_end: str
    overview_begin: str
    overview_end: str
    both_ways: bool
    m_rope: bool
    positions: str
    window: int

    @property
    def patch_values(self) -> int:
        """Float32 of a patch."""
        return CHANNELS * self.patch_size * self.patch_size

    @property
    def row_width(self) -> int:
        """Float32 of a row: for its token, and what is added after the first layers."""
        return self.width * (1 + self.deepstack)

    @property
    def grid_rows(self) -> int:
        """Patches of a picture of `image_size` a side: as many rows has a table of places, and more where further
        tokens are computed with patches."""
        return (self.image_size // self.patch_size) ** 2

    def rows(self, height: int, width: int) -> int:
        """Return how many rows a picture of so many patches has."""
        return (height // self.merge) * (width // self.merge)

    def to_json(self) -> dict[str, object]:
        """Return the plain data that `read_vision` reads."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def read_vision(check: Checker, table: Mapping[str, object]) -> Vision:
    """Read untrusted data.

    Raises:
        BundleError: it is not what `to_json` gives; names the field.
    """
    for name in sorted(_READERS.keys() ^ table.keys()):
        found = "none" if name in _READERS else "one"
        check.fail(f"vision.{name}", f"expected {'a value' if found == 'none' else 'no such field'}, found {found}")
    return Vision(**{name: read(check, table[name], f"vision.{name}") for name, read in _READERS.items()})


_Reader = Callable[[Checker, object, str], Any]


def _integer(low: int, high: int) -> _Reader:
    return lambda check, value, at: check.integer(value, at, low, high)


def _choice(known: tuple[str, ...]) -> _Reader:
    def read(check: Checker, value: object, at: str) -> str:
        text = check.text(value, at)
        if text not in known:
            check.fail(at, f"expected one of {', '.join(known)}, found {text!r}")
        return text

    return read


def _text(check: Checker, value: object, at: str) -> str:
    return check.text(value, at, empty=True)


def _flag(check: Checker, value: object, at: str) -> bool:
    if not isinstance(value, bool):
        check.fail(at, f"expected true or false, found {type(value).__name__}")
    return value


def _channels(least: float) -> _Reader:
    def read(check: Checker, value: object, at: str) -> tuple[float, ...]:
        numbers = check.array(value, at, CHANNELS, CHANNELS)
        for number in numbers:
            if not isinstance(number, float) or not math.isfinite(number) or number < least:
                check.fail(at, f"expected finite numbers of at least {least}, found {number!r}")
        return tuple(number for number in numbers if isinstance(number, float))

    return read


_READERS: Final[dict[str, _Reader]] = {
    "kind": lambda check, value, at: check.text(value, at),
    "image_size": _integer(1, _MAX_SIDE),
    "patch_size": _integer(1, 256),
    "merge": _integer(1, 64),
    "width": _integer(1, 1 << 20),
    "deepstack": _integer(0, 64),
    "mean": _channels(-1e6),
    "std": _channels(1e-6),
    "resize": _choice(RESIZES),
    "resample": _choice(RESAMPLES),
    "min_pixels": _integer(0, _MAX_PIXELS),
    "max_pixels": _integer(0, _MAX_PIXELS),
    "longest_edge": _integer(0, _MAX_SIDE),
    "min_tiles": _integer(0, 1 << 10),
    "max_tiles": _integer(0, 1 << 10),
    "max_patches": _integer(1, 1 << 20),
    **dict.fromkeys(("begin", "end", "row_end", "tile_begin", "tile_row_end", "overview_begin", "overview_end"), _text),
    "both_ways": _flag,
    "m_rope": _flag,
    "positions": _choice(POSITIONS),
    "window": _integer(0, 1 << 10),
}
