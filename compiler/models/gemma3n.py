"""Gemma 3n: four residual streams, of which a layer computes one and predicts and corrects the others (AltUp); a
low-rank branch beside attention (Laurel); embeddings of each layer's own; gates of which the largest alone take part.

Source: llama.cpp 11434, `src/models/gemma3n.cpp`; names of keys from published files. What layers have of their own
embeddings, and whose keys and values they read, is as in Gemma 4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from ..arrays import is_array
from ..graph import LOGITS, Graph, Weight
from ..graph_builder import GraphBuilder
from ..model_config import LayerConfig, ModelConfig
from ..model_source import ModelSource
from . import gemma4
from .architecture import Architecture, Shapes, Windows
from .decoder_names import FURTHER_KEYS, FUSED, KEYS, TENSORS

_STREAMS: Final = 4
_OTHERS: Final = tuple(range(1, _STREAMS))
_LEAST: Final = 1e-5  # mean square that a stream is taken to have at least, where it is scaled
_OWN_KEYS: Final = 20  # layers with keys of their own, where the file does not say
_SPARSE: Final = 10  # layers whose gates are cut where the file does not say
_DEVIATIONS: Final = 1.6448533535003662  # above which 5 % of a normal distribution lie
_KEYS: Mapping[str, str] = MappingProxyType(
    {
        **KEYS,
        **{name: FURTHER_KEYS[name] for name in ("logit_softcap", "window", "window_pattern", "rope_theta_windowed")},
        "per_layer_size": "embedding_length_per_layer_input",
        "shared_layers": "attention.shared_kv_layers",
        "sparsity": "activation_sparsity_scale",
        "streams": "altup.num_inputs",
        "active": "altup.active_idx",
    }
)
_ROLES: Final = (
    *("token_embedding", "output_norm", "output", "attention_norm", "attention_q", "attention_k", "attention_v"),
    *("attention_q_norm", "attention_k_norm", "attention_output", "attention_post_norm", "ffn_norm", "ffn_gate"),
    *("ffn_up", "ffn_down", "ffn_post_norm"),
)
_TENSORS: Mapping[str, str] = MappingProxyType(
    {
        **{role: TENSORS[role] for role in _ROLES},
        **gemma4.PER_LAYER,
        **{f"altup_in_{number}": f"altup_proj.{number}.weight" for number in _OTHERS},
        **{f"altup_out_{number}": f"altup_unembd_proj.{number}.weight" for number in _OTHERS},
        "altup_router": "blk.{layer}.altup_router.weight",
        "altup_router_norm": "blk.{layer}.altup_router_norm.weight",
        "altup_predict": "blk.{layer}.altup_predict_coef.weight",
        "altup_correct": "blk.{layer}.altup_correct_coef.weight",
        "altup_gain": "blk.{layer}.altup_correct_scale.weight",
        "laurel_left": "blk.{layer}.laurel_l.weight",
        "laurel_right": "blk.{layer}.laurel_r.weight",
        "laurel_post_norm": "blk.{layer}.laurel_post_norm.weight",
    }
)


def refine(source: ModelSource, config: ModelConfig) -> ModelConfig:
    """Return a configuration whose last layers have no keys of their own.

    Raises:
        InputError: streams other than the published files have, or layers that would share keys of others.
    """
    key = ARCHITECTURES[0].key
    for name, expected in (("streams", _STREAMS), ("active", 0)):
        found = source.get_int(key(name), expected)
        if found != expected:
            raise source.error(key(name), f"expected {expected}, found {found}")
    default = max(config.num_layers - _OWN_KEYS, 0)
    shared = source.get_int(key("shared_layers"), default, 0, max(config.num_layers - 2, 0))
    gemma4.check_shared(source, key("shared_layers"), config, shared)
    own = config.num_layers - shared
    kv_heads = tuple(config.layer(number).num_kv_heads * (number < own) for number in range(config.num_layers))
    return replace(
        config,
        embedding_scale=config.hidden_size**0.5,
        attention_scale=1.0,
        per_layer_size=source.get_int(key("per_layer_size"), None, 1, 1 << 16),
        laurel_rank=source.tensor(_TENSORS["laurel_left"].replace("{layer}", "0")).shape[0],
        sparsity=_sparsity(source, key("sparsity"), config.num_layers),
        by_layer={**config.by_layer, "num_kv_heads": kv_heads},
    )


def _sparsity(source: ModelSource, key: str, num_layers: int) -> tuple[float, ...]:
    """Return by how many standard deviations gates of each layer are cut; minus infinity: they are not."""
    value = source.metadata.get(key)
    if value is None:
        return tuple(_DEVIATIONS if number < _SPARSE else -math.inf for number in range(num_layers))
    if not is_array(value) or value.dtype.kind != "f" or len(value) < num_layers:
        raise source.error(key, f"expected a number for each of {num_layers} layers, found others")
    found = tuple(float(one) for one in value[:num_layers])
    for one in found:
        if not one <= 100:  # nor a NaN
            raise source.error(key, f"expected standard deviations of at most 100, found {one}")
    return found


def shapes(config: ModelConfig, layer: LayerConfig) -> Shapes:
    """See `Architecture`."""
    hidden, rank = config.hidden_size, config.laurel_rank
    square = (hidden, hidden)
    return {
        **gemma4.shapes(config, layer),
        **{f"altup_{way}_{number}": square for way in ("in", "out") for number in _OTHERS},
        "altup_router": (_STREAMS, hidden),
        "altup_router_norm": (hidden,),
        "altup_predict": (_STREAMS * _STREAMS, _STREAMS),
        "altup_correct": (_STREAMS, _STREAMS),
        "altup_gain": (hidden,),
        "laurel_left": (rank, hidden),
        "laurel_right": (hidden, rank),
        "laurel_post_norm": (hidden,),
    }


def graph(config: ModelConfig, weights: Mapping[str, Weight]) -> Graph:
    """See `Architecture`."""
    g, epsilon = GraphBuilder(weights), config.norm_epsilon
    embedded = g.embed("embedded", "token_embedding", config.embedding_scale)
    inputs = gemma4.per_layer_inputs(g, config, embedded)
    others = g.linear("altup_in", embedded, *(f"altup_in_{number}" for number in _OTHERS))
    streams = g.magnitude("streams", others, embedded, _LEAST, joined=True)
    rotated: dict[int, str] = {}
    for number in range(config.num_layers):
        layer = g.layer(number)
        active = layer.columns_of("active", streams, 0, config.hidden_size)
        coefficients = layer.linear("predict_by", _router(layer, config, "before", active), "altup_predict")
        predicted = layer.altup("predicted", "predict", streams, coefficients, count=_STREAMS)
        active = layer.columns_of("predicted_active", predicted, 0, config.hidden_size)
        computed = _computed(layer, config, number, active, rotated)
        coefficients = layer.linear("correct_by", _router(layer, config, "behind", computed), "altup_correct")
        corrected = layer.altup("corrected", "correct", predicted, computed, coefficients, count=_STREAMS)
        first = layer.columns_of("corrected_active", corrected, 0, config.hidden_size)
        first = layer.scale_by("gained", first, "altup_gain")
        further = gemma4.per_layer(layer, config, number, first, inputs)
        streams = layer.altup("streams", "spread", corrected, further, count=_STREAMS)
    normed = g.norm("final_normed", _merged(g, config, streams), "output_norm", epsilon, LOGITS)
    logits = g.linear("logits", normed, "token_embedding" if config.tie_word_embeddings else "output")
    g.sample("sampled", g.logits_map("mapped_logits", logits, 1.0, config.logit_softcap))
    return g.graph()


def _router(g: GraphBuilder, config: ModelConfig, when: str, active: str) -> str:
    """Append what coefficients are made of, from the active stream before or behind the layer."""
    normed = g.norm(f"router_normed_{when}", active, "altup_router_norm", config.norm_epsilon)
    routed = g.linear(f"routed_{when}", normed, "altup_router", scale=1 / config.hidden_size)
    return g.activate(f"router_{when}", routed, "tanh")


def _computed(g: GraphBuilder, config: ModelConfig, number: int, active: str, rotated: dict[int, str]) -> str:
    """Append what attention, the low-rank branch and the feed-forward make of the active stream."""
    epsilon = config.norm_epsilon
    normed = g.norm("attention_normed", active, "attention_norm", epsilon)
    laurel = g.linear("laurel", g.linear("laurel_in", normed, "laurel_left"), "laurel_right")
    laurel = g.add("laurel_residual", normed, g.norm("laurel_normed", laurel, "laurel_post_norm", epsilon))
    out = g.linear("attention_out", gemma4.attended(g, config, number, normed, rotated), "attention_output")
    out = g.add("attention_residual", active, g.norm("post_normed", out, "attention_post_norm", epsilon))
    both = g.scaled("attention_laurel", g.add("attention_laurel_sum", out, laurel), 2**-0.5)
    normed = g.norm("ffn_normed", both, "ffn_norm", epsilon)
    deviations = config.sparsity[number]
    if math.isinf(deviations):
        gated = g.gate("activated", g.linear("gate_up", normed, "ffn_gate", "ffn_up"), "gelu")
    else:
        gate = g.gaussian_cut("cut", g.linear("gate", normed, "ffn_gate"), deviations)
        gated = g.mul("activated", g.activate("gate_activated", gate, "gelu"), g.linear("up", normed, "ffn_up"))
    out = g.norm("ffn_post_normed", g.linear("ffn_out", gated, "ffn_down"), "ffn_post_norm", epsilon)
    return g.add("ffn_residual", both, out)


def _merged(g: GraphBuilder, config: ModelConfig, streams: str) -> str:
    """Append the mean of the streams, each of the first's magnitude."""
    size = config.hidden_size
    first = merged = g.columns_of("last_active", streams, 0, size)
    for number in _OTHERS:
        stream = g.columns_of(f"stream_{number}", streams, number * size, size)
        out = g.linear(f"altup_out_{number}", stream, f"altup_out_{number}")
        merged = g.add(f"merged_{number}", merged, g.magnitude(f"scaled_{number}", out, first, _LEAST))
    return g.scaled("merged", merged, 1 / _STREAMS)


ARCHITECTURES = (
    Architecture(
        "gemma3n",
        "half",
        _KEYS,
        _TENSORS,
        shapes,
        graph,
        fused={
            "blk.{layer}.attn_qkv": FUSED["blk.{layer}.attn_qkv"],
            "altup_proj": tuple(f"altup_in_{number}" for number in _OTHERS),
            "altup_unembd_proj": tuple(f"altup_out_{number}" for number in _OTHERS),
        },
        defaults={"logit_softcap": 30.0},
        windows=Windows(5, theta=10000.0, scaled=False),
        refine=refine,
    ),
)
"""The family's members."""
