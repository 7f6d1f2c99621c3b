"""What the user wants changed in a model's weights before they are packed: adapters merged, then another type."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from ..artifacts.errors import UsageError
from .hugging_face.adapter import read_peft_adapter
from .lora import LoraFile, MergedSource, read_gguf_adapter
from .model_source import ModelSource
from .quantizers.imatrix import read_importance
from .quantizers.quantized_source import QuantizedSource


@dataclass(frozen=True, slots=True)
class Changes:
    """What is changed.

    Attributes:
        loras: adapters to merge, in this order.
        quantize: the type that matrices get; None: the one they have.
        imatrix: a file that says which columns matter.
    """

    loras: tuple[LoraFile, ...] = ()
    quantize: str | None = None
    imatrix: Path | None = None

    def files(self) -> tuple[Path, ...]:
        """Return the files that the user named."""
        return (*(lora.path for lora in self.loras), *(() if self.imatrix is None else (self.imatrix,)))


NO_CHANGES = Changes()


def changed_source(source: ModelSource, changes: Changes) -> tuple[ModelSource, dict[str, object]]:
    """Return a model as it is to be, and what the manifest says of that: digests of files, not their paths.

    Raises:
        InputError: a file is wrong, or of another model. UsageError: an option has no such value.
    """
    if changes.imatrix is not None and changes.quantize is None:
        raise UsageError("--imatrix: expected --quantize beside it, found none")
    record: dict[str, object] = {}
    if changes.loras:
        adapters = []
        for lora in changes.loras:
            read = read_peft_adapter if os.path.isdir(lora.path) else read_gguf_adapter
            adapters.append(read(lora.path, source, lora.scale))
        source = MergedSource(source, adapters)
        record["lora"] = [
            {"sha256": _digest(adapter.files), "scale": lora.scale}
            for adapter, lora in zip(adapters, changes.loras, strict=True)
        ]
    if changes.quantize is not None:
        importance = None if changes.imatrix is None else read_importance(changes.imatrix)
        kind = changes.quantize.upper()
        source = QuantizedSource(source, kind, importance)
        record["quantize"] = kind
        if importance is not None:
            record["imatrix"] = importance.sha256
    return source, record


def _digest(files: tuple[Path, ...]) -> str:
    """Return the hex SHA-256 of files that were just read, one after another."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()
