"""Names that GGUF has for the tensors and hyperparameters of decoders."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

TENSORS: Mapping[str, str] = MappingProxyType(
    {
        "token_embedding": "token_embd.weight",
        "position_embedding": "position_embd.weight",
        "embedding_norm": "token_embd_norm.weight",
        "output_norm": "output_norm.weight",
        "output": "output.weight",
        "rope_factors": "rope_freqs.weight",
        "rope_factors_long": "rope_factors_long.weight",
        "rope_factors_short": "rope_factors_short.weight",
        "attention_norm": "blk.{layer}.attn_norm.weight",
        "attention_norm_2": "blk.{layer}.attn_norm_2.weight",
        "attention_q": "blk.{layer}.attn_q.weight",
        "attention_k": "blk.{layer}.attn_k.weight",
        "attention_v": "blk.{layer}.attn_v.weight",
        "attention_q_a": "blk.{layer}.attn_q_a.weight",
        "attention_q_a_norm": "blk.{layer}.attn_q_a_norm.weight",
        "attention_latent": "blk.{layer}.attn_kv_a.weight",
        "attention_latent_norm": "blk.{layer}.attn_kv_a_norm.weight",
        "attention_key_tail": "blk.{layer}.attn_key_tail.weight",
        "attention_kv_b": "blk.{layer}.attn_kv_b.weight",
        "attention_q_norm": "blk.{layer}.attn_q_norm.weight",
        "attention_k_norm": "blk.{layer}.attn_k_norm.weight",
        "attention_gate": "blk.{layer}.attn_gate.weight",
        "embedding_skip": "blk.{layer}.layer_output_scale.weight",
        "attention_sinks": "blk.{layer}.attn_sinks.weight",
        "attention_output": "blk.{layer}.attn_output.weight",
        "attention_post_norm": "blk.{layer}.post_attention_norm.weight",
        "ffn_norm": "blk.{layer}.ffn_norm.weight",
        "ffn_gate": "blk.{layer}.ffn_gate.weight",
        "ffn_up": "blk.{layer}.ffn_up.weight",
        "ffn_divisors": "blk.{layer}.ffn.act.scales",
        "ffn_down": "blk.{layer}.ffn_down.weight",
        "ffn_post_norm": "blk.{layer}.post_ffw_norm.weight",
        "experts_norm": "blk.{layer}.ffn_norm_exps.weight",
        "expert_router": "blk.{layer}.ffn_gate_inp.weight",
        "expert_choice_bias": "blk.{layer}.exp_probs_b.bias",
        "ffn_gate_experts": "blk.{layer}.ffn_gate_exps.weight",
        "ffn_up_experts": "blk.{layer}.ffn_up_exps.weight",
        "ffn_down_experts": "blk.{layer}.ffn_down_exps.weight",
        "ffn_gate_shared": "blk.{layer}.ffn_gate_shexp.weight",
        "ffn_up_shared": "blk.{layer}.ffn_up_shexp.weight",
        "ffn_down_shared": "blk.{layer}.ffn_down_shexp.weight",
        "shared_gate": "blk.{layer}.ffn_gate_inp_shexp.weight",
    }
)
"""Role to tensor name; a role of each layer has `{layer}` in its name."""

FUSED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "blk.{layer}.attn_qkv": ("attention_q", "attention_k", "attention_v"),
        "blk.{layer}.attn_kv_a_mqa": ("attention_latent", "attention_key_tail"),
        "blk.{layer}.ffn_up": ("ffn_gate", "ffn_up"),
        "blk.{layer}.ffn_gate_up_exps": ("ffn_gate_experts", "ffn_up_experts"),
    }
)
"""Tensors that may stand for several, whose rows they hold one after another."""

KEYS: Mapping[str, str] = MappingProxyType(
    {
        "hidden_size": "embedding_length",
        "intermediate_size": "feed_forward_length",
        "num_layers": "block_count",
        "draft_layers": "nextn_predict_layers",
        "num_heads": "attention.head_count",
        "num_kv_heads": "attention.head_count_kv",
        "key_length": "attention.key_length",
        "value_length": "attention.value_length",
        "max_seq_len": "context_length",
        "norm_epsilon": "attention.layer_norm_rms_epsilon",
        "num_experts": "expert_count",
        "experts_used": "expert_used_count",
        "expert_scoring": "expert_gating_func",
        "expert_normalise": "expert_weights_norm",
        "expert_scale": "expert_weights_scale",
        "expert_groups": "expert_group_count",
        "expert_groups_used": "expert_group_used_count",
        "causal": "attention.causal",
        "rope_theta": "rope.freq_base",
        "rope_dim": "rope.dimension_count",
        "rope_scaling_kind": "rope.scaling.type",
        "rope_scaling_factor": "rope.scaling.factor",
        "rope_scale_linear": "rope.scale_linear",
        "rope_original_context": "rope.scaling.original_context_length",
        "rope_attention_factor": "rope.scaling.attn_factor",
        "rope_log_multiplier": "rope.scaling.yarn_log_multiplier",
        "rope_beta_fast": "rope.scaling.yarn_beta_fast",
        "rope_beta_slow": "rope.scaling.yarn_beta_slow",
    }
)
"""Hyperparameter of all decoders to the key's part after the architecture's prefix."""

FURTHER_KEYS: Mapping[str, str] = MappingProxyType(
    {
        "attention_scale": "attention.scale",
        "attention_softcap": "attn_logit_softcapping",
        "embedding_scale": "embedding_scale",
        "kv_rank": "attention.kv_lora_rank",
        "logit_scale": "logit_scale",
        "logit_softcap": "final_logit_softcapping",
        "max_alibi_bias": "attention.max_alibi_bias",
        "parallel": "use_parallel_residual",
        "query_rank": "attention.q_lora_rank",
        "qkv_clamp": "attention.clamp_kqv",
        "residual_scale": "residual_scale",
        "rope_alpha": "rope.scaling.alpha",
        "rope_finetuned": "rope.scaling.finetuned",
        "rope_theta_windowed": "rope.freq_base_swa",
        "temperature_scale": "attention.temperature_scale",
        "value_scale": "attention.value_scale",
        "window": "attention.sliding_window",
        "window_pattern": "attention.sliding_window_pattern",
    }
)
"""Hyperparameter of some, which rows name."""
