"""The mixtures of experts that can be compiled, a row each: what sets it apart from llama.

Source: llama.cpp 11434, `src/models/*.cpp`, for what each architecture has; its published files for names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import refine as refined
from .architecture import Mixture, Windows
from .decoder_row import LATENT, POST, PROJECTIONS, ROPE_FACTORS, half, llama
from .experts import OF_NEIGHBOURS

_LATENT: Mapping[str, Any] = {
    "without": PROJECTIONS,
    "also": LATENT,
    "keys": ("kv_rank", "query_rank", "temperature_scale"),
    "refine": refined.deepseek2,
    "mixture": Mixture(normalise=None, said=True),
}
_INDEXED: Mapping[str, Any] = {
    **_LATENT,
    "also": (*LATENT, "indexer_norm"),
    "unread": ("indexer_norm", "indexer_norm_bias"),
    "refine": refined.deepseek32,
}

ARCHITECTURES = (
    half("qwen2moe", mixture=Mixture(normalise=False)),
    half("qwen3moe", qk_norm="head", mixture=Mixture()),
    half("qwen3vlmoe", qk_norm="head", mixture=Mixture(), sections="interleaved"),
    half("olmoe", qk_norm="row", mixture=Mixture(normalise=False)),
    half("phimoe", optional=ROPE_FACTORS[1:], mixture=Mixture()),
    half(
        "gpt-oss",
        also=("attention_sinks",),
        names={"ffn_norm": "blk.{layer}.post_attention_norm.weight"},
        windows=Windows(2, theta=0.0),
        activation="gelu_quick",
        gate_limit=7.0,
        up_offset=1.0,
        mixture=Mixture("chosen", normalise=False),
    ),
    half(
        "dbrx",
        names={"ffn_norm": "blk.{layer}.attn_output_norm.weight"},
        keys=("qkv_clamp",),
        norm="layer",
        mixture=Mixture(),
    ),
    half(
        "exaone-moe",
        optional=ROPE_FACTORS,
        qk_norm="head",
        windows=Windows(4, 128, rotates_full=False),
        mixture=Mixture(normalise=None, said=True),
    ),
    half(
        "grok",
        also=POST,
        optional=("ffn_gate", "ffn_up", "ffn_down"),
        names={
            "attention_post_norm": "blk.{layer}.attn_output_norm.weight",
            "ffn_post_norm": "blk.{layer}.layer_output_norm.weight",
        },
        keys=("embedding_scale", "logit_scale", "attention_softcap", "logit_softcap"),
        defaults={
            "embedding_scale": 78.38367176906169,
            "logit_scale": 0.5773502691896257,
            "attention_scale": 0.08838834764831845,
            "attention_softcap": 30.0,
            "rope_beta_fast": 8.0,
        },
        refine=refined.grok,
        activation="gelu",
        dense_beside=True,
        mixture=Mixture(),
    ),
    half(
        "afmoe",
        also=(*POST, "attention_gate"),
        qk_norm="head",
        windows=Windows(4, theta=0.0),
        refine=refined.afmoe,
        mixture=Mixture("sigmoid", normalise=None, said=True),
    ),
    half(
        "mellum",
        qk_norm="head",
        windows=Windows(4, scaled=False),
        mixture=Mixture(),
    ),
    half(
        "hy_v3",
        optional=ROPE_FACTORS,
        names={"expert_choice_bias": "blk.{layer}.exp_probs_b"},
        qk_norm="head",
        drafts="normed",
        mixture=Mixture("sigmoid", normalise=None, said=True),
    ),
    half(
        "maple",
        qk_norm="head",
        windows=Windows(0, rotates_full=False, theta=0.0),
        refine=refined.maple,
        mixture=Mixture(),
    ),
    half(
        "smallthinker",
        windows=Windows(4, theta=0.0, first=True),
        refine=refined.smallthinker,
        activation="relu",
        routed_by_input=True,
        mixture=Mixture(said=True),
    ),
    llama("arctic", also=("experts_norm",), refine=refined.arctic, dense_beside=True, mixture=Mixture()),
    half(
        "mimo2",
        optional=("attention_sinks",),
        unread=("attention_q_bias", "attention_k_bias", "attention_v_bias"),
        keys=("value_scale",),
        windows=Windows(0, theta=10000.0, scaled=False),
        mixture=Mixture("sigmoid"),
    ),
    llama(
        "llama4",
        optional=ROPE_FACTORS,
        keys=("attention_scale",),
        forms={"attention_q_norm": "ones", "attention_k_norm": "ones"},
        qk_norm="head",
        qk_norm_after=True,
        only_rotated=True,
        windows=Windows(4, refined.LLAMA4_CHUNK, theta=0.0),
        chunked=True,
        refine=refined.llama4,
        weighted_inputs=True,
        mixture=Mixture("sigmoid", normalise=False),
    ),
    llama(
        "cohere2moe",
        without=("ffn_norm",),
        optional=ROPE_FACTORS,
        keys=("logit_scale",),
        windows=Windows(4, rotates_full=False, first=True),
        refine=refined.cohere2moe,
        norm="layer",
        halved=True,
        drafts="normed",
        mixture=Mixture("sigmoid", normalise=None, said=True),
    ),
    llama("deepseek", mixture=Mixture(normalise=False)),
    llama("deepseek2", **_LATENT, drafts="normed"),
    llama("mistral4", **_LATENT),
    llama("deepseek32", **_INDEXED, drafts="normed"),
    llama("glm-dsa", **{**_INDEXED, "mixture": Mixture("sigmoid", normalise=None, said=True)}, drafts="normed"),
    half(
        "minimax-m3",
        refine=refined.seen_whole,
        qk_norm="head",
        activation="gelu_quick",
        gate_limit=7.0,
        up_offset=1.0,
        mixture=Mixture(normalise=None, said=True),
    ),
    half(
        "laguna",
        also=("attention_gate",),
        forms={"attention_gate": "repeated"},
        qk_norm="head",
        windows=Windows(4, theta=0.0, scaled=False, first=True),
        refine=refined.laguna,
        gate="softplus",
        mixture=Mixture("sigmoid", normalise=None, said=True),
    ),
    llama("bailingmoe", mixture=Mixture(normalise=None)),
    half("bailingmoe2", qk_norm="head", mixture=Mixture(normalise=None, said=True)),
    half("dots1", qk_norm="head", mixture=Mixture(normalise=None, said=True)),
    llama("ernie4_5-moe", mixture=Mixture()),
    half("minimax-m2", qk_norm="row", mixture=Mixture(said=True)),
    half(
        "glm4moe",
        optional=("attention_q_norm", "attention_k_norm"),
        names={"ffn_norm": "blk.{layer}.post_attention_norm.weight"},
        qk_norm="head",
        mixture=Mixture("sigmoid", normalise=None, said=True),
        drafts="normed",
    ),
    half(
        "grovemoe",
        also=OF_NEIGHBOURS,
        keys=("expert_neighbours", "expert_neighbours_scale"),
        qk_norm="head",
        mixture=Mixture(),
    ),
    half("hunyuan-moe", qk_norm="head", qk_norm_after=True, mixture=Mixture()),
    half("rnd1", qk_norm="head", no_keys=("causal",), both_ways=True, mixture=Mixture()),
    half("llada-moe", qk_norm="head", no_keys=("causal",), both_ways=True, mixture=Mixture(normalise=False)),
)
"""A row each."""
