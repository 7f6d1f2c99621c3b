"""Which weights stay in this machine's memory, where a GPU has too little of its own.

Kernels read them there, over the bus, as they read all others: no number changes, only how long a step takes. What is
read least for each token goes first: the embedding where rows of it are only looked up, then experts, of which a token
takes few, then matrices of whole layers; the first layers first.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from typing import Final

from ....artifacts.arguments import TensorRef
from ....artifacts.dataclass import dataclass
from ....artifacts.errors import UsageError
from ....artifacts.layout import Layout, TensorEntry

DEVICE_ALIGNMENT: Final = 256  # of tensors and buffers: whole lines of 128 bytes, whatever lies before
_LAYER: Final = re.compile(r"layers\.(\d+)\.")
_EXPERTS: Final = re.compile(r"layers\.\d+\.\w+_experts\b")
_LOOK_UP: Final = "embedding"  # the kernel that reads rows of tokens alone


@dataclass(frozen=True, slots=True)
class WeightPlaces:
    """What is asked of weights' places; where neither number is, as little as must be stays in this machine's memory.

    Attributes:
        gpu_layers: the last so many layers lie on the GPU, with all that is no layer's.
        cpu_experts: experts of the first so many layers stay in this machine's memory.
    """

    gpu_layers: int | None = None
    cpu_experts: int | None = None

    @property
    def asked(self) -> bool:
        """Whether there is a number."""
        return self.gpu_layers is not None or self.cpu_experts is not None

    def chosen(self, layout: Layout) -> frozenset[str]:
        """Return the names of the tensors that stay in this machine's memory, as it was asked.

        Raises:
            UsageError: more layers than there are, or experts of a model without.
        """
        matrices = _matrices(layout)
        count = 1 + max((layer for layer, _ in matrices), default=-1)
        for option, number in (("--gpu-layers", self.gpu_layers), ("--cpu-experts", self.cpu_experts)):
            if number is not None and number > count:
                raise UsageError(f"{option}: expected at most the model's {count} layers, found {number}")
        if self.cpu_experts and not any(_is_experts(tensor) for _, tensor in matrices):
            raise UsageError(f"--cpu-experts {self.cpu_experts}: the model has no experts")
        below = 0 if self.gpu_layers is None else count - self.gpu_layers
        experts_below = max(below, self.cpu_experts or 0)
        return frozenset(
            tensor.name for layer, tensor in matrices if layer < (experts_below if _is_experts(tensor) else below)
        )


def aligned(n_bytes: int) -> int:
    """Return the next multiple of `DEVICE_ALIGNMENT`."""
    return -(-n_bytes // DEVICE_ALIGNMENT) * DEVICE_ALIGNMENT


def spill(layout: Layout, n_bytes: int) -> frozenset[str]:
    """Return the names of the first tensors, in the order of this module, that take so many bytes of a GPU.

    All that can be elsewhere are returned where even these take less.
    """
    names = set()
    for tensor in _in_order(layout):
        if n_bytes <= 0:
            break
        names.add(tensor.name)
        n_bytes -= aligned(tensor.n_bytes)
    return frozenset(names)


def host_bytes(layout: Layout, host: Collection[str]) -> int:
    """Return the bytes of tensors that stay in this machine's memory, by their names."""
    return sum(tensor.n_bytes for tensor in layout.tensors if tensor.name in host)


def describe(layout: Layout, host: Collection[str]) -> str:
    """Return what tensors are, in words, as `experts of layers 0 to 11`."""
    tensors = [tensor for tensor in layout.tensors if tensor.name in host]
    parts = []
    if any(_layer(tensor) is None for tensor in tensors):
        parts.append("the token embedding")
    experts = {_layer(tensor) for tensor in tensors if _is_experts(tensor)}
    others = {_layer(tensor) for tensor in tensors if not _is_experts(tensor)}
    for what, layers in (("experts of", experts), ("matrices of", others)):
        numbers = sorted(layer for layer in layers if layer is not None)
        if numbers:
            parts.append(f"{what} {_span(numbers)}")
    return ", ".join(parts)


def _span(numbers: list[int]) -> str:
    return f"layer {numbers[0]}" if len(numbers) == 1 else f"layers {numbers[0]} to {numbers[-1]}"


def _layer(tensor: TensorEntry) -> int | None:
    found = _LAYER.match(tensor.name)
    return None if found is None else int(found[1])


def _is_experts(tensor: TensorEntry) -> bool:
    return _EXPERTS.match(tensor.name) is not None


def _matrices(layout: Layout) -> list[tuple[int, TensorEntry]]:
    """Return the matrices of layers. Vectors are small, and kernels may read them by scalar loads."""
    layers = ((_layer(tensor), tensor) for tensor in layout.tensors if len(tensor.shape) > 1)
    return [(layer, tensor) for layer, tensor in layers if layer is not None]


def _in_order(layout: Layout) -> Iterator[TensorEntry]:
    matrices = sorted(_matrices(layout), key=lambda one: (not _is_experts(one[1]), one[0]))
    looked_up = _looked_up(layout)
    yield from (tensor for tensor in layout.tensors if tensor.name in looked_up)
    yield from (tensor for _, tensor in matrices)


def _looked_up(layout: Layout) -> set[str]:
    """Return matrices of no layer of which all launches that read them look up rows."""
    readers: dict[str, list[str]] = {}
    for launch in layout.launches:
        for argument in launch.arguments:
            if isinstance(argument, TensorRef):
                readers.setdefault(argument.name, []).append(launch.kernel)
    matrices = {tensor.name for tensor in layout.tensors if len(tensor.shape) > 1 and _layer(tensor) is None}
    return {name for name in matrices if name in readers and _all_look_up(readers[name])}


def _all_look_up(kernels: Iterable[str]) -> bool:
    return all(kernel.startswith(_LOOK_UP) for kernel in kernels)
