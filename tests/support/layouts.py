"""The small bundle's layout with something changed, as bytes."""

from __future__ import annotations

import dataclasses
from typing import Any

from rocmforge.artifacts.layout import BufferEntry, GridEntry, LaunchEntry, Layout, TensorEntry
from rocmforge.artifacts.layout_file import encode_layout
from rocmforge.tests.support.bundle import LAYOUT


def changed(**fields: Any) -> bytes:
    return encode_layout(dataclasses.replace(LAYOUT, **fields))


def tensor(index: int, **fields: Any) -> tuple[TensorEntry, ...]:
    tensors = list(LAYOUT.tensors)
    tensors[index] = dataclasses.replace(tensors[index], **fields)
    return tuple(tensors)


def raw(kernel: str, texts: Any, grid: GridEntry | None = None) -> LaunchEntry:
    """A launch with texts for arguments, which need not be any."""
    return LaunchEntry(kernel, texts, grid)


def sized(**fields: int) -> Layout:
    """A layout of nothing but these figures."""
    kv: dict[str, Any] = {name: value for name, value in fields.items() if hasattr(LAYOUT.kv, name)}
    rest: dict[str, Any] = {name: value for name, value in fields.items() if name not in kv}
    bare = dataclasses.replace(LAYOUT, tensors=(), buffers=(), launches=(), final_norm=None, **rest)
    return dataclasses.replace(bare, kv=dataclasses.replace(LAYOUT.kv, **kv))


def buffers(*entries: BufferEntry) -> Layout:
    return dataclasses.replace(sized(max_batch_tokens=1), buffers=entries)
