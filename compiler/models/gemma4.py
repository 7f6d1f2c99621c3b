"""Gemma 4: layers unlike in heads, some of which read another's keys and values, and an embedding of each layer's own.

Its mixtures have experts beside the feed-forward, each with norms of their own, and a router that reads the residual
stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from ..graph import LOGITS, Attribute, Graph, Weight
from ..graph_builder import GraphBuilder
from ..model_config import LayerConfig, ModelConfig
from ..model_source import ModelSource
from ..position_tables import RopeScaling, RopeTable
from .architecture import Architecture, Mixture, Shapes, Windows
from .decoder import embedded_rows
from .decoder_names import FURTHER_KEYS, FUSED, KEYS, TENSORS
from .experts import expert_feed_forward, expert_shapes

_WINDOWED: Final = "rope_table_windowed"
PER_LAYER: Mapping[str, str] = MappingProxyType(
    {
        "per_layer_embedding": "per_layer_token_embd.weight",
        "per_layer_model": "per_layer_model_proj.weight",
        "per_layer_norm": "per_layer_proj_norm.weight",
        "per_layer_gate": "blk.{layer}.inp_gate.weight",
        "per_layer_projection": "blk.{layer}.proj.weight",
        "per_layer_post_norm": "blk.{layer}.post_norm.weight",
    }
)
_ROLES: Final = (
    *("token_embedding", "output_norm", "output", "rope_factors", "attention_norm", "attention_q", "attention_k"),
    *("attention_v", "attention_q_norm", "attention_k_norm", "attention_output", "attention_post_norm", "ffn_norm"),
    *("ffn_gate", "ffn_up", "ffn_down", "ffn_post_norm"),
    *("expert_router", "ffn_gate_experts", "ffn_up_experts", "ffn_down_experts"),
)
_OF_EXPERTS: Mapping[str, str] = MappingProxyType(
    {
        "router_factors": "blk.{layer}.ffn_gate_inp.scale",
        "dense_post_norm": "blk.{layer}.post_ffw_norm_1.weight",
        "experts_norm": "blk.{layer}.pre_ffw_norm_2.weight",
        "experts_post_norm": "blk.{layer}.post_ffw_norm_2.weight",
    }
)
_TENSORS: Mapping[str, str] = MappingProxyType(
    {
        **{role: TENSORS[role] for role in _ROLES},
        **PER_LAYER,
        **_OF_EXPERTS,
        "layer_scale": "blk.{layer}.layer_output_scale.weight",
    }
)
_KEYS: Mapping[str, str] = MappingProxyType(
    {
        **KEYS,
        **{name: FURTHER_KEYS[name] for name in ("logit_softcap", "window", "window_pattern", "rope_theta_windowed")},
        "per_layer_size": "embedding_length_per_layer_input",
        "shared_layers": "attention.shared_kv_layers",
        "key_length_windowed": "attention.key_length_swa",
        "rope_dim_windowed": "rope.dimension_count_swa",
    }
)


def refine(source: ModelSource, config: ModelConfig) -> ModelConfig:
    """Return a configuration with heads by layer: of those with a window, and without keys where another's are read."""
    key = ARCHITECTURES[0].key
    windowed = [bool(config.layer(number).window) for number in range(config.num_layers)]
    size = source.get_int(key("key_length_windowed"), config.head_dim, 2, config.head_dim)
    rope_dim = source.get_int(key("rope_dim_windowed"), min(size, config.rope_dim), 2, size)
    shared = source.get_int(key("shared_layers"), 0, 0, config.num_layers - 2)
    check_shared(source, key("shared_layers"), config, shared)
    own = config.num_layers - shared
    theta = source.get_float(key("rope_theta_windowed"), config.rope_theta, 1, 1e15)
    kv_heads = [config.layer(number).num_kv_heads * (number < own) for number in range(config.num_layers)]
    of_layers: dict[str, tuple[int | str, ...]] = {
        "head_dim": tuple(size if one else config.head_dim for one in windowed),
        "rope_dim": tuple(rope_dim if one else config.rope_dim for one in windowed),
        "rope_table": tuple(_WINDOWED if one else "rope_table" for one in windowed),
        "num_kv_heads": tuple(kv_heads),
    }
    return replace(
        config,
        embedding_scale=config.hidden_size**0.5,
        attention_scale=1.0,
        per_layer_size=source.get_int(key("per_layer_size"), 0, 0, 1 << 16),
        by_layer={**config.by_layer, **of_layers},
        further_tables={**config.further_tables, _WINDOWED: RopeTable(theta, rope_dim, RopeScaling())},
    )


def check_shared(source: ModelSource, key: str, config: ModelConfig, shared: int) -> None:
    """Check that before the `shared` last layers, which read another's keys, stands one of either kind.

    Raises:
        InputError: there does not.
    """
    own = config.num_layers - shared
    windowed = [bool(config.layer(number).window) for number in range(max(own - 2, 0), own)]
    if shared and windowed != [True, False]:
        expected = "expected before them a layer with a window, then one without"
        raise source.error(key, f"{expected}, found other layers before {shared} shared ones")


def shapes(config: ModelConfig, layer: LayerConfig) -> Shapes:
    """See `Architecture`; a layer without keys of its own reads another's."""
    hidden, inner, per_layer = config.hidden_size, layer.intermediate_size, config.per_layer_size
    query, key = layer.num_heads * layer.head_dim, layer.num_kv_heads * layer.head_dim
    norms = ("output_norm", "attention_norm", "attention_post_norm", "ffn_norm", "ffn_post_norm")
    found: dict[str, tuple[int, ...]] = {
        **dict.fromkeys(norms, (hidden,)),
        "token_embedding": (config.vocab_size, hidden),
        "attention_q": (query, hidden),
        "attention_q_norm": (layer.head_dim,),
        "attention_output": (hidden, query),
        "ffn_gate": (inner, hidden),
        "ffn_up": (inner, hidden),
        "ffn_down": (hidden, inner),
        "layer_scale": (1,),
    }
    if not config.tie_word_embeddings:
        found["output"] = (config.vocab_size, hidden)
    if config.rope_scaling.kind == "factors":
        found["rope_factors"] = (config.rope_dim // 2,)
    if key:
        found |= {"attention_k": (key, hidden), "attention_v": (key, hidden), "attention_k_norm": (layer.head_dim,)}
    if layer.num_experts:
        found |= {**expert_shapes(config, layer), **dict.fromkeys(_OF_EXPERTS, (hidden,))}
    if per_layer:
        all_layers = per_layer * config.num_layers
        found |= {
            "per_layer_embedding": (config.vocab_size, all_layers),
            "per_layer_model": (all_layers, hidden),
            "per_layer_norm": (per_layer,),
            "per_layer_gate": (per_layer, hidden),
            "per_layer_projection": (hidden, per_layer),
            "per_layer_post_norm": (hidden,),
        }
    return found


def graph(config: ModelConfig, weights: Mapping[str, Weight]) -> Graph:
    """See `Architecture`."""
    g, epsilon = GraphBuilder(weights), config.norm_epsilon
    hidden = embedded_rows(g, config)
    inputs = per_layer_inputs(g, config, hidden) if config.per_layer_size else ""
    rotated: dict[int, str] = {}
    for number in range(config.num_layers):
        layer = g.layer(number)
        normed = layer.norm("attention_normed", hidden, "attention_norm", epsilon)
        out = layer.linear("attention_out", attended(layer, config, number, normed, rotated), "attention_output")
        hidden = layer.add("attention_residual", hidden, layer.norm("post_normed", out, "attention_post_norm", epsilon))
        out = layer.norm("ffn_post_normed", feed_forward(layer, config, hidden), "ffn_post_norm", epsilon)
        hidden = layer.add("ffn_residual", hidden, out)
        if inputs:
            hidden = layer.add("per_layer_residual", hidden, per_layer(layer, config, number, hidden, inputs))
        if layer.has("layer_scale"):
            hidden = layer.scale_by("layer_scaled", hidden, "layer_scale")
    normed = g.norm("final_normed", hidden, "output_norm", epsilon, LOGITS)
    logits = g.linear("logits", normed, "token_embedding" if config.tie_word_embeddings else "output")
    if config.logit_softcap:
        logits = g.logits_map("mapped_logits", logits, 1.0, config.logit_softcap)
    g.sample("sampled", logits)
    return g.graph()


def feed_forward(g: GraphBuilder, config: ModelConfig, hidden: str) -> str:
    """Append the feed-forward of a layer, and where it has experts theirs beside it."""
    epsilon = config.norm_epsilon
    normed = g.norm("ffn_normed", hidden, "ffn_norm", epsilon)
    gated = g.gate("activated", g.linear("gate_up", normed, "ffn_gate", "ffn_up"), "gelu")
    dense = g.linear("ffn_out", gated, "ffn_down")
    if not g.has("expert_router"):
        return dense
    seen = g.scale_by("router_in", g.norm("router_normed", hidden, "", epsilon), "router_factors")
    source = g.norm("experts_normed", hidden, "experts_norm", epsilon)
    scale = config.hidden_size**-0.5
    found = expert_feed_forward(g, config, source, "gelu", routed_by=seen, router_scale=scale)
    found = g.norm("experts_post_normed", found, "experts_post_norm", epsilon)
    return g.add("dense_and_experts", g.norm("dense_post_normed", dense, "dense_post_norm", epsilon), found)


def per_layer_inputs(g: GraphBuilder, config: ModelConfig, embedded: str) -> str:
    """Append what each layer is given of a token beside the residual stream, for all layers side by side."""
    size = config.per_layer_size
    own = g.embed("per_layer_embedded", "per_layer_embedding", size**0.5)
    seen = g.linear("per_layer_model", embedded, "per_layer_model", scale=config.hidden_size**-0.5)
    normed = g.norm("per_layer_normed", seen, "per_layer_norm", config.norm_epsilon, group=size)
    return g.scaled("per_layer_inputs", g.add("per_layer_sum", normed, own), 2**-0.5)


def per_layer(g: GraphBuilder, config: ModelConfig, number: int, hidden: str, inputs: str) -> str:
    """Append what a layer makes of its own inputs."""
    gate = g.activate("per_layer_gate", g.linear("per_layer_gate_in", hidden, "per_layer_gate"), "gelu")
    gated = g.mul("per_layer_gated", gate, inputs, number * config.per_layer_size)
    out = g.linear("per_layer_out", gated, "per_layer_projection")
    return g.norm("per_layer_post_normed", out, "per_layer_post_norm", config.norm_epsilon)


def attended(g: GraphBuilder, config: ModelConfig, number: int, normed: str, rotated: dict[int, str]) -> str:
    """Append attention; to `rotated`, queries, keys and values by layer, are added this layer's."""
    has = config.layer(number)
    heads: dict[str, Attribute] = {"num_heads": has.num_heads, "head_dim": has.head_dim}
    roles: tuple[str, ...] = ("attention_q",)
    norms: tuple[str, ...] = ("attention_q_norm",)
    if has.num_kv_heads:
        roles += ("attention_k", "attention_v" if g.has("attention_v") else "attention_k")
        norms += ("attention_k_norm",)
    rotated[number] = g.rope_kv(
        "rotated_qkv",
        g.linear("qkv", normed, *roles),
        norms,
        has.rope_table,
        layer=number,
        num_kv_heads=has.num_kv_heads,
        rope_dim=has.rope_dim,
        interleaved=False,
        epsilon=config.norm_epsilon,
        **({"value_norm": True} if has.num_kv_heads else {}),
        **heads,
    )
    windows: dict[str, Attribute] = {"window": has.window} if has.window else {}
    if has.window and config.sees_ahead:  # layers that see all positions see none behind a token's own
        windows["sees_ahead"] = True
    giver = number
    while not config.layer(giver).num_kv_heads or config.layer(giver).window != has.window:
        giver -= 1
    return g.attention(
        "attended",
        rotated[number],
        has.num_heads * has.head_dim,
        rotated[giver] if giver != number else "",
        layer=giver,
        num_kv_heads=config.layer(giver).num_kv_heads,
        scale=config.attention_scale,
        **windows,
        **heads,
    )


ARCHITECTURES = (
    Architecture(
        "gemma4",
        "half",
        _KEYS,
        _TENSORS,
        shapes,
        graph,
        optional=frozenset({"rope_factors", "attention_v", "layer_scale"}),
        fused={base: FUSED[base] for base in ("blk.{layer}.attn_qkv", "blk.{layer}.ffn_gate_up_exps")},
        windows=Windows(0),
        mixture=Mixture(),
        refine=refine,
    ),
)
"""The family's members."""
