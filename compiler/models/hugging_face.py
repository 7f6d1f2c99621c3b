"""What sets a model's folder of Hugging Face apart from its GGUF file, by architecture.

Names of tensors are the `gguf` package's table (`gguf.get_tensor_name_map`), which knows those of each architecture;
keys that most configurations have are in `compiler/hugging_face/config.py`. A row says the rest.

Source: the configuration classes of `transformers` (names, defaults), and what llama.cpp's files of the models hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from types import MappingProxyType

from ...artifacts.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class FolderRow:
    """What is said of the folders of one architecture.

    Attributes:
        architecture: its name in GGUF.
        model_types: `model_type` of its config.json.
        defaults: what a key of config.json is where it is absent.
        keys: further keys of config.json, to the part of GGUF's after the architecture's prefix.
        activations: `hidden_act` (or `hidden_activation`) that it may have.
        required: values that keys must have where they are there, since nothing else is compiled.
        permuted: rows of the query and key projections rotate in halves in the folder, (i, i + head_dim/2), and in
            GGUF interleaved, (2i, 2i+1).
        plus_one: the folder's norms lack a 1 that GGUF's have.
        windowed: GGUF knows its window; else the context is limited to it, within which it hides nothing.
        form: what else config.json says, one of `compiler/hugging_face/forms.py`, or "".
    """

    architecture: str
    model_types: tuple[str, ...]
    defaults: Mapping[str, object] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    activations: tuple[str, ...] = ("silu", "swish")
    required: Mapping[str, object] = field(default_factory=dict)
    permuted: bool = False
    plus_one: bool = False
    windowed: bool = False
    form: str = ""


_GELU = ("gelu_pytorch_tanh", "gelu_new", "gelu")
_RMS: Mapping[str, object] = MappingProxyType({"rms_norm_eps": 1e-6})
_RMS_5: Mapping[str, object] = MappingProxyType({"rms_norm_eps": 1e-5})
_LAYER: Mapping[str, object] = MappingProxyType({"layer_norm_eps": 1e-5})
_GEMMA: Mapping[str, object] = MappingProxyType({"rms_norm_eps": 1e-6, "head_dim": 256, "tie_word_embeddings": True})
_CAUSAL: Mapping[str, object] = MappingProxyType({"use_bidirectional_attention": False})
_GRANITE: Mapping[str, str] = MappingProxyType(
    {
        "attention_multiplier": "attention.scale",
        "embedding_multiplier": "embedding_scale",
        "residual_multiplier": "residual_scale",
        "logits_scaling": "logit_scale",
    }
)
_SOFTCAPS: Mapping[str, str] = MappingProxyType(
    {"attn_logit_softcapping": "attn_logit_softcapping", "final_logit_softcapping": "final_logit_softcapping"}
)
_EXPERTS: Mapping[str, str] = MappingProxyType(
    {
        "num_experts": "expert_count",
        "num_experts_per_tok": "expert_used_count",
        "moe_intermediate_size": "expert_feed_forward_length",
        "shared_expert_intermediate_size": "expert_shared_feed_forward_length",
    }
)
_QWEN_DELTA: Mapping[str, object] = MappingProxyType({**_RMS, "head_dim": 256, "partial_rotary_factor": 0.25})
_LATENT_EXPERTS: Mapping[str, str] = MappingProxyType(
    {
        "n_routed_experts": "expert_count",
        "num_experts_per_tok": "expert_used_count",
        "moe_intermediate_size": "expert_feed_forward_length",
        "n_shared_experts": "expert_shared_count",
        "first_k_dense_replace": "leading_dense_block_count",
        "routed_scaling_factor": "expert_weights_scale",
        "norm_topk_prob": "expert_weights_norm",
    }
)
_ROWS = (
    FolderRow("llama", ("llama", "mistral"), _RMS, permuted=True),
    FolderRow(
        "llama",
        ("mixtral",),
        {**_RMS_5, "rope_theta": 1e6, "num_local_experts": 8, "num_experts_per_tok": 2},
        {"num_local_experts": "expert_count", "num_experts_per_tok": "expert_used_count"},
        permuted=True,
    ),
    FolderRow(
        "qwen2moe",
        ("qwen2_moe",),
        {**_RMS, "num_experts": 60, "num_experts_per_tok": 4},
        _EXPERTS,
        required={"norm_topk_prob": False},
    ),
    FolderRow(
        "qwen3moe",
        ("qwen3_moe",),
        {**_RMS, "num_experts": 128, "num_experts_per_tok": 8, "norm_topk_prob": False},
        _EXPERTS,
        required={"norm_topk_prob": True},
    ),
    FolderRow(
        "olmoe",
        ("olmoe",),
        {**_RMS_5, "num_experts": 64, "num_experts_per_tok": 8},
        _EXPERTS,
        required={"norm_topk_prob": False, "clip_qkv": None},
    ),
    FolderRow("qwen2", ("qwen2",), _RMS),
    FolderRow("qwen3", ("qwen3",), {**_RMS, "head_dim": 128}),
    FolderRow("qwen2vl", ("qwen2_vl", "qwen2_vl_text", "qwen2_5_vl", "qwen2_5_vl_text"), _RMS),
    FolderRow("qwen3vl", ("qwen3_vl", "qwen3_vl_text"), {**_RMS, "head_dim": 128}),
    FolderRow("seed_oss", ("seed_oss",), {**_RMS, "head_dim": 128}),
    FolderRow("ernie4_5", ("ernie4_5",), {**_RMS_5, "rope_theta": 500000.0, "tie_word_embeddings": True}),
    FolderRow(
        "smollm3",
        ("smollm3",),
        {**_RMS, "rope_theta": 2e6, "tie_word_embeddings": True},
        required={"no_rope_layer_interval": 4},
        permuted=True,
        form="fourth_unrotated",
    ),
    FolderRow("arcee", ("arcee",), _RMS_5, activations=("relu2",), permuted=True),
    FolderRow("granite", ("granite",), _RMS, _GRANITE, permuted=True),
    FolderRow("phi3", ("phi3",), {**_RMS_5, "original_max_position_embeddings": 4096}),
    FolderRow("glm4", ("glm4",), {"rms_norm_eps": 1.5625e-07, "head_dim": 128, "partial_rotary_factor": 0.5}),
    FolderRow("olmo2", ("olmo2", "olmo3"), _RMS_5, windowed=True),
    FolderRow("exaone4", ("exaone4",), _RMS_5, windowed=True),
    FolderRow("gemma", ("gemma",), _GEMMA, activations=_GELU, required=_CAUSAL, plus_one=True),
    FolderRow(
        "gemma2",
        ("gemma2",),
        {**_GEMMA, "query_pre_attn_scalar": 256},
        _SOFTCAPS,
        _GELU,
        _CAUSAL,
        plus_one=True,
        windowed=True,
    ),
    FolderRow(
        "gemma3",
        ("gemma3_text", "gemma3"),
        {
            **{**_GEMMA, "query_pre_attn_scalar": 256, "rope_theta": 1e6, "max_position_embeddings": 131072},
            **{"num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 262208},
        },
        {"final_logit_softcapping": "final_logit_softcapping", "rope_local_base_freq": "rope.freq_base_swa"},
        _GELU,
        _CAUSAL,
        plus_one=True,
        windowed=True,
    ),
    FolderRow(
        "gpt-oss",
        ("gpt_oss",),
        {**_RMS_5, "head_dim": 64, "rope_theta": 150000.0},
        {
            "num_local_experts": "expert_count",
            "num_experts_per_tok": "expert_used_count",
            "intermediate_size": "expert_feed_forward_length",
        },
        required={"swiglu_limit": 7.0, "swiglu_alpha": 1.702},
        windowed=True,
    ),
    FolderRow(
        "deepseek2",
        ("deepseek_v2",),
        {**_RMS, "first_k_dense_replace": 0, "routed_scaling_factor": 1.0, "norm_topk_prob": False},
        _LATENT_EXPERTS,
        required={"moe_layer_freq": 1, "attention_bias": False},
        form="latent",
    ),
    FolderRow(
        "deepseek2",
        ("deepseek_v3",),
        {
            **_RMS,
            **{"first_k_dense_replace": 3, "routed_scaling_factor": 2.5, "norm_topk_prob": True, "n_group": 8},
            **{"topk_group": 4, "n_shared_experts": 1, "num_experts_per_tok": 8, "scoring_func": "sigmoid"},
        },
        _LATENT_EXPERTS,
        required={"moe_layer_freq": 1, "attention_bias": False, "rope_interleave": True},
        form="latent",
    ),
    FolderRow(
        "lfm2",
        ("lfm2",),
        {"norm_eps": 1e-5, "rope_theta": 1e6, "tie_word_embeddings": True, "conv_L_cache": 3},
        {"norm_eps": "attention.layer_norm_rms_epsilon", "conv_L_cache": "shortconv.l_cache"},
        required={"conv_bias": False},
        form="short_convolutions",
    ),
    FolderRow(
        "lfm2moe",
        ("lfm2_moe",),
        {
            **{"norm_eps": 1e-5, "rope_theta": 1e6, "tie_word_embeddings": True, "conv_L_cache": 3},
            **{"num_dense_layers": 2, "num_experts": 32, "num_experts_per_tok": 4},
        },
        {
            **_EXPERTS,
            "norm_eps": "attention.layer_norm_rms_epsilon",
            "conv_L_cache": "shortconv.l_cache",
            "num_dense_layers": "leading_dense_block_count",
            "routed_scaling_factor": "expert_weights_scale",
        },
        required={"conv_bias": False, "norm_topk_prob": True, "use_expert_bias": True},
        form="sparse_convolutions",
    ),
    FolderRow(
        "qwen3next",
        ("qwen3_next",),
        {**_QWEN_DELTA, "num_experts": 512, "num_experts_per_tok": 10},
        _EXPERTS,
        required={"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []},
        plus_one=True,
        form="interleaved_delta",
    ),
    FolderRow(
        "qwen35",
        ("qwen3_5", "qwen3_5_text"),
        _QWEN_DELTA,
        required={"attn_output_gate": True},
        plus_one=True,
        form="grouped_delta",
    ),
    FolderRow(
        "qwen35moe",
        ("qwen3_5_moe", "qwen3_5_moe_text"),
        {**_QWEN_DELTA, "num_experts": 256, "num_experts_per_tok": 8},
        _EXPERTS,
        required={"attn_output_gate": True},
        plus_one=True,
        form="grouped_delta",
    ),
    FolderRow(
        "granitehybrid",
        ("granitemoehybrid",),
        _RMS,
        _GRANITE,
        required={"mamba_proj_bias": False},
        permuted=True,
        form="granite_hybrid",
    ),
    FolderRow("olmo", ("olmo",), _LAYER, {"clip_qkv": "attention.clamp_kqv"}, permuted=True),
    FolderRow(
        "nemotron",
        ("nemotron",),
        {"norm_eps": 1e-5, "partial_rotary_factor": 0.5},
        {"norm_eps": "attention.layer_norm_epsilon"},
        ("relu2",),
        plus_one=True,
    ),
    FolderRow(
        "starcoder2",
        ("starcoder2",),
        {"norm_epsilon": 1e-5, "tie_word_embeddings": True},
        {"norm_epsilon": "attention.layer_norm_epsilon"},
        _GELU,
    ),
    FolderRow(
        "phi2",
        ("phi",),
        {**_LAYER, "partial_rotary_factor": 0.5},
        activations=_GELU,
        required={"qk_layernorm": False},
    ),
    FolderRow("command-r", ("cohere",), {**_LAYER, "tie_word_embeddings": True}, {"logit_scale": "logit_scale"}),
    FolderRow(
        "cohere2",
        ("cohere2",),
        {**_LAYER, "tie_word_embeddings": True, "sliding_window": 4096},
        {"logit_scale": "logit_scale"},
        windowed=True,
    ),
)
FOLDER_ROWS: Mapping[str, FolderRow] = MappingProxyType({name: row for row in _ROWS for name in row.model_types})
"""By `model_type`."""

PERMUTED: frozenset[str] = frozenset(row.architecture for row in _ROWS if row.permuted) | {
    *("arctic", "deci", "deepseek", "granite_swa", "granitemoe", "llada", "llama-embed", "minicpm", "mistral3"),
    *("muse-glimmer", "nanbeige", "xverse"),
}
"""Architectures whose folders' rows of queries and keys stand in another order than GGUF's, with a row here or without:
see `FolderRow.permuted`."""
