"""What config.json says of models that are more than a row of names: short convolutions, latent attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from ...artifacts.errors import printable
from .gguf_names import GgufNames
from .json_file import JsonObject

_MAX_SIZE: Final = 1 << 20
_MAX_LAYERS: Final = 1024
_SCORING: Final = {"softmax": 1, "sigmoid": 2}


def short_convolutions(config: JsonObject, gguf: GgufNames) -> None:
    """LFM2: which layers have a convolution instead of attention, and the width that their feed-forwards have.

    Source: `transformers`, Lfm2Config.
    """
    layers = config.integer("num_hidden_layers", None, 1, _MAX_LAYERS)
    kinds, name = config.values.get("layer_types"), "layer_types"
    if kinds is None:
        attending, name = config.values.get("full_attn_idxs"), "full_attn_idxs"
        if not isinstance(attending, list):
            raise config.error("layer_types", "expected the kind of each layer, found nothing")
        kinds = ["full_attention" if layer in attending else "conv" for layer in range(layers)]
    if not isinstance(kinds, list) or len(kinds) != layers or not set(kinds) <= {"conv", "full_attention"}:
        raise config.error(name, f"expected conv or full_attention for each of {layers} layers, found others")
    heads = config.integer("num_attention_heads", None, 1, _MAX_SIZE)
    shared = config.integer("num_key_value_heads", heads, 1, _MAX_SIZE)
    of_layers = np.array([0 if kind == "conv" else shared for kind in kinds], np.int32)
    gguf.put("attention.head_count_kv", of_layers, name)
    name = "block_ff_dim" if config.has("block_ff_dim") else "intermediate_size"
    width = config.integer(name, None, 1, _MAX_SIZE)
    if config.boolean("block_auto_adjust_ff_dim", True):
        width = int(config.number("block_ffn_dim_multiplier", 1.0, 1e-3, 1e3) * int(2 * width / 3))
        multiple = config.integer("block_multiple_of", 256, 1, _MAX_SIZE)
        width = -(-width // multiple) * multiple
    gguf.put("feed_forward_length", width, name)


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


FORMS: Mapping[str, Callable[[JsonObject, GgufNames], None]] = {
    "latent": latent_attention,
    "short_convolutions": short_convolutions,
}
"""By `FolderRow.form`."""
