"""What a config.json comes to: metadata by GGUF's keys, and where each came from."""

from __future__ import annotations

from dataclasses import field

import numpy as np
import numpy.typing as npt

from ...artifacts.dataclass import dataclass


@dataclass(slots=True)
class GgufNames:
    """What a config.json comes to, as a GGUF file would say it.

    Attributes:
        architecture: GGUF's name.
        metadata: by GGUF's keys.
        names: GGUF's keys to those of config.json, for messages.
        tensors: that GGUF has and the folder not: float32.
    """

    architecture: str
    metadata: dict[str, object] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    tensors: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)

    def put(self, suffix: str, value: object, name: str) -> None:
        """Set a key below the architecture's prefix, from the key `name` of config.json."""
        key = f"{self.architecture}.{suffix}"
        self.metadata[key] = value
        self.names[key] = name
