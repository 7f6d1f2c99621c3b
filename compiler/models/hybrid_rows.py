"""The models with recurrent state that can be compiled, a row each: what sets it apart from llama.

Source: llama.cpp 11434, `src/models/*.cpp`, for what each architecture has; its published files for names.
"""

from __future__ import annotations

from functools import partial

from . import lightning, mamba
from . import refine as refined
from .architecture import Mixer, Mixture, Windows
from .decoder_names import TENSORS
from .decoder_row import LATENT, POST, ROPE_FACTORS, SCALES, half, llama, row
from .experts import LATENT as EXPERTS_LATENT

_ATTENTION = ("attention_q", "attention_k", "attention_v", "attention_output")
_FEED_FORWARD = ("ffn_norm", "ffn_gate", "ffn_up", "ffn_down")
_GATES = ("delta_beta", "delta_alpha")
_LFM2 = {"output_norm": "token_embd_norm.weight"}
_NO_ATTENTION = ("num_heads", "num_kv_heads", "key_length", "value_length", "intermediate_size", "causal")
_mamba = partial(row, rope_style="none", without=(*_ATTENTION, *_FEED_FORWARD), no_keys=_NO_ATTENTION)
_qwen = partial(
    half,
    names={"ffn_norm": "blk.{layer}.post_attention_norm.weight"},
    interleaved={"blk.{layer}.attn_q": ("attention_q", "attention_gate")},
    qk_norm="head",
    drafts="normed",
)
_nemotron = partial(
    row,
    rope_style="none",
    names={"ffn_norm": "blk.{layer}.attn_norm.weight"},
    keys=("norm_epsilon_else",),
    activation="relu2",
    mixer=Mixer("mamba2", apart=True),
)

ARCHITECTURES = (
    half("lfm2", names=_LFM2, qk_norm="head", windows=Windows(0), mixer=Mixer("short_conv")),
    half("lfm2moe", names=_LFM2, qk_norm="head", mixture=Mixture(said=True), mixer=Mixer("short_conv")),
    _qwen("qwen3next", also=("delta_gates",), mixture=Mixture(), mixer=Mixer("delta", "interval")),
    _qwen("qwen35", also=_GATES, mixer=Mixer("delta", "interval", mapping="modulo"), sections="interleaved"),
    _qwen(
        "qwen35moe",
        also=_GATES,
        mixture=Mixture(),
        mixer=Mixer("delta", "interval", mapping="modulo"),
        sections="interleaved",
    ),
    llama(
        "granitehybrid",
        optional=ROPE_FACTORS,
        keys=(*SCALES, "rope_finetuned"),
        refine=refined.granite,
        mixture=Mixture(),
        mixer=Mixer("mamba2"),
    ),
    _mamba("mamba2", mixer=Mixer("mamba2", "all")),
    _mamba("mamba", mixer=Mixer("mamba", "all")),
    _nemotron("nemotron_h", without=("ffn_gate",)),
    _nemotron(
        "nemotron_h_moe",
        without=("ffn_gate", "ffn_gate_experts", "ffn_gate_shared", "shared_gate"),
        optional=EXPERTS_LATENT,
        mixture=Mixture("sigmoid", normalise=None),
    ),
    half(
        "falcon-h1",
        optional=("ssm_norm",),
        names={"ffn_norm": "blk.{layer}.ffn_norm"},
        mixer=Mixer("mamba2", "all", beside=True),
    ),
    row("jamba", "none", also=mamba.NORMS, mixture=Mixture(normalise=False), mixer=Mixer("mamba")),
    half(
        "plamo2",
        also=(*POST, *mamba.NORMS),
        names={
            "attention_post_norm": "blk.{layer}.post_attention_norm",
            "ffn_post_norm": "blk.{layer}.post_ffw_norm",
            **{role: TENSORS[role].removesuffix(".weight") for role in mamba.NORMS},
        },
        qk_norm="heads",
        mixer=Mixer("plamo2"),
    ),
    row(
        "kimi-linear",
        "none",
        also=LATENT,
        unread=("attention_q_bias", "attention_k_bias", "attention_v_bias"),
        keys=("kv_rank", "query_rank"),
        refine=refined.latent_attention,
        mixture=Mixture(said=True),
        mixer=Mixer("kda"),
    ),
    half(
        "minimax-01",
        names={"ssm_norm": "blk.{layer}.attn_norm_2.weight"},
        keys=("residual_scale",),
        forms={"ssm_a": "slopes"},
        interleaved={"blk.{layer}.attn_qkv": lightning.QKV},
        refine=refined.minimax_01,
        adds_to_normed=True,
        mixture=Mixture(),
        mixer=Mixer("lightning", "interval", interval=8),
    ),
)
"""A row each."""
