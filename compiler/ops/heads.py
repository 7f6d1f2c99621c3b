"""The heads of an attention layer, as nodes and kernels are told of them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

from ...artifacts.layout import KvLayout
from ..graph import Node
from ..plan import Parameter


@dataclass(frozen=True, slots=True)
class Heads:
    """The attributes of a node that tell its heads.

    Attributes:
        num_heads: of queries; a multiple of `num_kv_heads`.
        num_kv_heads: of keys and of values.
        head_dim: elements of one.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int

    @classmethod
    def of(cls, node: Node) -> Self:
        """Return the heads of a node."""
        return cls(*(node.integer(field.name) for field in fields(cls)))

    def parameters(self, kv: KvLayout) -> dict[str, Parameter]:
        """Return the parameters of a kernel that reads or writes the KV cache."""
        return {
            "num_heads": self.num_heads,
            "num_kv_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "kv_q8_0": kv.dtype == "q8_0",
        }


HEADS: dict[str, type] = {"layer": int, **{field.name: int for field in fields(Heads)}}
"""Types of the attributes of a node with heads: those of `Heads`, and which layer's they are."""
