"""What the small models of `architecture_models` with experts have beside those without."""

from __future__ import annotations

from dataclasses import replace

import gguf

from rocmforge.compiler.model_config import Experts, ModelConfig
from rocmforge.compiler.models.architecture import Architecture

_EXPERTS = Experts(
    used=2,
    intermediate_size=32,
    shared_size=0,
    scoring="softmax",
    normalise=True,
    scale=1.0,
    groups=1,
    groups_used=1,
)
_NUM_EXPERTS = 8
_SHARED_SIZE = 64
_LATENT_SIZE = 32
_SHARERS_SIZE = 24
DENSE_TOO = ("granite", "granitehybrid", "granitemoe", "jamba", "llama", "minicpm", "mistral3")
"""Mixtures of which there are models without experts."""
_EXPERTS_AS_DENSE = ("granitehybrid", "jamba", "minimax-01", "nomic-bert-moe")
"""Mixtures whose files have one size for the inside of dense feed-forwards and of experts."""
_LEADING_DENSE = (
    *("afmoe", "bailingmoe", "bailingmoe2", "cohere2moe", "deepseek", "deepseek2", "dots1", "ernie4_5-moe"),
    *("deepseek32", "exaone-moe", "glm-dsa", "glm4moe", "hy_v3", "kimi-linear", "laguna", "lfm2moe", "minimax-m3"),
    "mistral4",
)
SHARED_GATED = ("qwen2moe", "qwen35moe", "qwen3next")
_SHARED = (*(one for one in _LEADING_DENSE if one != "lfm2moe"), "hunyuan-moe", "nemotron_h_moe", *SHARED_GATED)
CHOICE_BIASED = (
    *("afmoe", "bailingmoe2", "deepseek2", "dots1", "ernie4_5-moe", "exaone-moe", "glm4moe", "hy_v3", "lfm2moe"),
    *("deepseek32", "glm-dsa", "kimi-linear", "laguna", "minimax-m2", "minimax-m3", "nemotron_h_moe"),
)


def with_experts(config: ModelConfig) -> ModelConfig:
    """Return the sizes of a mixture: its experts, and which layers have them."""
    experts = replace(_EXPERTS, shared_size=_SHARED_SIZE if config.architecture in _SHARED else 0)
    if config.architecture in _EXPERTS_AS_DENSE:
        experts = replace(experts, intermediate_size=config.intermediate_size)
    if config.architecture == "nemotron_h_moe":
        experts = replace(experts, latent_size=_LATENT_SIZE)
    if config.architecture == "grovemoe":
        experts = replace(experts, used=3, sharers=2, sharers_size=_SHARERS_SIZE)
    leading = int(config.architecture in _LEADING_DENSE)
    layers = (0,) * leading + (_NUM_EXPERTS,) * (config.num_layers - leading)
    if config.architecture == "nomic-bert-moe":
        layers = tuple(_NUM_EXPERTS * (layer % 2) for layer in range(config.num_layers))
    return replace(config, num_experts=_NUM_EXPERTS, experts=experts, by_layer={"num_experts": layers})


def add_expert_keys(writer: gguf.GGUFWriter, row: Architecture, experts: Experts, num_layers: int) -> None:
    """Add what a mixture's file says of its experts."""
    numbers = {
        "expert_count": _NUM_EXPERTS,
        "expert_used_count": experts.used,
        "expert_feed_forward_length": experts.intermediate_size,
        "expert_shared_feed_forward_length": experts.shared_size,
        "expert_shared_count": experts.shared_size // experts.intermediate_size,
        "leading_dense_block_count": int(row.name in _LEADING_DENSE),
        "interleave_moe_layer_step": 1,
        **({"moe_latent_size": experts.latent_size} if experts.latent_size else {}),
        **({"experts_per_group": experts.sharers} if experts.sharers else {}),
        **({"expert_chunk_feed_forward_length": experts.sharers_size} if experts.sharers else {}),
    }
    for key, number in numbers.items():
        writer.add_uint32(f"{row.name}.{key}", number)
    assert row.mixture is not None
    if row.mixture.said:
        writer.add_uint32(row.key("expert_scoring"), 2)  # sigmoid
    if row.mixture.normalise is None:
        writer.add_bool(row.key("expert_normalise"), True)
        writer.add_float32(row.key("expert_scale"), 1.5)
    if experts.sharers:
        writer.add_float32(row.key("expert_neighbours_scale"), 0.6)
    if row.name == "nomic-bert-moe":
        writer.add_uint32("nomic-bert-moe.moe_every_n_layers", 2)
    if row.name == "maple":
        writer.add_array("maple.swiglu_clamp_exp", [1.5 + layer for layer in range(num_layers)])
