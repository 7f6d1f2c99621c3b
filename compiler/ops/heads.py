"""The heads of an attention layer, as nodes and kernels are told of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from ...artifacts.layout import KvLayout
from ..graph import Node
from ..operation import Float64
from ..plan import Parameter


@dataclass(frozen=True, slots=True)
class Heads:
    """The attributes of a node that tell its heads.

    Attributes:
        num_heads: of queries; a multiple of `num_kv_heads`.
        num_kv_heads: of keys and of values; 0 where there are queries alone.
        head_dim: elements of a query, and of a key.
        value_dim: elements of a value; `head_dim` where the attribute is 0.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    value_dim: int

    @classmethod
    def of(cls, node: Node) -> Self:
        """Return the heads of a node."""
        head_dim = node.integer("head_dim")
        value_dim = node.integer("value_dim", 0) or head_dim
        return cls(node.integer("num_heads"), node.integer("num_kv_heads"), head_dim, value_dim)

    @property
    def query_columns(self) -> int:
        """Columns of a row that are queries; keys and values follow them."""
        return self.num_heads * self.head_dim

    @property
    def kv_columns(self) -> tuple[int, int]:
        """Columns of keys, and of values."""
        return self.num_kv_heads * self.head_dim, self.num_kv_heads * self.value_dim

    def split_kv(self, rows: Float64) -> tuple[Float64, Float64]:
        """Return the keys and the values at the end of rows: [rows, kv head, elements] each."""
        keys, values = self.kv_columns
        key, value = np.split(rows[:, rows.shape[1] - keys - values :], [keys], axis=1)
        shape = (len(rows), self.num_kv_heads)
        return key.reshape(*shape, self.head_dim), value.reshape(*shape, self.value_dim)

    def parameters(self, kv: KvLayout) -> dict[str, Parameter]:
        """Return the parameters of a kernel that reads or writes the KV cache."""
        return {
            "num_heads": self.num_heads,
            "num_kv_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "kv_q8_0": kv.dtype == "q8_0",
        }


HEADS: dict[str, type] = {"layer": int, "num_heads": int, "num_kv_heads": int, "head_dim": int}
"""Types of the attributes of a node with heads: those of `Heads`, and whose cache it is: the layer that writes it."""
