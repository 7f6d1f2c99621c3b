"""Configurations of each architecture, and the types of weights of several mixtures."""

from __future__ import annotations

from dataclasses import replace

from rocmforge.compiler.model_config import ModelConfig
from rocmforge.tests.oracles.graph_interpreter import BASE

CONFIGS: dict[str, ModelConfig] = {
    "llama": BASE,
    "tied": replace(BASE, tie_word_embeddings=True),
    "llama-with-biases": replace(BASE, name="biases"),
    "qwen2": replace(BASE, architecture="qwen2", rope_style="half", num_kv_heads=4),
    "qwen3": replace(BASE, architecture="qwen3", rope_style="half", rope_dim=16),
    "head-of-half-a-block": replace(BASE, head_dim=16, rope_dim=16),
    # 2 heads and 1 of keys and values: what attention reads is as wide as the residual stream.
    "qkv-as-wide-as-hidden": replace(BASE, hidden_size=128, num_heads=2, num_kv_heads=1),
    "no-whole-blocks": replace(BASE, hidden_size=60, intermediate_size=72, head_dim=16, rope_dim=16),
}
ATTENTION = ("attention_q", "attention_k", "attention_v")
TYPES: dict[str, dict[str, str]] = {
    "one-type": {},
    "floats": dict.fromkeys((*ATTENTION, "attention_output", "ffn_gate", "ffn_up", "ffn_down", "output"), "F16"),
    "v-apart": {"attention_v": "Q6_K"},  # as llama.cpp's Q4_K_M has it
    "k-apart": {"attention_k": "Q8_0"},
    "all-apart": {"attention_q": "Q4_K", "attention_k": "Q5_K", "attention_v": "Q6_K"},
    "float-among-quantized": {"attention_k": "BF16", "ffn_up": "F32", "output": "F16"},
    "gate-and-up-apart": {"ffn_gate": "Q4_0", "ffn_up": "Q8_0"},
    "layers-apart": {"layers.1.attention_q": "Q6_K", "layers.0.ffn_up": "Q5_0", "layers.1.ffn_down": "F16"},
}
