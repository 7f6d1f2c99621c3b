"""Causal attention over the KV cache: softmax(q . k * scale) . v, a group of query heads on each head of keys.

Reads the queries from rows of `rope_kv`. On a GPU it is split over the context where tokens are few, and joined by a
second kernel; how it is split, which decides a sum's bits, depends on shapes alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from ...artifacts.arguments import BufferRef, KvRef
from ...artifacts.errors import UsageError
from ...artifacts.formats import BLOCK_COLUMNS
from ...artifacts.layout import BufferEntry, GridEntry
from ..graph import Graph, Node
from ..lower_hip import MANY, HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation
from ..plan import Parameter, float_literal
from .heads import HEADS, Heads

SPLIT_TOKENS: Final = 16  # most tokens for which attention is split over the context
MIN_SPLIT: Final = 128  # positions; kernels/hip/attention.h
MAX_SPLITS: Final = 64
MAX_HEAD_DIM: Final = 256


def compute(node: Node, inputs: Sequence[Float64], weights: Sequence[Float64]) -> Float64:
    """See `Operation`; keys and values are those of the row that the queries are in."""
    heads = Heads.of(node)
    rows = inputs[0].reshape(len(inputs[0]), -1, heads.head_dim)
    query, key, value = np.split(rows, [heads.num_heads, heads.num_heads + heads.num_kv_heads], axis=1)
    group = heads.num_heads // heads.num_kv_heads
    scores = np.einsum("qhd,khd->hqk", query, np.repeat(key, group, axis=1)) * node.real("scale")
    shares = np.exp(np.where(np.tri(len(rows), dtype=bool), scores, -np.inf))
    shares /= shares.sum(-1, keepdims=True)
    mixed: Float64 = np.einsum("hqk,khd->qhd", shares, np.repeat(value, group, axis=1))
    return mixed.reshape(len(rows), -1)


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    layer = node.integer("layer")
    planner.launch(
        "attention",
        (planner.value(node.inputs[0]), KvRef(layer, "key"), KvRef(layer, "value"), planner.value(node.output)),
        scale=float_literal(node.real("scale")),
        out_q8=planner.graph.values[node.output].dtype == "q8",
        **Heads.of(node).parameters(planner.kv),
    )


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`."""
    heads, layer, wave_size = Heads.of(node), node.integer("layer"), planner.gpu.wave_size
    if heads.head_dim % 8 or heads.head_dim > MAX_HEAD_DIM:
        raise UsageError(f"heads of {heads.head_dim}: GPU kernels take multiples of 8 up to {MAX_HEAD_DIM}")
    group = heads.num_heads // heads.num_kv_heads
    # Rows of a wave: heads of one group, so that each key is loaded once for them; in tiles tokens beside them.
    few_rows, many_rows = (max(n for n in range(1, most + 1) if group % n == 0) for most in (8, 4))
    token_rows = 4 // many_rows
    split = MIN_SPLIT
    while split * MAX_SPLITS < planner.max_seq_len:
        split *= 2
    splits = -(-planner.max_seq_len // split)
    common: dict[str, Parameter] = {
        "scale": float_literal(node.real("scale")),
        "out_q8": planner.graph.values[node.output].dtype == "q8",
        "split": split,
        "max_splits": splits,
        "wave_size": wave_size,
        **heads.parameters(planner.kv),
    }
    qkv, out = planner.value(node.inputs[0]), planner.value(node.output)
    kv = (KvRef(layer, "key"), KvRef(layer, "value"))
    lanes = max(4, 1 << (heads.head_dim // 8 - 1).bit_length())  # LANES of kernels/hip/attention.h
    records = _records(planner, SPLIT_TOKENS * heads.num_heads * splits * (heads.head_dim + 4))
    few = GridEntry(wave_size, heads.num_heads // few_rows, "tokens", 1, split, 1, SPLIT_TOKENS)
    planner.launch("attention_split", (qkv, *kv, records), few, head_rows=few_rows, token_rows=1, **common)
    merge = GridEntry(64, -(-heads.num_heads * lanes // 64), "tokens", 1, 0, 1, SPLIT_TOKENS)
    planner.launch("attention_merge", (records, out), merge, head_rows=1, token_rows=1, **common)
    x = heads.num_heads // many_rows
    many = GridEntry(4 * wave_size, x, "tokens", 4 * token_rows, 0, SPLIT_TOKENS + 1, MANY)
    planner.launch("attention_tiled", (qkv, *kv, out), many, head_rows=many_rows, token_rows=token_rows, **common)


def _records(planner: HipPlanner, elements: int) -> BufferRef:
    """Return the argument for the buffer between the two halves of a split attention, one for all layers."""
    name = "attention_records"
    if all(buffer.name != name for buffer in planner.buffers):
        planner.buffers = (*planner.buffers, BufferEntry(name, "float32", 0, elements))
    return BufferRef(name)


def _writes_q8(graph: Graph, node: Node) -> bool:
    return node.integer("head_dim") % BLOCK_COLUMNS == 0


OPERATION = Operation("attention", compute, host, hip, {**HEADS, "scale": float}, writes_q8=_writes_q8)
