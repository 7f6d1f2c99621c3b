"""Small models of latent attention: the sizes, keys and tensors that they have in the stead of others' heads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from rocmforge.compiler.model_config import ModelConfig

NAMES = ("deepseek2", "deepseek32", "glm-dsa", "kimi-linear", "minicpm3", "mistral4")
HYPERPARAMETERS = ("num_kv_heads", "key_length", "value_length", "query_rank")
"""Of which `keys` says what they are."""
_RANK, _TAIL = 24, 6
Keys = Mapping[str, str | bool | int | float]


def sized(config: ModelConfig, keys: Keys) -> ModelConfig:
    """Return a configuration with the sizes of latent attention; `keys` may have another rank of queries, or 0."""
    query_rank = int(keys.get("attention.q_lora_rank", 0 if config.architecture == "kimi-linear" else 40))
    return replace(
        config, num_kv_heads=1, kv_rank=_RANK, query_rank=query_rank, value_dim=12, rope_dim=_TAIL, key_tail=_TAIL
    )


def is_expanded(name: str, keys: Keys) -> bool:
    """Return whether a file has keys and values made of the latent by one tensor."""
    return name == "minicpm3" or keys.get("attention.key_length_mla") == 0


def keys(config: ModelConfig, others: Keys) -> dict[str, str | bool | int | float]:
    """Return keys by name; files with absorbed weights have the sizes of what they cache."""
    own = {"key_length": config.head_dim, "value_length": config.value_dim}
    numbers = {"q_lora_rank": config.query_rank}
    if is_expanded(config.architecture, others):
        numbers |= {"head_count_kv": config.num_heads, **own}
    else:
        cached = config.kv_rank + config.key_tail
        numbers |= {"head_count_kv": 1, "key_length": cached, "value_length": config.kv_rank}
        numbers |= {f"{key}_mla": value for key, value in own.items()}
    if config.architecture not in ("kimi-linear", "minicpm3"):
        numbers["temperature_length"] = 8
    if "num_kv_heads" in config.by_layer:
        del numbers["head_count_kv"]  # it is of each layer
    return {f"attention.{key}": number for key, number in numbers.items()}


def tensors(
    config: ModelConfig, layer: int, sizes: Mapping[str, tuple[int, ...]], expanded: bool
) -> dict[str, tuple[int, ...]]:
    """Return shapes of a layer as files have them: all heads of queries in one matrix, and where `expanded` so those of
    keys and values."""
    found = dict(sizes)
    for query in (f"blk.{layer}.attn_q.weight", f"blk.{layer}.attn_q_b.weight"):
        if query in found:
            found[query] = (math.prod(found[query][:-1]), found[query][-1])
    if expanded:
        heads, _, own = found.pop(f"blk.{layer}.attn_k_b.weight")
        values = found.pop(f"blk.{layer}.attn_v_b.weight")[1]
        found[f"blk.{layer}.attn_kv_b.weight"] = (heads * (own + values), config.kv_rank)
    return found
