"""Lowers a graph to a target's plan: each node lowered by its operation."""

from __future__ import annotations

from ..artifacts.errors import UsageError
from ..artifacts.layout import KV_GROUP, KvCache, KvLayout
from . import lower_hip, lower_host
from .buffers import assign_buffers
from .graph import Graph
from .lower_hip import HipPlanner
from .lower_host import HostPlanner
from .operations import OPERATIONS
from .ops.heads import Heads
from .passes import quantize_by_superblocks
from .plan import Plan
from .target import Target
from .tuning import DEFAULT_TUNING, Tuning


def make_plan(
    graph: Graph, target: Target, max_seq_len: int, tuning: Tuning = DEFAULT_TUNING, kv_dtype: str = "f16"
) -> Plan:
    """Lower a graph that has been through all passes.

    Args:
        graph: verified.
        target: a row of the target table.
        max_seq_len: positions of a sequence.
        tuning: of GPU kernels.
        kv_dtype: of the KV cache, one of `KV_DTYPES`.

    Raises:
        UsageError: the target has no kernels for a shape of the model, or cannot be tuned like that.
    """
    kv = kv_layout(graph, target, kv_dtype)
    if target.backend == "hip":
        buffers = assign_buffers(graph, target, lower_hip.Q8_BLOCKS)
        gpu = HipPlanner(graph, target, buffers, kv, max_seq_len, tuning)
        for node in graph.nodes:
            OPERATIONS[node.op].hip(gpu, node)
        return gpu.finish()
    graph = quantize_by_superblocks(graph)
    host = HostPlanner(graph, target, assign_buffers(graph, target, lower_host.Q8_BLOCKS), kv, max_seq_len)
    first = _first_of_outputs(graph)
    for index, node in enumerate(graph.nodes):
        host.of_outputs = index >= first
        OPERATIONS[node.op].host(host, node)
    return host.finish()


def _first_of_outputs(graph: Graph) -> int:
    """Return the index of the first node from which on nothing that is made of a token is read for another, or later.

    Attention reads a row of its own token, and the cache: so that is what follows the last keys and values, or whatever
    else other tokens or later steps need of all.
    """
    first = 0
    for index, node in enumerate(graph.nodes):
        operation = OPERATIONS[node.op]
        writes_kv = operation.writes_kv and node.integer("num_kv_heads") > 0
        if operation.has_state or operation.mixes_tokens or writes_kv:
            first = index + 1
    return first


def kv_layout(graph: Graph, target: Target, kv_dtype: str) -> KvLayout:
    """Return the shape of the KV cache that the nodes of a graph write to: a cache for each layer that they name.

    Raises:
        UsageError: the model's heads have no cache of that type.
    """
    caches: dict[int, KvCache] = {}
    for node in graph.nodes:
        heads = Heads.of(node) if OPERATIONS[node.op].writes_kv else None
        if heads is not None and heads.num_kv_heads:
            cache = _cache(heads, target, kv_dtype)
            assert caches.setdefault(node.integer("layer"), cache) == cache, "nodes of one cache have heads alike"
    return KvLayout.of(list(caches.values()), target.kv_block_size, kv_dtype)


def _cache(heads: Heads, target: Target, kv_dtype: str) -> KvCache:
    """Return the cache of a layer; its heads are filled up as the kernels have them."""
    multiple = 16 if target.backend == "host" else 8  # kv_blocks.h of each
    for size in (heads.head_dim, heads.value_dim):
        if kv_dtype == "q8_0" and size % KV_GROUP:
            found = f"found heads of {size}"
            raise UsageError(f"--kv-type q8_0: expected heads of a multiple of {KV_GROUP} elements, {found}")
    key, value = (-(-size // multiple) * multiple for size in (heads.head_dim, heads.value_dim))
    return KvCache(heads.num_kv_heads, key, 0 if heads.values_in_keys else value)
