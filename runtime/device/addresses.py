"""Where what kernels read and write lies on a device, whichever it is."""

from __future__ import annotations

from collections.abc import Mapping

from ...artifacts.arguments import Argument, BufferRef, KvRef, StateRef, TensorRef
from ...artifacts.dataclass import dataclass
from ...artifacts.layout import Layout


@dataclass(frozen=True, slots=True)
class Addresses:
    """Addresses of a program's memory.

    Attributes:
        tensors: of each packed tensor, by name.
        arena: of the first buffer.
        buffers: offset of each buffer in the arena, by name.
        kv: of the KV cache: for each layer the keys of all blocks, then the values.
        states: of the slots of state: for each entry of the layout what it holds in all slots.
        layout: of the bundle.
        num_blocks: of the KV cache.
        num_state_slots: of state.
    """

    tensors: Mapping[str, int]
    arena: int
    buffers: Mapping[str, int]
    kv: int
    states: int
    layout: Layout
    num_blocks: int
    num_state_slots: int

    def of(self, argument: Argument) -> int | None:
        """Return the address that a launch is given; None where there is none, or where each step has its own."""
        match argument:
            case TensorRef(name):
                return self.tensors[name]
            case BufferRef(name):
                return self.buffer(name)
            case KvRef(layer, half):
                return self.kv + self.layout.kv.offset(layer, half == "value", self.num_blocks)
            case StateRef(index):
                before = sum(entry.n_bytes for entry in self.layout.states[:index])
                return self.states + self.num_state_slots * before
        return None

    def buffer(self, name: str) -> int:
        """Return the address of a buffer."""
        return self.arena + self.buffers[name]
