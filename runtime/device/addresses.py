"""Where what kernels read and write lies on a device, whichever it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...artifacts.arguments import Argument, BufferRef, KvRef, TensorRef
from ...artifacts.layout import KvLayout


@dataclass(frozen=True, slots=True)
class Addresses:
    """Addresses of a program's memory.

    Attributes:
        tensors: of each packed tensor, by name.
        arena: of the first buffer.
        buffers: offset of each buffer in the arena, by name.
        kv: of the KV cache: for each layer the keys of all blocks, then the values.
        half_layer: bytes of the keys, or of the values, of one layer.
    """

    tensors: Mapping[str, int]
    arena: int
    buffers: Mapping[str, int]
    kv: int
    half_layer: int

    def of(self, argument: Argument) -> int | None:
        """Return the address that a launch is given; None where there is none, or where each step has its own."""
        match argument:
            case TensorRef(name):
                return self.tensors[name]
            case BufferRef(name):
                return self.buffer(name)
            case KvRef(layer, half):
                return self.kv + (2 * layer + (half == "value")) * self.half_layer
        return None

    def buffer(self, name: str) -> int:
        """Return the address of a buffer."""
        return self.arena + self.buffers[name]


def half_layer_bytes(kv: KvLayout, num_blocks: int) -> int:
    """Return the bytes of the keys, or of the values, of one layer in a KV cache of so many blocks."""
    return num_blocks * kv.bytes_per_block // (2 * kv.num_layers)
