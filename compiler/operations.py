"""The operations of the graph, by name: a line each."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from .operation import Operation
from .ops import (
    activate,
    add,
    altup,
    attention,
    columns,
    embedding,
    expert_linear,
    expert_sum,
    gate,
    gate_up,
    gated_norm,
    gaussian_cut,
    head_linear,
    input_rows,
    latent_heads,
    linear,
    logits_map,
    lora_down,
    lora_up,
    magnitude,
    mul,
    norm,
    position_embedding,
    quantize,
    rope_kv,
    route,
    sample,
    scan,
    short_conv,
    xielu,
)

_MODULES = (
    activate,
    add,
    altup,
    attention,
    columns,
    embedding,
    expert_linear,
    expert_sum,
    gate,
    gate_up,
    gated_norm,
    gaussian_cut,
    head_linear,
    input_rows,
    latent_heads,
    linear,
    logits_map,
    lora_down,
    lora_up,
    magnitude,
    mul,
    norm,
    position_embedding,
    quantize,
    rope_kv,
    route,
    sample,
    scan,
    short_conv,
    xielu,
)
OPERATIONS: Mapping[str, Operation] = MappingProxyType({module.OPERATION.name: module.OPERATION for module in _MODULES})
