"""What the user wants changed in a model's weights before they are packed: adapters merged, then another type.

Adapters may also be kept beside the weights, for requests to choose.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ..artifacts.dataclass import dataclass
from ..artifacts.errors import UsageError
from .hugging_face.adapter import read_peft_adapter
from .kept_adapters import KeptAdapters, NamedAdapter, check_names
from .lora import Adapter, LoraFile, MergedSource, read_gguf_adapter
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
        adapters: to keep, in this order.
    """

    loras: tuple[LoraFile, ...] = ()
    quantize: str | None = None
    imatrix: Path | None = None
    adapters: tuple[NamedAdapter, ...] = ()

    def files(self) -> tuple[Path, ...]:
        """Return the files that the user named."""
        imatrix = () if self.imatrix is None else (self.imatrix,)
        return (*(lora.path for lora in self.loras), *imatrix, *(one.file.path for one in self.adapters))


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
        adapters = [_read(lora, source) for lora in changes.loras]
        source = MergedSource(source, adapters)
        record["lora"] = [
            {"sha256": _digest(adapter.files), "scale": lora.scale}
            for adapter, lora in zip(adapters, changes.loras, strict=True)
        ]
    if changes.quantize is not None:
        importance = None if changes.imatrix is None else read_importance(changes.imatrix, source.tensors)
        kind = changes.quantize.upper()
        source = QuantizedSource(source, kind, importance)
        record["quantize"] = kind
        if importance is not None:
            record["imatrix"] = importance.sha256
    return source, record


def kept_adapters(source: ModelSource, changes: Changes) -> tuple[KeptAdapters, dict[str, object]]:
    """Return the adapters that are to be kept, and what the manifest says of them.

    Args:
        source: the model that they are for.
        changes: what the user asked for.

    Raises:
        InputError: a file is wrong, or of another model. UsageError: names are not different, or too many.
    """
    check_names(changes.adapters)
    read = tuple(_read(one.file, source) for one in changes.adapters)
    record = [
        {"name": one.name, "sha256": _digest(adapter.files), "scale": one.file.scale, "rank": _rank(adapter)}
        for one, adapter in zip(changes.adapters, read, strict=True)
    ]
    return KeptAdapters(tuple(one.name for one in changes.adapters), read), {"adapters": record} if record else {}


def _read(lora: LoraFile, source: ModelSource) -> Adapter:
    read = read_peft_adapter if os.path.isdir(lora.path) else read_gguf_adapter
    return read(lora.path, source, lora.scale)


def _rank(adapter: Adapter) -> int:
    """Return the largest rank of an adapter's matrices."""
    return max((one.right.shape[0] for one in adapter.matrices.values()), default=0)


def _digest(files: tuple[Path, ...]) -> str:
    """Return the hex SHA-256 of files that were just read, one after another."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()
