"""Rotary positions of queries and keys, in place, with an RMS norm over each head before it or not; keys and values go
to the KV cache.

A row holds queries, keys and values, head by head. The table has a row for each position, cosines before sines.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...artifacts.arguments import KvRef
from ...artifacts.layout import GridEntry
from ..graph import Node
from ..lower_hip import HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation
from ..plan import Parameter, float_literal
from ..planner import Planner
from .heads import HEADS, Heads
from .norm import normed


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`."""
    heads, rope_dim = Heads.of(node), node.integer("rope_dim")
    rows = len(inputs[0])
    x = inputs[0].reshape(rows, -1, heads.head_dim).copy()
    queries, keys = np.split(x[:, : heads.num_heads + heads.num_kv_heads], [heads.num_heads], axis=1)
    for part, weight in zip((queries, keys), weights[1:], strict=False):
        part[:] = normed(part, weight, node.real("epsilon"))
    cosines, sines = np.split(weights[0][:rows, None], 2, axis=-1)
    if node.attributes["interleaved"]:
        one, two = slice(0, rope_dim, 2), slice(1, rope_dim, 2)
    else:
        one, two = slice(0, rope_dim // 2), slice(rope_dim // 2, rope_dim)
    for part in (queries, keys):
        first, second = part[..., one].copy(), part[..., two].copy()
        part[..., one] = first * cosines - second * sines
        part[..., two] = first * sines + second * cosines
    return x.reshape(rows, -1)


def _launch(planner: Planner, node: Node, grid: GridEntry | None = None, /, **more: Parameter) -> None:
    layer = node.integer("layer")
    norms = tuple(planner.tensor((name,), "f32") for name in node.weights[1:])
    table = planner.tensor(node.weights[:1], "rope_table")
    planner.launch(
        "rope_kv",
        (planner.value(node.inputs[0]), table, KvRef(layer, "key"), KvRef(layer, "value"), *norms),
        grid,
        rope_dim=node.integer("rope_dim"),
        interleaved=bool(node.attributes["interleaved"]),
        qk_norm=bool(norms),
        epsilon=float_literal(node.real("epsilon")),
        **Heads.of(node).parameters(planner.kv),
        **more,
    )


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    _launch(planner, node)


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`."""
    wave_size, heads = planner.gpu.wave_size, Heads.of(node)
    groups = -(-(heads.num_heads + 2 * heads.num_kv_heads) // 4)
    _launch(planner, node, GridEntry(4 * wave_size, groups, "tokens"), wave_size=wave_size)


OPERATION = Operation(
    "rope_kv",
    compute,
    host,
    hip,
    {**HEADS, "rope_dim": int, "interleaved": bool, "epsilon": float},
    weights=(1, 3),
    in_place=True,
    writes_kv=True,
)
