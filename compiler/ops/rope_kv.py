"""Rotary positions of queries and keys, in place, with a norm before or after or none; keys and values to the KV cache.

A row holds queries, keys and values, head by head. The table has a row for each position, cosines before sines.

Weights, those that a node has, in this order: the table (where `rope_dim` is not 0); weights of the norm of queries and
of keys, then its biases; the table of temperatures. A norm's weight has the elements of a head, which all heads share,
or of all heads. Without keys (`num_kv_heads` 0) queries alone are rotated, and nothing goes to the cache.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from ...artifacts.arguments import Argument
from ...artifacts.dataclass import dataclass
from ...artifacts.layout import GridEntry
from ..graph import Attribute, Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation
from ..plan import Parameter, float_literal
from ..planner import Planner
from .heads import HEADS, Heads, given

# value_dim, values_in_keys: see `Heads`. rope_first: element of a head from which on `rope_dim` of them rotate.
# clamp: queries, keys and values are first held within its distance of 0; 0: not. norm: of queries and keys, "rms" or
# "layer" (which takes the mean away first). norm_rows: over all heads of a row, not each. norm_after: after the
# rotation. weightless: without weights. value_norm: an RMS norm over each head of values, without weights.
# temperature: queries are multiplied by their position's number of the last weight, at the end.
# sections: "time,height,width,extra", how many pairs rotate by each of a token's four rotary positions, see
# `section_axes`; "": all by its position. sections_interleaved: in turn, not one section after another.
OPTIONAL: Final[dict[str, Attribute]] = {
    "value_dim": 0,
    "values_in_keys": False,
    "rope_first": 0,
    "clamp": 0.0,
    "norm": "rms",
    "norm_rows": False,
    "norm_after": False,
    "weightless": False,
    "value_norm": False,
    "temperature": False,
    "sections": "",
    "sections_interleaved": False,
}

Positions = npt.NDArray[np.intp]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Weights(Generic[_T]):
    """The weights of a node by what they are; None or empty where it has none of them.

    Attributes:
        table: cosines and sines, [positions, rope_dim].
        norms: of queries, and of keys where there are some.
        biases: of the same.
        temperatures: [positions].
    """

    table: _T | None
    norms: Sequence[_T]
    biases: Sequence[_T]
    temperatures: _T | None

    @classmethod
    def of(cls, node: Node, weights: Sequence[_T]) -> Weights[_T]:
        """Return weights, or names of them, that a node has, by what they are."""
        rest = list(weights)
        table = rest.pop(0) if node.integer("rope_dim") else None
        temperatures = rest.pop() if node.attributes.get("temperature") else None
        parts = 2 if node.integer("num_kv_heads") else 1
        return cls(table, rest[:parts], rest[parts:], temperatures)


def _normed(node: Node, x: Float64, weight: Float64 | None, bias: Float64 | None) -> Float64:
    """Return queries or keys [rows, head, elements] after the norm."""
    rows, heads, elements = x.shape
    if node.attributes.get("norm_rows"):
        x = x.reshape(rows, 1, -1)
    if node.attributes.get("norm") == "layer":
        x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + node.real("epsilon"))
    x = x.reshape(rows, heads, elements)
    for part, joined in ((weight, np.multiply), (bias, np.add)):
        if part is not None:
            x = joined(x, part.reshape(-1, elements))
    return x


def section_axes(node: Node) -> Positions:
    """Return which of a token's rotary positions each pair rotates by: 0 time, 1 height, 2 width, 3 extra.

    Source: Bai et al.: "Qwen2.5-VL Technical Report", section 2.1.2, for sections one after another; Qwen3-VL's
    modeling code for interleaved ones: time, height and width in turn as long as each lasts, and time then.
    """
    time, height, width, extra = map(int, node.word("sections").split(","))
    within = np.arange(node.integer("rope_dim") // 2) % (time + height + width + extra)
    if node.attributes.get("sections_interleaved"):
        turn = within % 3
        return np.where(within < 3 * np.array([width, height, width])[turn], turn, 0)
    return np.searchsorted(np.cumsum([time, height, width]), within, side="right")


def _rotated(node: Node, x: Float64, table: Float64, positions: Positions) -> Float64:
    """Return queries or keys [rows, head, elements] after the rotation; positions int[4, rows]."""
    first, rope_dim = node.integer("rope_first", 0), node.integer("rope_dim")
    axes = section_axes(node) if node.attributes.get("sections") else np.zeros(rope_dim // 2, int)
    pairs = np.arange(rope_dim // 2)
    cosines, sines = (table[positions[axes].T, pairs + first][:, None] for first in (0, rope_dim // 2))
    if node.attributes["interleaved"]:
        one, two = slice(first, first + rope_dim, 2), slice(first + 1, first + rope_dim, 2)
    else:
        half = first + rope_dim // 2
        one, two = slice(first, half), slice(half, first + rope_dim)
    result = x.copy()
    result[..., one] = x[..., one] * cosines - x[..., two] * sines
    result[..., two] = x[..., one] * sines + x[..., two] * cosines
    return result


def compute(
    node: Node, inputs: Sequence[Float64], weights: Sequence[Float64], positions: Positions | None = None
) -> Float64:
    """See `Operation`; `positions` int[4, rows] are the step's `rope_positions`, None: all four count from 0."""
    heads, known = Heads.of(node), Weights.of(node, weights)
    rotary = np.tile(np.arange(len(inputs[0])), (4, 1)) if positions is None else positions
    clamp = node.real("clamp", 0.0)
    rows = np.clip(inputs[0], -clamp, clamp) if clamp else inputs[0]
    query = rows[:, : heads.query_columns].reshape(len(rows), heads.num_heads, heads.head_dim)
    key, value = heads.split_kv(rows)

    def placed(x: Float64, index: int) -> Float64:
        weight, bias = (part[index] if index < len(part) else None for part in (known.norms, known.biases))
        for after in (False, True):
            if bool(node.attributes.get("norm_after")) == after and (known.norms or node.attributes.get("weightless")):
                x = _normed(node, x, weight, bias)
            if known.table is not None and not after:
                x = _rotated(node, x, known.table, rotary)
        return x

    query, key = placed(query, 0), placed(key, 1)
    if node.attributes.get("value_norm"):
        value = value / np.sqrt(np.mean(value * value, axis=-1, keepdims=True) + node.real("epsilon"))
    if known.temperatures is not None:
        query = query * known.temperatures[: len(rows), None, None]
    parts = (query, key) if heads.values_in_keys else (query, key, value)
    result: Float64 = np.concatenate([part.reshape(len(rows), -1) for part in parts], axis=1)
    return result


def _launch(planner: Planner, node: Node, grid: GridEntry | None = None, /, **more: Parameter) -> None:
    heads, known = Heads.of(node), Weights.of(node, node.weights)
    norms = [planner.tensor((name,), "f32") for name in known.norms]
    table = None if known.table is None else planner.tensor((known.table,), "rope_table")
    cache: tuple[Argument, ...] = planner.cache(node.integer("layer")) if heads.num_kv_heads else (None, None)
    arguments: list[Argument] = [planner.value(node.inputs[0]), table, *cache, *norms]
    parameters = given(node, OPTIONAL)
    if known.norms:
        weight = planner.graph.weights[known.norms[0]]
        if not node.attributes.get("norm_rows") and math.prod(weight.shape) != heads.head_dim:
            parameters["per_head"] = True
    if known.biases or known.temperatures is not None:
        biases = planner.tensor(tuple(known.biases), "f32") if known.biases else None
        arguments = [*arguments, *[None] * (6 - len(arguments)), biases]
        parameters |= {"norm_bias": True} if known.biases else {}
    if known.temperatures is not None:
        arguments.append(planner.tensor((known.temperatures,), "temperatures"))
    planner.launch(
        "rope_kv",
        tuple(arguments),
        grid,
        rope_dim=node.integer("rope_dim"),
        interleaved=bool(node.attributes["interleaved"]),
        qk_norm=bool(known.norms or node.attributes.get("weightless")),
        epsilon=float_literal(node.real("epsilon")),
        **heads.parameters(planner.kv),
        **parameters,
        **more,
    )


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    _launch(planner, node)


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`."""
    wave_size, heads = planner.gpu.wave_size, Heads.of(node)
    kv_heads = heads.num_kv_heads * (1 if heads.values_in_keys else 2)
    groups = 1 if node.attributes.get("norm_rows") else -(-(heads.num_heads + kv_heads) // 4)
    _launch(planner, node, GridEntry(4 * wave_size, groups, "tokens"), wave_size=wave_size)


OPERATION = Operation(
    "rope_kv",
    compute,
    host,
    hip,
    {**HEADS, "rope_dim": int, "interleaved": bool, "epsilon": float},
    optional={name: type(default) for name, default in OPTIONAL.items()},
    weights=(0, 6),
    in_place=True,
    writes_kv=True,
)
