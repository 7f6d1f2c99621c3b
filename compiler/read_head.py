"""What a model that was made to embed or to rank says of its head: pooling, and the layers behind it.

Source: llama.cpp's `build_pooling` and `pooling_type`, and the tensors `cls`, `cls.output`, `dense_2` and `dense_3`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from ..artifacts.head import Head, HeadLayer
from .model_config import ModelConfig
from .model_source import ModelSource

if TYPE_CHECKING:
    from .plan import PackedTensor

PACKING: Final = "f32"
TENSORS: Mapping[str, str] = MappingProxyType(
    {
        "head.dense": "cls.weight",
        "head.dense_bias": "cls.bias",
        "head.dense_norm": "cls.norm.weight",
        "head.output": "cls.output.weight",
        "head.output_bias": "cls.output.bias",
        "head.dense_2": "dense_2.weight",
        "head.dense_3": "dense_3.weight",
    }
)
"""Role to tensor name."""

_MEAN, _CLS, _RANK = 1, 2, 4  # GGUF's numbers
_UNSET = 0xFFFFFFFF  # llama.cpp's -1, which it writes as it is
_POOLINGS: Mapping[int, str] = MappingProxyType({0: "", _MEAN: "mean", _CLS: "cls", 3: "last", _RANK: ""})
_LAST_TOKEN: Final = frozenset({"qwen3", "qwen3vl"})  # rank by the last token, and by a softmax over yes and no


def read_head(source: ModelSource, config: ModelConfig) -> Head | None:
    """Return the head; None where the file says nothing of one.

    Raises:
        InputError: a kind of pooling that nobody knows, one that ranks without a classifier, or a tensor of a shape
            that does not fit.
    """
    kind = _kind(source, f"{config.architecture}.pooling_type", 0)
    ranks, pooling = kind == _RANK, _POOLINGS[kind]
    if not ranks:
        return Head(pooling, tuple(_layers(source, config, ("head.dense_2", "head.dense_3")))) if pooling else None
    layers = tuple(_layers(source, config, ("head.dense", "head.output"), _activation(config)))
    if not layers:
        key = f"{config.architecture}.pooling_type"
        raise source.error(key, "expected a classifier (cls.weight or cls.output.weight) of a model that ranks")
    if config.architecture in _LAST_TOKEN:
        return Head("last", layers, "softmax", config.norm_epsilon)
    return Head(_ranked_by(source, config.architecture), layers, "raw", config.norm_epsilon)


def _ranked_by(source: ModelSource, architecture: str) -> str:
    """Return what a classifier reads of a text: the mean where its file or its kind says so, else the first token."""
    usual = _MEAN if architecture == "modern-bert" else _CLS
    return "mean" if _kind(source, f"{architecture}.classifier.pooling_type", usual) == _MEAN else "cls"


def _kind(source: ModelSource, key: str, usual: int) -> int:
    """Return GGUF's number of a kind of pooling."""
    found = source.get_int(key, usual, 0, _UNSET)
    return usual if found == _UNSET else source.get_int(key, usual, 0, max(_POOLINGS))


def _activation(config: ModelConfig) -> str:
    return "gelu" if config.architecture == "modern-bert" else "tanh"


def _layers(
    source: ModelSource, config: ModelConfig, roles: tuple[str, ...], activation: str = "none"
) -> Iterator[HeadLayer]:
    """Yield those of the layers that the file has; the activation is that of the classifier's first."""
    size = config.hidden_size
    for role in roles:
        if TENSORS[role] not in source.tensors:
            continue
        shape = source.tensors[TENSORS[role]].shape
        if len(shape) == 1 and shape[0] == size:  # one output, of which GGUF drops the dimension
            shape = (1, size)
        if len(shape) != 2 or shape[1] != size:
            raise source.error(TENSORS[role], f"expected {size} columns, found shape {list(shape)}")
        size = shape[0]
        beside = {name: _beside(source, f"{role}_{name}", size) for name in ("bias", "norm")}
        yield HeadLayer(_packed(role), beside["bias"], activation if role == "head.dense" else "none", beside["norm"])


def _beside(source: ModelSource, role: str, size: int) -> str:
    name = TENSORS.get(role)
    if name is None or name not in source.tensors:
        return ""
    shape = source.tensors[name].shape
    if math.prod(shape) != size:
        raise source.error(name, f"expected {size} elements, found shape {list(shape)}")
    return _packed(role)


def _packed(role: str) -> str:
    return f"{role}@{PACKING}"


def head_shapes(head: Head | None, hidden_size: int, source: ModelSource) -> Mapping[str, tuple[int, ...]]:
    """Return the shape of each of a head's weights, by role."""
    found: dict[str, tuple[int, ...]] = {}
    size = hidden_size
    for layer in head.layers if head is not None else ():
        role = layer.weight.removesuffix(f"@{PACKING}")
        rows = math.prod(source.tensors[TENSORS[role]].shape) // size
        found[role] = (rows, size)
        size = rows
        found |= {name.removesuffix(f"@{PACKING}"): (size,) for name in (layer.bias, layer.norm) if name}
    return found


def head_tensors(shapes: Mapping[str, tuple[int, ...]]) -> tuple[PackedTensor, ...]:
    """Return how a head's weights are packed, by the shapes of `head_shapes`: as float32, for the CPU."""
    from .plan import PackedTensor  # noqa: PLC0415 - who only looks at a model does not plan

    return tuple(PackedTensor(_packed(role), PACKING, (role,), shape) for role, shape in shapes.items())
