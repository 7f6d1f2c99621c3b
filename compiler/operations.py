"""The operations of the graph, by name: a line each."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from .operation import Operation
from .ops import add, attention, embedding, gate, gate_up, linear, norm, quantize, rope_kv, sample

_MODULES = (add, attention, embedding, gate, gate_up, linear, norm, quantize, rope_kv, sample)
OPERATIONS: Mapping[str, Operation] = MappingProxyType({module.OPERATION.name: module.OPERATION for module in _MODULES})
