"""The grids of IQ types: points that an index of a GGUF's block names, as indices of the type's codebook.

Points are those of the `gguf` package's `quants` module.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import gguf.quants
import numpy as np
import numpy.typing as npt

from ..artifacts.formats import FORMATS

Codes = npt.NDArray[np.uint8]


@cache
def grid(name: str) -> Codes:
    """Return the points of a type: uint8[points, 4 or 8], the codebook's entries of their values, without signs."""
    quants = getattr(gguf.quants, name)
    quants.init_grid()
    points = np.asarray(quants.grid, np.int64).reshape(quants.grid_shape)
    book = FORMATS[name].codebook
    entries = {value: code for code, value in reversed(list(enumerate(_values(name, book))))}
    return np.array([[entries[int(value)] for value in point] for point in points], np.uint8)


def _values(name: str, codebook: tuple[int, ...]) -> tuple[int, ...]:
    """Return what the entries of the codebook stand for in the grid, as far as the grid has them."""
    return (-1, 0, 1) if name.startswith("IQ1") else codebook[: len(codebook) // 2]


def expand_signs(indices: npt.NDArray[np.integer[Any]]) -> Codes:
    """Return the bytes of 8 signs that 7 bits stand for: the eighth makes the number of minuses even."""
    seven = indices.astype(np.uint8) & np.uint8(127)
    folded = seven ^ seven >> np.uint8(4)
    folded ^= folded >> np.uint8(2)
    signs: Codes = seven | (folded ^ folded >> np.uint8(1)) << np.uint8(7)
    return signs
