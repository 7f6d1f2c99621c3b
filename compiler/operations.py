"""The operations of the graph, by name: a line each."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from .operation import Operation
from .ops import (
    activate,
    add,
    attention,
    embedding,
    expert_linear,
    expert_sum,
    gate,
    gate_up,
    linear,
    logits_map,
    lora_down,
    lora_up,
    mul,
    norm,
    position_embedding,
    quantize,
    rope_kv,
    route,
    sample,
    xielu,
)

_MODULES = (
    activate,
    add,
    attention,
    embedding,
    expert_linear,
    expert_sum,
    gate,
    gate_up,
    linear,
    logits_map,
    lora_down,
    lora_up,
    mul,
    norm,
    position_embedding,
    quantize,
    rope_kv,
    route,
    sample,
    xielu,
)
OPERATIONS: Mapping[str, Operation] = MappingProxyType({module.OPERATION.name: module.OPERATION for module in _MODULES})
