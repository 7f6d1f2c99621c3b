"""Attention over the KV cache: softmax(q . k * scale) . v, a group of query heads on each head of keys.

Reads the queries from rows of `rope_kv`. On a GPU it is split over the context where tokens are few, and joined by a
second kernel; how it is split, which decides a sum's bits, depends on shapes alone.

A second input are the rows of another layer's `rope_kv`, whose cache is read: that of the attribute `layer`. A weight
has a sink for each head: a score that takes part in the softmax, and has no value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from ...artifacts.arguments import Argument, BufferRef
from ...artifacts.formats import BLOCK_COLUMNS
from ...artifacts.layout import BufferEntry, GridEntry
from ..graph import Attribute, Graph, Node
from ..lower_hip import MANY, HipPlanner
from ..lower_host import HostPlanner
from ..operation import Float64, Operation
from ..plan import Parameter, float_literal
from ..planner import Planner
from .heads import HEADS, Heads, given

SPLIT_TOKENS: Final = 16  # most tokens for which attention is split over the context
MIN_SPLIT: Final = 128  # positions; kernels/hip/attention.h
MAX_SPLITS: Final = 64
SPAN: Final = 256  # positions that the host sums by themselves; kernels/host/attention_tile.h
HOST_SPLIT_TOKENS: Final = 8  # most tokens of which threads share the spans; kernels/host/attention.h

# value_dim, values_in_keys: see `Heads`. both_ways: a position sees those after it too; a sequence is then computed
# whole, in one step.
# window: it sees so many positions, itself the last; both ways: those at most half as many away. chunk: it sees those
# from the last multiple of so many on. softcap: a score s becomes softcap * tanh(s / softcap). max_bias: of ALiBi, by
# which a score loses its head's slope for each position in between. 0: without. spans: of a step that is one sequence,
# both ways; a token sees positions from its first rotary position (time) on that are before its last (extra).
# sees_ahead: a token sees those after it too that are before its last rotary position, where a step has some.
OPTIONAL: Final[dict[str, Attribute]] = {
    "value_dim": 0,
    "values_in_keys": False,
    "both_ways": False,
    "window": 0,
    "chunk": 0,
    "softcap": 0.0,
    "max_bias": 0.0,
    "spans": False,
    "sees_ahead": False,
}


def visible(node: Node, count: int) -> npt.NDArray[np.bool_]:
    """Return which positions each of `count` positions sees: [queries, keys]."""
    query, key = np.indices((count, count))
    both_ways, window, chunk = (
        bool(node.attributes.get("both_ways")),
        node.integer("window", 0),
        node.integer("chunk", 0),
    )
    seen: npt.NDArray[np.bool_] = (key <= query) | both_ways
    if window:
        seen &= np.abs(query - key) <= window // 2 if both_ways else query - key < window
    if chunk:
        seen &= query // chunk == key // chunk
    return seen


def alibi_slopes(num_heads: int, max_bias: float) -> Float64:
    """Return what each head's scores lose for each position between query and key.

    Source: Press, Smith, Lewis: "Train Short, Test Long", and its authors' code for counts that are no power of two.
    """
    power = 1 << (num_heads.bit_length() - 1)
    heads = np.arange(num_heads)
    exponents = np.where(heads < power, heads + 1.0, (2 * (heads - power) + 1) / 2)
    slopes: Float64 = 2.0 ** (-max_bias * exponents / power)
    return slopes


def compute(
    node: Node,
    inputs: Sequence[Float64],
    weights: Sequence[Float64],
    positions: npt.NDArray[np.intp] | None = None,
) -> Float64:
    """See `Operation`; keys and values are those of the row that the queries are in, or of the second input's.

    `positions` int[4, rows] are the step's `rope_positions`, which say what `spans` are, and how far one `sees_ahead`.
    """
    heads, rows = Heads.of(node), len(inputs[0])
    query = inputs[0][:, : heads.query_columns].reshape(rows, heads.num_heads, heads.head_dim)
    group = heads.num_heads // heads.num_kv_heads
    key, value = (np.repeat(part, group, axis=1) for part in heads.split_kv(inputs[-1]))
    scores = np.einsum("qhd,khd->hqk", query, key) * node.real("scale")
    softcap, max_bias = node.real("softcap", 0.0), node.real("max_bias", 0.0)
    if softcap:
        scores = softcap * np.tanh(scores / softcap)
    if max_bias:
        distance = np.abs(np.subtract.outer(np.arange(rows), np.arange(rows)))
        scores -= alibi_slopes(heads.num_heads, max_bias)[:, None, None] * distance
    seen = visible(node, rows)
    if node.attributes.get("spans") and positions is not None:
        begins, ends, other = positions[0][:, None], positions[3][:, None], np.arange(rows)
        seen &= (begins <= other) & (other < ends)
    if node.attributes.get("sees_ahead") and positions is not None:
        query_at, key_at = np.indices(seen.shape)
        seen |= (key_at > query_at) & (key_at < positions[3][:, None])
    scores = np.where(seen, scores, -np.inf)
    sinks = weights[0][:, None, None] if weights else np.full((heads.num_heads, 1, 1), -np.inf)
    largest = np.maximum(scores.max(-1, keepdims=True), sinks)
    shares = np.exp(scores - largest)
    shares /= shares.sum(-1, keepdims=True) + np.exp(sinks - largest)
    mixed: Float64 = np.einsum("hqk,khd->qhd", shares, value)
    return mixed.reshape(rows, -1)


def _parameters(planner: Planner, node: Node) -> dict[str, Parameter]:
    """Return what kernels of both back ends are told."""
    heads, query = Heads.of(node), planner.graph.values[node.inputs[0]]
    whole = heads.query_columns + sum(heads.kv_columns)
    return {
        "scale": float_literal(node.real("scale")),
        **planner.q8_parameters(node.output),
        **heads.parameters(planner.kv),
        **given(node, OPTIONAL),
        **({} if query.columns == whole else {"query_stride": query.columns}),
        **({"sinks": True} if node.weights else {}),
    }


def _sinks(planner: Planner, node: Node) -> tuple[Argument, ...]:
    return (planner.tensor(node.weights, "f32"),) if node.weights else ()


def host(planner: HostPlanner, node: Node) -> None:
    """See `Operation`."""
    query, out = planner.value(node.inputs[0]), planner.value(node.output)
    heads, spans = Heads.of(node), -(-planner.max_seq_len // SPAN)
    records = _records(planner, host_record_floats(heads.num_heads, heads.value_dim, spans))
    arguments = (query, *planner.cache(node.integer("layer")), out, records, *_sinks(planner, node))
    planner.launch("attention", arguments, **_parameters(planner, node), **planner.row_parameters(node))


def host_record_floats(num_heads: int, value_dim: int, spans: int) -> int:
    """Return the size of the records of kernels/host/attention.h: counts, and what heads came to in each span."""
    counts, record = -(-HOST_SPLIT_TOKENS * num_heads // 16) * 16, 16 + -(-value_dim // 16) * 16
    return counts + HOST_SPLIT_TOKENS * num_heads * spans * record


def hip(planner: HipPlanner, node: Node) -> None:
    """See `Operation`."""
    heads, wave_size = Heads.of(node), planner.gpu.wave_size
    group = heads.num_heads // heads.num_kv_heads
    eighths = -(-heads.value_dim // 8)
    parts = -(-eighths // 32)  # PARTS of kernels/hip/attention.h
    # Rows of a wave: heads of one group, so that each key is loaded once for them; in tiles tokens beside them.
    most_rows = (8, 4) if parts == 1 else (2, 2)
    few_rows, many_rows = (max(n for n in range(1, most + 1) if group % n == 0) for most in most_rows)
    token_rows = most_rows[1] // many_rows
    split = MIN_SPLIT
    while split * MAX_SPLITS < planner.max_seq_len:
        split *= 2
    splits = -(-planner.max_seq_len // split)
    common: dict[str, Parameter] = {
        "split": split,
        "max_splits": splits,
        "wave_size": wave_size,
        **_parameters(planner, node),
    }
    qkv, out, sinks = planner.value(node.inputs[0]), planner.value(node.output), _sinks(planner, node)
    kv = planner.cache(node.integer("layer"))
    lanes = max(4, 1 << (-(-eighths // parts) - 1).bit_length())  # LANES of kernels/hip/attention.h
    records = _records(planner, SPLIT_TOKENS * heads.num_heads * splits * (8 * eighths + 4))
    few = GridEntry(wave_size, heads.num_heads // few_rows, "tokens", 1, split, 1, SPLIT_TOKENS)
    planner.launch("attention_split", (qkv, *kv, records), few, head_rows=few_rows, token_rows=1, **common)
    merge = GridEntry(64, -(-heads.num_heads * lanes // 64), "tokens", 1, 0, 1, SPLIT_TOKENS)
    planner.launch("attention_merge", (records, out, *sinks), merge, head_rows=1, token_rows=1, **common)
    x = heads.num_heads // many_rows
    many = GridEntry(4 * wave_size, x, "tokens", 4 * token_rows, 0, SPLIT_TOKENS + 1, MANY)
    arguments = (qkv, *kv, out, *sinks)
    planner.launch("attention_tiled", arguments, many, head_rows=many_rows, token_rows=token_rows, **common)


def _records(planner: Planner, elements: int) -> BufferRef:
    """Return the argument for the buffer between the parts of a split attention, the largest of all layers'."""
    name = "attention_records"
    largest = max([elements, *(buffer.elements_fixed for buffer in planner.buffers if buffer.name == name)])
    others = tuple(buffer for buffer in planner.buffers if buffer.name != name)
    planner.buffers = (*others, BufferEntry(name, "float32", 0, largest))
    return BufferRef(name)


def _writes_q8(graph: Graph, node: Node) -> bool:
    return Heads.of(node).value_dim % BLOCK_COLUMNS == 0


OPERATION = Operation(
    "attention",
    compute,
    host,
    hip,
    {**HEADS, "scale": float},
    optional={name: type(default) for name, default in OPTIONAL.items()},
    inputs=(1, 2),
    weights=(0, 1),
    writes_q8=_writes_q8,
)
