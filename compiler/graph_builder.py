"""Writes a graph node by node, as a model is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Self

from ..artifacts.dataclass import dataclass
from .graph import LOGITS, TAPPED, TOKENS, Attribute, Graph, Node, Value, Weight


def _unless(**pairs: tuple[Attribute, Attribute]) -> dict[str, Attribute]:
    """Return the attributes that are not what is usual: (what is, what is usual)."""
    return {name: value for name, (value, usual) in pairs.items() if value != usual}


@dataclass(frozen=True, slots=True)
class GraphBuilder:
    """Nodes and values so far. Each method appends a node and returns the name of what it writes.

    Names of outputs and weights are those of the layer that the builder is of; inputs are what methods returned.

    Attributes:
        weights: of the model, by role.
        prefix: of the layer, as `layers.0.`; "" outside.
        scope: what names of outputs begin with, where a layer is run more than once.
    """

    weights: Mapping[str, Weight]
    prefix: str = ""
    scope: str = ""
    nodes: list[Node] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)

    def layer(self, number: int, scope: str = "") -> Self:
        """Return the same graph, seen from a layer; a `scope` of its own for each time that the layer is run."""
        return replace(self, prefix=f"layers.{number}.", scope=scope)

    def has(self, weight: str) -> bool:
        """Return whether the model has that weight."""
        return self.prefix + weight in self.weights

    def graph(self) -> Graph:
        """Return all that was written, as a graph."""
        return Graph(tuple(self.nodes), self.values, self.weights)

    def columns(self, value: str) -> int:
        """Return the columns of a value."""
        return self.values[value].columns

    def embed(self, output: str, weight: str, scale: float = 1.0) -> str:
        """Append a look-up of rows of a matrix by token id, times `scale`."""
        value = Value(self._named(output), TOKENS, self.weights[self.prefix + weight].shape[1])
        return self._add("embedding", (), value, (self.prefix + weight,), **_unless(scale=(scale, 1.0)))

    def input_rows(self, output: str, source: str = "", *, count: int = 0, column: int = 0, add: bool = False) -> str:
        """Append columns of the rows that tokens take from outside; see `ops/input_rows.py`.

        Args:
            source: what the other tokens keep, in place: nobody reads it afterwards; "": zeros.
            count: of columns; 0: as many as the source has.
            column: the first of them.
            add: to the source, instead of in its stead.
        """
        count = count or self.columns(source)
        value = Value(self._named(output), TOKENS, count)
        attributes: dict[str, Attribute] = {"column": column, "count": count, **_unless(add=(add, False))}
        return self._add("input_rows", (source,) * bool(source), value, (), **attributes)

    def position_embed(self, output: str, source: str, weight: str) -> str:
        """Append the sum of rows and of those of a matrix that their positions count."""
        return self._add("position_embedding", (source,), self._like(output, source), (self.prefix + weight,))

    def norm(
        self,
        output: str,
        source: str,
        weight: str,
        epsilon: float,
        rows: str = TOKENS,
        *,
        kind: str = "rms",
        group: int = 0,
    ) -> str:
        """Append a norm of rows; with `rows` of LOGITS, of those whose logits are asked for.

        Args:
            weight: with a bias where the model has one; "" for a norm without either.
            kind: `rms` or `layer`, which takes the mean away first.
            group: neighbouring elements normed together; 0 for the whole row.
        """
        value = Value(self._named(output), rows, self.columns(source))
        roles = tuple(self.prefix + name for name in (weight, f"{weight}_bias") if weight and self.has(name))
        attributes = _unless(kind=(kind, "rms"), group=(group or value.columns, value.columns))
        return self._add("norm", (source,), value, roles, epsilon=epsilon, **attributes)

    def linear(self, output: str, source: str, *weights: str, scale: float = 1.0) -> str:
        """Append products with matrices, side by side, each with a bias and a scale of its own where the model has one.

        Args:
            scale: times which the product and its bias are taken.
        """
        rows = [self.weights[self.prefix + weight].shape[0] for weight in weights]
        value = Value(self._named(output), self.values[source].rows, sum(rows))
        for index, weight in enumerate(weights):
            names = (weight, *(name for name in (f"{weight}_bias", f"{weight}_scale") if self.has(name)))
            roles = tuple(self.prefix + name for name in names)
            attributes = _unless(scale=(scale, 1.0))
            self._add("linear", (source,), value, roles, out_offset=sum(rows[:index]), **attributes)
        return value.name

    def linear_slice(self, output: str, source: str, weight: str, offset: int, columns: int) -> str:
        """Append the product with one matrix into columns from `offset` on of a value of so many, of no layer's name;
        other nodes write the rest."""
        value = Value(output, self.values[source].rows, columns)
        roles = tuple(self.prefix + name for name in (weight, f"{weight}_bias") if self.has(name))
        return self._add("linear", (source,), value, roles, out_offset=offset)

    def route(self, output: str, logits: str, used: int, bias: str = "", /, **attributes: Attribute) -> str:
        """Append the choice of `used` experts by their logits.

        Args:
            bias: role of what is added to scores for the choice; is not read where the model has none.
            attributes: see `ops/route.py`.
        """
        value = Value(self.prefix + output, TOKENS, 2 * used)
        weights = (self.prefix + bias,) if bias and self.has(bias) else ()
        return self._add("route", (logits,), value, weights, used=used, **attributes)

    def expert_linear(
        self, output: str, source: str, routed: str, experts: int, *weights: str, **attributes: Attribute
    ) -> str:
        """Append products with the matrices of a token's experts, those of one weight behind those of another.

        Args:
            routed: what `route` returned.
            experts: of each weight.
            attributes: see `ops/expert_linear.py`.
        """
        used = self.columns(routed) // 2
        rows = [self.weights[self.prefix + weight].shape[0] // experts * used for weight in weights]
        value = Value(self.prefix + output, TOKENS, sum(rows))
        for index, weight in enumerate(weights):
            names = (weight, *(name for name in (f"{weight}_bias", f"{weight}_scale") if self.has(name)))
            roles = tuple(self.prefix + name for name in names)
            numbers: dict[str, Attribute] = {"experts": experts, "used": used, "out_offset": sum(rows[:index])}
            self._add("expert_linear", (source, routed), value, roles, **numbers, **attributes)
        return value.name

    def expert_sum(self, output: str, source: str, routed: str, **attributes: Attribute) -> str:
        """Append the sum of what a token's experts made; see `ops/expert_sum.py`."""
        used = self.columns(routed) // 2
        value = Value(self.prefix + output, TOKENS, self.columns(source) // used)
        return self._add("expert_sum", (source, routed), value, (), used=used, **attributes)

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
        value = Value(self._named(output), TOKENS, self.columns(source))
        return self._add("rope_kv", (source,), value, weights, **attributes)

    def columns_of(self, output: str, source: str, first: int, count: int, groups: int = 1) -> str:
        """Append columns of a value, `count` from `first` on; of each of `groups` groups of columns, side by side."""
        value = replace(self._like(output, source), columns=count * groups)
        return self._add("columns", (source,), value, (), first=first, count=count, **_unless(groups=(groups, 1)))

    def columns_joined(self, output: str, source: str, *pieces: tuple[int, int], groups: int = 1) -> str:
        """Append columns of a value as `columns_of` does, of several pieces, (first, count) each, side by side."""
        value = replace(self._like(output, source), columns=sum(count for _, count in pieces) * groups)
        offset = 0
        for first, count in pieces:
            numbers: dict[str, Attribute] = {"first": first, "count": count, "out_offset": offset}
            self._add("columns", (source,), value, (), **numbers, **_unless(groups=(groups, 1)))
            offset += count * groups
        return value.name

    def side_by_side(self, output: str, *sources: str) -> str:
        """Append the columns of values, one behind the other."""
        counts = [self.columns(source) for source in sources]
        value = replace(self._like(output, sources[0]), columns=sum(counts))
        for index, (source, count) in enumerate(zip(sources, counts, strict=True)):
            self._add("columns", (source,), value, (), first=0, count=count, out_offset=sum(counts[:index]))
        return value.name

    def short_conv(self, output: str, source: str, *weights: str, activation: str = "silu", **firsts: Attribute) -> str:
        """Append the causal convolution of channels over their sequence: state of the sequence.

        Args:
            weights: roles [channels, taps], side by side, each with a bias where the model has one.
            activation: `silu` or `none`.
            firsts: `first`, `times_first`, `gate_first`: columns of the source, see `ops/short_conv.py`.
        """
        matrices, biases = (tuple(self.prefix + name + end for name in weights) for end in ("", "_bias"))
        channels = sum(self.weights[name].shape[0] for name in matrices)
        roles = (*matrices, *(name for name in biases if name in self.weights))
        value = Value(self._named(output), TOKENS, channels)
        return self._add("short_conv", (source,), value, roles, activation=activation, **firsts)

    def scan(
        self, output: str, kind: str, sources: tuple[str, ...], weights: tuple[str, ...], /, **attributes: Attribute
    ) -> str:
        """Append what matrices of state make of each token: state of the sequence. See `ops/scan.py`.

        Args:
            kind: `mamba`, `mamba2`, `delta` or `kda`.
            sources: its inputs, in the order of their names there; a value may be several of them.
            weights: roles, in the order there.
            attributes: `heads`, `state`, `columns` and what else the kind has.
        """
        value = Value(self._named(output), TOKENS, int(attributes["heads"]) * int(attributes["columns"]))
        roles = tuple(self.prefix + role for role in weights)
        return self._add("scan", sources, value, roles, kind=kind, **attributes)

    def gated_norm(
        self, output: str, source: str, gates: str, weight: str = "", /, *, norm: str, **attributes: Attribute
    ) -> str:
        """Append a product with an activation of gates, with a norm of groups `before` it, `after` it, or `none`.

        Args:
            gates: of as many columns, or of more: then those from `gate_first` on.
            weight: role of the norm's; "": it has none.
            attributes: `activation`, `epsilon`, `group`, `gate_first`, see `ops/gated_norm.py`.
        """
        roles = (self.prefix + weight,) if weight else ()
        return self._add("gated_norm", (source, gates), self._like(output, source), roles, norm=norm, **attributes)

    def tap(self, source: str, first: int, columns: int) -> None:
        """Append a copy of hidden states into columns from `first` on of what a head reads, `columns` in all."""
        value = Value(TAPPED, TOKENS, columns)
        self._add("columns", (source,), value, (), first=0, count=self.columns(source), out_offset=first)

    def token_logits(self, output: str, logits: str, weight: str) -> str:
        """Append logits of all tokens, of those of some; see `ops/token_logits.py`."""
        role = self.prefix + weight
        value = replace(self._like(output, logits), columns=self.weights[role].shape[0])
        return self._add("token_logits", (logits,), value, (role,))

    def merge_rows(self, output: str, source: str, merged: int, kind: str = "side") -> str:
        """Append rows of neighbours made one, of those that are asked for; see `ops/merge_rows.py`."""
        value = Value(self._named(output), LOGITS, self.columns(source) * (1 if kind == "mean" else merged))
        return self._add("merge_rows", (source,), value, (), kind=kind, merged=merged)

    def altup(self, output: str, kind: str, streams: str, *others: str, count: int) -> str:
        """Append a sum over `count` residual streams side by side; see `ops/altup.py`."""
        return self._add("altup", (streams, *others), self._like(output, streams), (), kind=kind, streams=count)

    def magnitude(self, output: str, source: str, like: str, least: float, *, joined: bool = False) -> str:
        """Append rows scaled to the magnitude of those of `like`; `joined`: behind these. See `ops/magnitude.py`."""
        columns = self.columns(source) + self.columns(like) * joined
        value = replace(self._like(output, source), columns=columns)
        return self._add("magnitude", (source, like), value, (), least=least, joined=joined)

    def gaussian_cut(self, output: str, source: str, deviations: float) -> str:
        """Append how far elements are above a row's mean and so many of its standard deviations."""
        return self._add("gaussian_cut", (source,), self._like(output, source), (), deviations=deviations)

    def head_linear(self, output: str, source: str, weight: str, num_heads: int) -> str:
        """Append products of a row's heads with a matrix each, which stand one under the other in a weight."""
        names = (weight, *(name for name in (f"{weight}_bias", f"{weight}_scale") if self.has(name)))
        value = Value(self._named(output), TOKENS, self.weights[self.prefix + weight].shape[0])
        return self._add(
            "head_linear", (source,), value, tuple(self.prefix + name for name in names), num_heads=num_heads
        )

    def latent_heads(self, output: str, *parts: str, num_heads: int) -> str:
        """Append rows of queries and the key of latent attention; `parts` are inputs of `ops/latent_heads.py`."""
        rank, tail = (self.columns(part) for part in parts[1:3])
        value = Value(self._named(output), TOKENS, (num_heads + 1) * (rank + tail))
        return self._add("latent_heads", parts, value, (), num_heads=num_heads, rank=rank, tail_dim=tail)

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
        return self._add("attention", sources, Value(self._named(output), TOKENS, columns), weights, **attributes)

    def gate(self, output: str, source: str, activation: str, **attributes: Attribute) -> str:
        """Append the gate of a feed-forward, over gate and up side by side; attributes as in `ops/gate.py`."""
        value = replace(self._like(output, source), columns=self.columns(source) // 2)
        return self._add("gate", (source,), value, (), activation=activation, **attributes)

    def activate(self, output: str, source: str, activation: str) -> str:
        """Append an activation of each element."""
        return self._add("activate", (source,), self._like(output, source), activation=activation)

    def clamp(self, output: str, source: str, low: float, high: float) -> str:
        """Append elements held between two numbers."""
        return self._add("clamp", (source,), self._like(output, source), (), low=low, high=high)

    def xielu(self, output: str, source: str, **parameters: Attribute) -> str:
        """Append the activation of Apertus: `positive`, `negative`, `beta`, `epsilon`."""
        return self._add("xielu", (source,), self._like(output, source), (), **parameters)

    def add(self, output: str, one: str, other: str) -> str:
        """Append a sum; `other` may have one column."""
        return self._add("add", (one, other), self._like(output, one))

    def mul(self, output: str, one: str, other: str, offset: int | None = None) -> str:
        """Append a product of elements; `other` may have one column, or more than `one`, then from `offset` on."""
        attributes: dict[str, Attribute] = {} if offset is None else {"other_offset": offset}
        return self._add("mul", (one, other), self._like(output, one), (), **attributes)

    def add_weight(self, output: str, source: str, weight: str) -> str:
        """Append a sum with a weight of a row, or of one element."""
        return self._add("add", (source,), self._like(output, source), (self.prefix + weight,))

    def scale_by(self, output: str, source: str, weight: str) -> str:
        """Append a product of elements with a weight of a row, or of one element."""
        return self._add("mul", (source,), self._like(output, source), (self.prefix + weight,))

    def scaled(self, output: str, source: str, scale: float) -> str:
        """Append a product with a number, in place: nobody reads `source` afterwards."""
        return self._add("logits_map", (source,), self._like(output, source), (), scale=scale)

    def logits_map(self, output: str, logits: str, scale: float = 1.0, softcap: float = 0.0) -> str:
        """Append logits times `scale`, then softcap * tanh(logits / softcap) where that is not 0."""
        attributes = _unless(scale=(scale, 1.0), softcap=(softcap, 0.0))
        return self._add("logits_map", (logits,), self._like(output, logits), (), **attributes)

    def sample(self, output: str, logits: str) -> str:
        """Append the draw of token ids from rows of logits."""
        return self._add("sample", (logits,), Value(output, LOGITS, self.columns(logits), "int32"))

    def _named(self, output: str) -> str:
        return self.scope + self.prefix + output

    def _like(self, output: str, source: str) -> Value:
        return replace(self.values[source], name=self._named(output))

    def _add(
        self, op: str, inputs: tuple[str, ...], output: Value, weights: tuple[str, ...] = (), **attributes: Attribute
    ) -> str:
        self.values[output.name] = output
        self.nodes.append(Node(op, inputs, output.name, weights, attributes))
        return output.name
