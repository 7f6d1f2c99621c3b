"""A tensor of a folder, whatever it is made of."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from ...artifacts.dataclass import dataclass
from ..model_source import TensorInfo

ReadRows = Callable[[int, int], npt.NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class FolderTensor:
    """A tensor under GGUF's name: what it is, its name in the folder, and how rows of it are read."""

    info: TensorInfo
    name: str
    read: ReadRows
