"""Writes a graph node by node, as a model is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from .graph import LOGITS, TOKENS, Attribute, Graph, Node, Value, Weight


@dataclass(frozen=True, slots=True)
class GraphBuilder:
    """Nodes and values so far. Each method appends a node and returns the name of what it writes.

    Names of outputs and weights are those of the layer that the builder is of; inputs are what methods returned.

    Attributes:
        weights: of the model, by role.
        prefix: of the layer, as `layers.0.`; "" outside.
    """

    weights: Mapping[str, Weight]
    prefix: str = ""
    nodes: list[Node] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)

    def layer(self, number: int) -> Self:
        """Return the same graph, seen from a layer."""
        return replace(self, prefix=f"layers.{number}.")

    def has(self, weight: str) -> bool:
        """Return whether the model has that weight."""
        return self.prefix + weight in self.weights

    def graph(self) -> Graph:
        """Return all that was written, as a graph."""
        return Graph(tuple(self.nodes), self.values, self.weights)

    def columns(self, value: str) -> int:
        """Return the columns of a value."""
        return self.values[value].columns

    def embed(self, output: str, weight: str) -> str:
        """Append a look-up of rows of a matrix by token id."""
        shape = self.weights[self.prefix + weight].shape
        return self._add("embedding", (), Value(self.prefix + output, TOKENS, shape[1]), (self.prefix + weight,))

    def norm(self, output: str, source: str, weight: str, epsilon: float, rows: str = TOKENS) -> str:
        """Append an RMS norm of rows; with `rows` of LOGITS, of those whose logits are asked for."""
        value = Value(self.prefix + output, rows, self.columns(source))
        return self._add("norm", (source,), value, (self.prefix + weight,), epsilon=epsilon)

    def linear(self, output: str, source: str, *weights: str) -> str:
        """Append products with matrices, side by side, each with a bias where the model has one."""
        rows = [self.weights[self.prefix + weight].shape[0] for weight in weights]
        value = Value(self.prefix + output, self.values[source].rows, sum(rows))
        for index, weight in enumerate(weights):
            bias = f"{weight}_bias"
            names = (weight, bias) if self.has(bias) else (weight,)
            roles = tuple(self.prefix + name for name in names)
            self._add("linear", (source,), value, roles, out_offset=sum(rows[:index]))
        return value.name

    def rope_kv(
        self,
        output: str,
        source: str,
        norms: tuple[str, ...],
        table: str = "rope_table",
        temperatures: str = "",
        /,
        **attributes: Attribute,
    ) -> str:
        """Append rotary positions by a table of the model, and the write of keys and values to the cache.

        Args:
            norms: roles of the weights of queries' and keys' norm, each with a bias where the model has one.
            table: is not read where `rope_dim` is 0.
            temperatures: role of the table that queries are multiplied with; "": none.
            attributes: see `ops/rope_kv.py`.
        """
        roles = (*norms, *(f"{norm}_bias" for norm in norms if self.has(f"{norm}_bias")))
        weights = (table,) * bool(attributes["rope_dim"]) + tuple(self.prefix + role for role in roles)
        if temperatures:
            weights, attributes = (*weights, temperatures), {**attributes, "temperature": True}
        value = Value(self.prefix + output, TOKENS, self.columns(source))
        return self._add("rope_kv", (source,), value, weights, **attributes)

    def attention(
        self, output: str, source: str, columns: int, shared: str = "", sinks: str = "", /, **attributes: Attribute
    ) -> str:
        """Append attention over the cache, for the queries of `rope_kv`.

        Args:
            columns: of the output.
            shared: what `rope_kv` of the layer returned whose cache is read, where it is another's.
            sinks: role of a weight with a score for each head, without a value.
            attributes: see `ops/attention.py`.
        """
        sources = (source, shared) if shared else (source,)
        weights = (self.prefix + sinks,) if sinks else ()
        return self._add("attention", sources, Value(self.prefix + output, TOKENS, columns), weights, **attributes)

    def gate(self, output: str, source: str, activation: str) -> str:
        """Append the gate of a feed-forward, over gate and up side by side."""
        value = Value(self.prefix + output, TOKENS, self.columns(source) // 2)
        return self._add("gate", (source,), value, activation=activation)

    def add(self, output: str, one: str, other: str) -> str:
        """Append a sum."""
        return self._add("add", (one, other), Value(self.prefix + output, TOKENS, self.columns(one)))

    def sample(self, output: str, logits: str) -> str:
        """Append the draw of token ids from rows of logits."""
        return self._add("sample", (logits,), Value(output, LOGITS, self.columns(logits), "int32"))

    def _add(
        self, op: str, inputs: tuple[str, ...], output: Value, weights: tuple[str, ...] = (), **attributes: Attribute
    ) -> str:
        self.values[output.name] = output
        self.nodes.append(Node(op, inputs, output.name, weights, attributes))
        return output.name
