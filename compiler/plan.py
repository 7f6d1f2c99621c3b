"""The plan: which kernels run, on what, in which order, and how the weights lie.

Everything a kernel is specialised to is decided here; templates only write it down.
"""

from __future__ import annotations

import hashlib
import json

from ..artifacts.dataclass import dataclass
from ..artifacts.layout import BufferEntry, FinalNorm, KvLayout, LaunchEntry, Sampler, StateEntry, Tap

Parameter = int | float | bool | str


@dataclass(frozen=True, slots=True)
class KernelSpec:
    """One kernel: a template and the values it is specialised to."""

    template: str
    parameters: tuple[tuple[str, Parameter], ...]

    @property
    def digest(self) -> str:
        """Return 16 hex digits over template and parameters."""
        text = json.dumps([self.template, self.parameters], separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def symbol(self) -> str:
        """Return a C identifier, readable and unique: `matmul_q4_1_960x576_ab12cd34`."""
        values = dict(self.parameters)
        weight_type = f"_{values['weight_type']}" if "weight_type" in values else ""
        size = f"_{values['rows']}x{values['columns']}" if "rows" in values else ""
        return f"{self.template}{weight_type.lower()}{size}_{self.digest[:8]}"


@dataclass(frozen=True, slots=True)
class PackedTensor:
    """A tensor of the weights and what it is made of.

    Attributes:
        name: the roles it holds, joined by "+", and after "@" the packing.
        packing: `rows16_<type>` (host) or `lanes32_<type>` (GPU), either with `pairs_` before the type (gate and up
            in turn), `f32`, or one of a table by position.
        sources: weights by role, in the order of the rows.
        shape: (rows, columns) or (columns,), of all sources together, unpadded.
    """

    name: str
    packing: str
    sources: tuple[str, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What the build, the packing and the runtime need; derived from graph and target alone."""

    kernels: tuple[KernelSpec, ...]
    launches: tuple[LaunchEntry, ...]
    buffers: tuple[BufferEntry, ...]
    tensors: tuple[PackedTensor, ...]
    kv: KvLayout
    final_norm: FinalNorm | None
    sampler: Sampler
    states: tuple[StateEntry, ...] = ()
    tap: Tap | None = None


def float_literal(value: float) -> str:
    """Return a C float literal that reads back to the same float32."""
    return f"{float(value):.9e}f"
