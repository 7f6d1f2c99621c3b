"""The heads of an attention layer, as nodes and kernels are told of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import numpy as np

from ...artifacts.dataclass import dataclass
from ...artifacts.layout import KvLayout
from ..graph import Attribute, Node
from ..operation import Float64
from ..plan import Parameter, float_literal


@dataclass(frozen=True, slots=True)
class Heads:
    """The attributes of a node that tell its heads.

    Attributes:
        num_heads: of queries; a multiple of `num_kv_heads`.
        num_kv_heads: of keys and of values; 0 where there are queries alone.
        head_dim: elements of a query, and of a key.
        value_dim: elements of a value; `head_dim` where the attribute is 0.
        values_in_keys: a value is the first `value_dim` elements of its key; there are no others.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    value_dim: int
    values_in_keys: bool = False

    @classmethod
    def of(cls, node: Node) -> Self:
        """Return the heads of a node."""
        head_dim = node.integer("head_dim")
        value_dim = node.integer("value_dim", 0) or head_dim
        values_in_keys = bool(node.attributes.get("values_in_keys"))
        return cls(node.integer("num_heads"), node.integer("num_kv_heads"), head_dim, value_dim, values_in_keys)

    @property
    def query_columns(self) -> int:
        """Columns of a row that are queries; keys and values follow them."""
        return self.num_heads * self.head_dim

    @property
    def kv_columns(self) -> tuple[int, int]:
        """Columns of keys, and of values."""
        return self.num_kv_heads * self.head_dim, 0 if self.values_in_keys else self.num_kv_heads * self.value_dim

    def split_kv(self, rows: Float64) -> tuple[Float64, Float64]:
        """Return the keys and the values at the end of rows: [rows, kv head, elements] each."""
        keys, values = self.kv_columns
        key, value = np.split(rows[:, rows.shape[1] - keys - values :], [keys], axis=1)
        shape = (len(rows), self.num_kv_heads)
        key = key.reshape(*shape, self.head_dim)
        return key, key[..., : self.value_dim] if self.values_in_keys else value.reshape(*shape, self.value_dim)

    def parameters(self, kv: KvLayout) -> dict[str, Parameter]:
        """Return the parameters of a kernel that reads or writes the KV cache."""
        parameters: dict[str, Parameter] = {
            "num_heads": self.num_heads,
            "num_kv_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "kv_q8_0": kv.dtype == "q8_0",
        }
        if self.value_dim != self.head_dim:
            parameters["value_dim"] = self.value_dim
        return {**parameters, "values_in_keys": True} if self.values_in_keys else parameters


_OF_HEADS = ("value_dim", "values_in_keys")


def given(node: Node, optional: Mapping[str, Attribute]) -> dict[str, Parameter]:
    """Return, as parameters of a kernel, the attributes of a node that are not what they are where it has not got them.

    Kernels of models without them stay the same: their headers have the defaults.
    """
    found = {name: node.attributes.get(name, default) for name, default in optional.items()}
    differing = {name: value for name, value in found.items() if value != optional[name] and name not in _OF_HEADS}
    return {name: float_literal(value) if isinstance(value, float) else value for name, value in differing.items()}


HEADS: dict[str, type] = {"layer": int, "num_heads": int, "num_kv_heads": int, "head_dim": int}
"""Types of the attributes of a node with heads: those of `Heads`, and whose cache it is: the layer that writes it."""
