"""What config.json says of models that are more than a row of names: recurrent state, latent attention."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from ...artifacts.errors import printable
from .gguf_names import GgufNames
from .json_file import JsonObject
from .recurrent import MAX_HEADS, delta_sizes

_MAX_SIZE: Final = 1 << 20
_MAX_LAYERS: Final = 1024
ATTENTION: Final = ("attention", "full_attention")
"""What `layer_types` has of layers with attention over all positions."""
_SECTIONS: Final = (11, 11, 10)
_INFINITY: Final = {"__float__": "Infinity"}  # as newer folders write it
_SCORING: Final = {"softmax": 1, "sigmoid": 2}


def short_convolutions(config: JsonObject, gguf: GgufNames) -> None:
    """LFM2: which layers have a convolution instead of attention, and the width that their feed-forwards have.

    Source: `transformers`, Lfm2Config.
    """
    _attending(config, gguf, "conv", "full_attention")
    name = "block_ff_dim" if config.has("block_ff_dim") else "intermediate_size"
    width = config.integer(name, None, 1, _MAX_SIZE)
    if config.boolean("block_auto_adjust_ff_dim", True):
        width = int(config.number("block_ffn_dim_multiplier", 1.0, 1e-3, 1e3) * int(2 * width / 3))
        multiple = config.integer("block_multiple_of", 256, 1, _MAX_SIZE)
        width = -(-width // multiple) * multiple
    gguf.put("feed_forward_length", width, name)


def sparse_convolutions(config: JsonObject, gguf: GgufNames) -> None:
    """LFM2's mixtures: which layers have a convolution, and how experts are chosen.

    Source: `transformers`, Lfm2MoeConfig.
    """
    _attending(config, gguf, "conv", "full_attention")
    gguf.put("expert_gating_func", _SCORING["sigmoid"], "use_expert_bias")


def delta_net(config: JsonObject, gguf: GgufNames) -> None:
    """Qwen3-Next and Qwen3.5: which layers have a delta net, and the sizes of its heads.

    Source: `transformers`, Qwen3NextConfig and Qwen3_5TextConfig.
    """
    keys, values, size, value_size = delta_sizes(config)
    gguf.put("ssm.conv_kernel", config.integer("linear_conv_kernel_dim", 4, 2, _MAX_SIZE), "linear_conv_kernel_dim")
    gguf.put("ssm.state_size", size, "linear_key_head_dim")
    gguf.put("ssm.group_count", keys, "linear_num_key_heads")
    gguf.put("ssm.time_step_rank", values, "linear_num_value_heads")
    gguf.put("ssm.inner_size", values * value_size, "linear_value_head_dim")
    every = config.integer("full_attention_interval", 4, 1, _MAX_LAYERS)
    gguf.put("full_attention_interval", every, "full_attention_interval")
    if config.has("layer_types"):
        kinds = _kinds(config, "linear_attention", "full_attention")
        recurrent = np.array([kind == "linear_attention" for kind in kinds])
        gguf.put("attention.recurrent_layers", recurrent, "layer_types")
    if gguf.architecture != "qwen3next":
        rope = config.part("rope_parameters" if config.has("rope_parameters") else "rope_scaling")
        sections = rope.numbers("mrope_section", 0, _MAX_SIZE) if rope.has("mrope_section") else _SECTIONS
        of_pairs = np.array([*sections, *[0] * (4 - len(sections))], np.int32)
        gguf.put("rope.dimension_sections", of_pairs, "rope_parameters.mrope_section")


def granite_hybrid(config: JsonObject, gguf: GgufNames) -> None:
    """Granite 4: which layers have Mamba 2's state, its sizes, and whether the others rotate.

    Source: `transformers`, GraniteMoeHybridConfig.
    """
    _attending(config, gguf, "mamba", "attention", "linear_attention", "full_attention")
    hidden = config.integer("hidden_size", None, 1, _MAX_SIZE)
    heads = config.integer("mamba_n_heads", 128, 1, MAX_HEADS)
    gguf.put("ssm.conv_kernel", config.integer("mamba_d_conv", 4, 2, _MAX_SIZE), "mamba_d_conv")
    gguf.put("ssm.state_size", config.integer("mamba_d_state", 256, 1, _MAX_SIZE), "mamba_d_state")
    gguf.put("ssm.group_count", config.integer("mamba_n_groups", 1, 1, MAX_HEADS), "mamba_n_groups")
    gguf.put("ssm.inner_size", config.integer("mamba_expand", 2, 1, 64) * hidden, "mamba_expand")
    gguf.put("ssm.time_step_rank", heads, "mamba_n_heads")
    rotates = config.text("position_embedding_type", "nope") == "rope"
    gguf.put("rope.scaling.finetuned", rotates, "position_embedding_type")
    if config.values.get("time_step_limit") not in (None, [0.0, math.inf], [0.0, _INFINITY]):
        raise config.error("time_step_limit", "expected none, or 0 and infinity, found others, not supported")
    experts = config.integer("num_local_experts", 8, 0, _MAX_SIZE)
    for name, suffix in (("num_local_experts", "expert_count"), ("num_experts_per_tok", "expert_used_count")):
        if experts:
            gguf.put(suffix, config.integer(name, None, 0, _MAX_SIZE), name)
    shared = config.integer("shared_intermediate_size", 1024, 0, _MAX_SIZE)
    gguf.put("expert_shared_feed_forward_length", shared, "shared_intermediate_size")
    if not experts:
        gguf.put("feed_forward_length", shared, "shared_intermediate_size")


def _kinds(config: JsonObject, *known: str) -> list[str]:
    """Return what `layer_types` says of each layer."""
    layers, kinds = config.integer("num_hidden_layers", None, 1, _MAX_LAYERS), config.values.get("layer_types")
    if kinds is None:
        raise config.error("layer_types", "expected the kind of each layer, found nothing")
    if not isinstance(kinds, list) or len(kinds) != layers or any(kind not in known for kind in kinds):
        raise config.error("layer_types", f"expected {' or '.join(known)} for each of {layers} layers, found others")
    return kinds


def _attending(config: JsonObject, gguf: GgufNames, *kinds: str) -> None:
    """Say the heads of keys of each layer: none where it has something else than attention."""
    if not config.has("layer_types") and isinstance(attending := config.values.get("full_attn_idxs"), list):
        layers = config.integer("num_hidden_layers", None, 1, _MAX_LAYERS)
        has_attention = [layer in attending for layer in range(layers)]
    else:
        has_attention = [kind in ATTENTION for kind in _kinds(config, *kinds)]
    heads = config.integer("num_attention_heads", None, 1, _MAX_SIZE)
    shared = config.integer("num_key_value_heads", heads, 1, _MAX_SIZE)
    of_layers = np.array([shared if has else 0 for has in has_attention], np.int32)
    gguf.put("attention.head_count_kv", of_layers, "layer_types")


def latent_attention(config: JsonObject, gguf: GgufNames) -> None:
    """DeepSeek V2 and V3: keys and values of a latent, as GGUF's files of today have them, and experts in groups.

    Source: `transformers`, DeepseekV2Config and DeepseekV3Config.
    """
    rank = config.integer("kv_lora_rank", None, 1, _MAX_SIZE)
    turning = config.integer("qk_rope_head_dim", None, 2, _MAX_SIZE)
    still = config.integer("qk_nope_head_dim", None, 1, _MAX_SIZE)
    gguf.put("attention.head_count_kv", 1, "num_key_value_heads")
    gguf.put("attention.kv_lora_rank", rank, "kv_lora_rank")
    if config.has("q_lora_rank"):
        gguf.put("attention.q_lora_rank", config.integer("q_lora_rank", None, 1, _MAX_SIZE), "q_lora_rank")
    gguf.put("attention.key_length", rank + turning, "kv_lora_rank")
    gguf.put("attention.value_length", rank, "kv_lora_rank")
    gguf.put("attention.key_length_mla", still + turning, "qk_nope_head_dim")
    gguf.put("attention.value_length_mla", config.integer("v_head_dim", None, 1, _MAX_SIZE), "v_head_dim")
    scoring = config.text("scoring_func", "softmax")
    if scoring not in _SCORING:
        raise config.error("scoring_func", f"expected softmax or sigmoid, found {printable(scoring)}")
    gguf.put("expert_gating_func", _SCORING[scoring], "scoring_func")
    groups = config.integer("n_group", 1, 1, _MAX_SIZE)
    if groups > 1:
        if config.text("topk_method", "noaux_tc") != "noaux_tc":  # GGUF's graph adds up the best two of a group
            raise config.error("topk_method", f"expected noaux_tc with {groups} groups, found another, not supported")
        gguf.put("expert_group_count", groups, "n_group")
        gguf.put("expert_group_used_count", config.integer("topk_group", None, 1, groups), "topk_group")


def fourth_unrotated(config: JsonObject, gguf: GgufNames) -> None:
    """SmolLM3: the layers that rotate, which GGUF's graph knows, are all but every fourth."""
    layers = config.integer("num_hidden_layers", None, 1, _MAX_LAYERS)
    if config.values.get("no_rope_layers", usual := [int((layer + 1) % 4 > 0) for layer in range(layers)]) != usual:
        raise config.error("no_rope_layers", "expected a 0 in every fourth place alone, found others, not supported")


FORMS: Mapping[str, Callable[[JsonObject, GgufNames], None]] = {
    "fourth_unrotated": fourth_unrotated,
    "granite_hybrid": granite_hybrid,
    "grouped_delta": delta_net,
    "interleaved_delta": delta_net,
    "latent": latent_attention,
    "short_convolutions": short_convolutions,
    "sparse_convolutions": sparse_convolutions,
}
"""By `FolderRow.form`."""
