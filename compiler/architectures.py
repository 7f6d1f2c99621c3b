"""The architectures that can be compiled, one table row each. GGUF's own spellings live only here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

RopeStyle = Literal["interleaved", "half"]

# Role to tensor name; a role of each layer has `{layer}` in its name.
_TENSORS: Mapping[str, str] = MappingProxyType(
    {
        "token_embedding": "token_embd.weight",
        "output_norm": "output_norm.weight",
        "output": "output.weight",
        "rope_factors": "rope_freqs.weight",
        "attention_norm": "blk.{layer}.attn_norm.weight",
        "attention_q": "blk.{layer}.attn_q.weight",
        "attention_k": "blk.{layer}.attn_k.weight",
        "attention_v": "blk.{layer}.attn_v.weight",
        "attention_q_bias": "blk.{layer}.attn_q.bias",
        "attention_k_bias": "blk.{layer}.attn_k.bias",
        "attention_v_bias": "blk.{layer}.attn_v.bias",
        "attention_q_norm": "blk.{layer}.attn_q_norm.weight",
        "attention_k_norm": "blk.{layer}.attn_k_norm.weight",
        "attention_output": "blk.{layer}.attn_output.weight",
        "ffn_norm": "blk.{layer}.ffn_norm.weight",
        "ffn_gate": "blk.{layer}.ffn_gate.weight",
        "ffn_up": "blk.{layer}.ffn_up.weight",
        "ffn_down": "blk.{layer}.ffn_down.weight",
    }
)

# Hyperparameter to the key's part after the architecture's prefix.
_KEYS: Mapping[str, str] = MappingProxyType(
    {
        "hidden_size": "embedding_length",
        "intermediate_size": "feed_forward_length",
        "num_layers": "block_count",
        "num_heads": "attention.head_count",
        "num_kv_heads": "attention.head_count_kv",
        "key_length": "attention.key_length",
        "value_length": "attention.value_length",
        "max_seq_len": "context_length",
        "rope_theta": "rope.freq_base",
        "rope_dim": "rope.dimension_count",
        "rope_scaling_kind": "rope.scaling.type",
        "rope_scaling_factor": "rope.scaling.factor",
        "rope_scale_linear": "rope.scale_linear",
        "rms_norm_eps": "attention.layer_norm_rms_epsilon",
        "num_experts": "expert_count",
        "causal": "attention.causal",
    }
)


@dataclass(frozen=True, slots=True)
class Architecture:
    """What sets one architecture apart.

    Attributes:
        name: `general.architecture`, and the prefix of its keys.
        rope_style: which elements of a head rotate together: "interleaved" (2i, 2i+1), as llama weights are
            permuted for in GGUF, or "half" (i, i + rope_dim/2).
        qkv_bias: whether the query, key and value projections have biases; None: where the file has them.
        qk_norm: whether queries and keys pass an RMS norm over each head before rotation.
        rope_factors: whether a tensor may divide the rotary frequencies.
        activation: of the feed-forward gate.
        keys: hyperparameter to GGUF key, without the prefix.
        tensors: role to GGUF tensor name, `{layer}` standing for the layer's number.
    """

    name: str
    rope_style: RopeStyle
    qkv_bias: bool | None
    qk_norm: bool
    rope_factors: bool = False
    activation: Literal["silu"] = "silu"
    keys: Mapping[str, str] = field(default_factory=lambda: _KEYS)
    tensors: Mapping[str, str] = field(default_factory=lambda: _TENSORS)

    def key(self, hyperparameter: str) -> str:
        """Return the full GGUF key of a hyperparameter."""
        return f"{self.name}.{self.keys[hyperparameter]}"

    def is_layer_role(self, role: str) -> bool:
        """Return whether every layer has a tensor of this role."""
        return "{layer}" in self.tensors[role]

    def tensor_name(self, role: str, layer: int = 0) -> str:
        """Return the GGUF name of a role's tensor; `layer` is ignored for roles outside the layers."""
        return self.tensors[role].replace("{layer}", str(layer))


_ROWS = (
    # Llama 2 to 3.3, Mistral, TinyLlama, SmolLM2.
    Architecture("llama", rope_style="interleaved", qkv_bias=None, qk_norm=False, rope_factors=True),
    Architecture("qwen2", rope_style="half", qkv_bias=True, qk_norm=False),
    Architecture("qwen3", rope_style="half", qkv_bias=False, qk_norm=True),
)
ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType({row.name: row for row in _ROWS})
