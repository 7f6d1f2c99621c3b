"""The arguments of a kernel's launch: what each points at, whatever the device.

A layout holds each as a text: `tensor:NAME`, `buffer:NAME`, `kv:LAYER:key`, `kv:LAYER:value`, `step:image`,
`step:echo`, `state:INDEX`, or `none`.
"""

from __future__ import annotations

import re
from typing import Final, Literal, cast

from .dataclass import dataclass

KvHalf = Literal["key", "value"]
StepPart = Literal["image", "echo"]

_KV: Final = re.compile(r"kv:(0|[1-9][0-9]{0,5}):(key|value)", re.ASCII)
_STATE: Final = re.compile(r"state:(0|[1-9][0-9]{0,5})", re.ASCII)


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A packed tensor of weights.bin."""

    name: str

    def __str__(self) -> str:
        return f"tensor:{self.name}"


@dataclass(frozen=True, slots=True)
class BufferRef:
    """A buffer of the arena."""

    name: str

    def __str__(self) -> str:
        return f"buffer:{self.name}"


@dataclass(frozen=True, slots=True)
class KvRef:
    """Keys, or values, of one layer: all blocks of the KV cache."""

    layer: int
    half: KvHalf

    def __str__(self) -> str:
        return f"kv:{self.layer}:{self.half}"


@dataclass(frozen=True, slots=True)
class StepRef:
    """A GPU's pinned image of a step, or where the host is told which step was computed; from format 1.2 on."""

    part: StepPart

    def __str__(self) -> str:
        return f"step:{self.part}"


@dataclass(frozen=True, slots=True)
class StateRef:
    """A `StateEntry` of the layout: uint8[slots, n_bytes], what it holds in each slot; from format 1.5 on."""

    index: int

    def __str__(self) -> str:
        return f"state:{self.index}"


Argument = TensorRef | BufferRef | KvRef | StepRef | StateRef | None
"""What a launch is given; None: a null pointer."""


def argument_text(argument: Argument) -> str:
    """Return the text of an argument, as a layout holds it."""
    return "none" if argument is None else str(argument)


def parse_argument(text: str) -> Argument:
    """Return the argument that a layout's text stands for.

    Raises:
        ValueError: it is none.
    """
    if text == "none":
        return None
    kind, _, name = text.partition(":")
    if kind == "tensor" and name:
        return TensorRef(name)
    if kind == "buffer" and name:
        return BufferRef(name)
    if kind == "step" and name in ("image", "echo"):
        return StepRef(cast("StepPart", name))
    if (kv := _KV.fullmatch(text)) is not None:
        return KvRef(int(kv[1]), cast("KvHalf", kv[2]))
    if (state := _STATE.fullmatch(text)) is not None:
        return StateRef(int(state[1]))
    raise ValueError(text)
