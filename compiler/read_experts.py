"""Stage, for mixtures: which layers have experts, how large these are, and how they are chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from .model_config import MAX_EXPERTS, MOST_USED, Experts, ModelConfig
from .model_source import ModelSource
from .models.architecture import Architecture

_SCORINGS: Mapping[int, str] = MappingProxyType({1: "softmax", 2: "sigmoid", 3: "chosen"})
"""By the number that files have for it. Source: llama.cpp 11434, `llama_expert_gating_func_type`."""


def with_experts(source: ModelSource, row: Architecture, config: ModelConfig) -> ModelConfig:
    """Return a configuration with the experts of its file, where it has some.

    Sizes are those of the tensors, as not all files say them; a layer without a router is dense.

    Raises:
        GgufError: the architecture has none, or what is said of them cannot be.
    """
    key = row.key("num_experts") if "num_experts" in row.keys else ""
    count = source.get_int(key, 0) if key else 0
    if not count or (row.mixture is None and count == 1):  # as dense Hunyuan's files have it
        return config
    if row.mixture is None:
        problem = f"expected a dense model, found a mixture of {count} experts, which is not supported"
        raise source.error(key, problem)
    count = source.get_int(key, minimum=1, maximum=MAX_EXPERTS)
    layers = tuple(
        count if row.tensor_name("expert_router", layer) in source.tensors else 0 for layer in range(config.num_layers)
    )
    if not any(layers):
        raise source.error(row.tensor_name("expert_router", 0), "expected a router of experts, found none in any layer")
    first = next(layer for layer, experts in enumerate(layers) if experts)
    experts = Experts(
        intermediate_size=_last_extent(source, row, "ffn_down_experts", first),
        shared_size=_last_extent(source, row, "ffn_down_shared", first),
        latent_size=_last_extent(source, row, "experts_out", first),
        **_choice(source, row, count),
        **_neighbours(source, row, count, first),
    )
    by_layer = {**config.by_layer, "num_experts": layers} if len(set(layers)) > 1 else config.by_layer
    return replace(config, num_experts=count, experts=experts, by_layer=by_layer)


def _last_extent(source: ModelSource, row: Architecture, role: str, layer: int) -> int:
    """Return the columns of a tensor; 0 where there is none, which is found later if it must be there."""
    tensor = source.tensors.get(row.tensor_name(role, layer)) if role in row.tensors else None
    return tensor.shape[-1] if tensor is not None else 0


def _neighbours(source: ModelSource, row: Architecture, count: int, layer: int) -> dict[str, Any]:
    """Return what is said of experts that several share: the fields of `Experts` about sharers."""
    if "expert_neighbours" not in row.keys:
        return {}
    key = row.key("expert_neighbours")
    sharers = source.get_int(key, minimum=1, maximum=count)
    if count % sharers or sharers > MOST_USED:
        raise source.error(key, f"expected a divisor of {count} up to {MOST_USED}, found {sharers}")
    return {
        "sharers": sharers,
        "sharers_size": _last_extent(source, row, "ffn_down_neighbours", layer),
        "sharers_scale": source.get_float(row.key("expert_neighbours_scale"), minimum=-1e6, maximum=1e6),
    }


def _choice(source: ModelSource, row: Architecture, count: int) -> dict[str, Any]:
    """Return how experts are chosen: the other fields of `Experts`."""
    assert row.mixture is not None
    scoring, key = row.mixture.scoring, row.key("expert_scoring")
    if row.mixture.said and (found := source.get_int(key, 0)):
        if found not in _SCORINGS:
            raise source.error(key, f"expected {', '.join(map(str, _SCORINGS))}, found {found}")
        scoring = _SCORINGS[found]
    normalise = row.mixture.normalise
    groups_key, used_key = row.key("expert_groups"), row.key("expert_groups_used")
    groups = max(source.get_int(groups_key, 1, 0, count), 1)
    groups_used = source.get_int(used_key, groups, 0, groups) or groups
    if groups > MOST_USED or count % groups or (groups > 1 and count // groups < 2):
        expected = f"expected at most {MOST_USED} groups of two and more of {count} experts"
        raise source.error(groups_key, f"{expected}, found {groups}")
    used = source.get_int(row.key("experts_used"), minimum=1, maximum=min(count, MOST_USED))
    if groups_used * (count // groups) < used:
        raise source.error(used_key, f"expected groups with {used} experts to choose, found {groups_used} groups")
    return {
        "used": used,
        "scoring": scoring,
        "normalise": source.get_bool(row.key("expert_normalise"), False) if normalise is None else normalise,
        "scale": source.get_float(row.key("expert_scale"), 0.0, -1e6, 1e6) or 1.0,
        "groups": groups,
        "groups_used": groups_used,
    }
