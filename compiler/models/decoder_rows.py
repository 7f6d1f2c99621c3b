"""The decoders that can be compiled, a row each: what sets it apart from llama.

Source: llama.cpp 11434, `src/models/*.cpp`, for what each architecture has; its published files for names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ..model_config import ModelConfig, RopeStyle
from ..model_source import ModelSource
from . import experts
from . import refine as refined
from .architecture import Architecture, Mixture, WeightForm, Windows, as_read
from .decoder import Style, graph, shapes
from .decoder_names import FURTHER_KEYS, FUSED, KEYS, TENSORS

_ALL = (
    *("token_embedding", "output_norm", "output", "attention_norm", "attention_q", "attention_k", "attention_v"),
    *("attention_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down"),
)
"""Roles that a decoder has if its row does not say otherwise."""
_QKV = "blk.{layer}.attn_qkv"
_REST = "attention_rest"
_ROPE_FACTORS = ("rope_factors", "rope_factors_long", "rope_factors_short")
_POST = ("attention_post_norm", "ffn_post_norm")
_NORMS = ("output_norm", "attention_norm", "ffn_norm")
_OUTER_BIASES = ("attention_output_bias", "ffn_gate_bias", "ffn_up_bias", "ffn_down_bias")
_LATENT = ("attention_latent", "attention_latent_norm", "attention_key_tail", "attention_kv_b")
_SCALES = ("embedding_scale", "residual_scale", "logit_scale", "attention_scale")


def _row(
    name: str,
    rope_style: RopeStyle,
    *,
    without: tuple[str, ...] = (),
    also: tuple[str, ...] = (),
    optional: tuple[str, ...] = (),
    unread: tuple[str, ...] = (),
    forms: Mapping[str, WeightForm] | None = None,
    names: Mapping[str, str] | None = None,
    keys: tuple[str, ...] = (),
    no_keys: tuple[str, ...] = (),
    defaults: Mapping[str, float] | None = None,
    windows: Windows | None = None,
    mixture: Mixture | None = None,
    fused: tuple[str, ...] = (),
    refine: Callable[[ModelSource, ModelConfig], ModelConfig] = as_read,
    **style: Any,
) -> Architecture:
    """Return a row.

    Args:
        without: roles of `_ALL` that it has not.
        also: roles that it has beside them.
        optional: roles that its files may have.
        names: GGUF's name of a tensor by its role, where that is another than in `TENSORS`.
        unread: see `Architecture`, as `forms`.
        keys: hyperparameters of `FURTHER_KEYS` that it has.
        no_keys: those of `KEYS` that mean nothing in its files.
        style: fields of `Style`.
    """
    how = Style(**style)
    norms = ("attention_q_norm", "attention_k_norm") if how.qk_norm and "attention_q_norm" not in optional else ()
    if mixture is not None:
        also, optional = (*also, *experts.ROLES), (*optional, *experts.OPTIONAL)
    roles = {*_ALL, *also, *optional, *norms} - set(without)
    known = {**TENSORS, **(names or {})}
    windowed: tuple[str, ...] = ("window", "window_pattern") if windows else ()
    if windows and windows.theta is not None:
        windowed += ("rope_theta_windowed",)
    epsilon = {"norm_epsilon": "attention.layer_norm_epsilon"} if how.norm == "layer" else {}
    named = {**KEYS, **{one: FURTHER_KEYS[one] for one in (*keys, *windowed)}, **epsilon}
    return Architecture(
        name,
        rope_style,
        {one: key for one, key in named.items() if one not in no_keys},
        {role: gguf for role, gguf in known.items() if role in roles},
        partial(shapes, how),
        partial(graph, how),
        frozenset(optional),
        {**{base: parts for base, parts in FUSED.items() if roles >= set(parts)}, **({_QKV: fused} if fused else {})},
        frozenset(unread),
        forms or {},
        defaults or {},
        windows,
        mixture,
        refine,
    )


_llama = partial(_row, rope_style="interleaved")
_half = partial(_row, rope_style="half")

ARCHITECTURES = (
    _llama("llama", optional=_ROPE_FACTORS, mixture=Mixture()),
    _half("qwen2"),
    _half("qwen3", qk_norm="head"),
    _half("qwen2vl", unread=("output_bias",), defaults={"norm_epsilon": 1e-6}),
    _half("qwen3vl", qk_norm="head"),
    _half("qwen3tts", qk_norm="head"),
    _half("seed_oss", names={"ffn_norm": "blk.{layer}.post_attention_norm.weight"}),
    _llama("mistral3", optional=_ROPE_FACTORS, keys=("temperature_scale",), mixture=Mixture()),
    _llama("internlm2"),
    _llama("xverse"),
    _llama("ernie4_5", no_keys=("num_experts",)),
    _half("paddleocr", no_keys=("num_experts",)),
    _half("exaone", optional=_ROPE_FACTORS),
    _half("pangu-embedded"),
    _half("cogvlm", fused=("attention_q", "attention_k", _REST, "attention_v", _REST)),
    _half("qwen", fused=(*FUSED[_QKV], _REST, _REST), refine=refined.halved_feed_forward),
    _llama("nanbeige", optional=_ROPE_FACTORS, refine=refined.nanbeige),
    _llama("baichuan", refine=refined.baichuan),
    _llama("smollm3", refine=refined.every_fourth_without_rope),
    _llama("arcee", without=("ffn_gate",), optional=_ROPE_FACTORS, activation="relu2"),
    _half("apertus", without=("ffn_gate",), optional=_ROPE_FACTORS, qk_norm="head", refine=refined.apertus),
    _llama("chatglm"),
    _half("phi3", optional=_ROPE_FACTORS[1:]),
    _llama(
        "granite",
        optional=_ROPE_FACTORS,
        keys=(*_SCALES, "rope_finetuned"),
        refine=refined.granite,
        mixture=Mixture(),
    ),
    _llama("granitemoe", optional=_ROPE_FACTORS, keys=_SCALES, refine=refined.granite_scales, mixture=Mixture()),
    _llama("minicpm", optional=_ROPE_FACTORS, keys=_SCALES[:3], refine=refined.minicpm, mixture=Mixture()),
    _half(
        "minicpm3",
        without=("attention_k", "attention_v"),
        also=("attention_q_a", "attention_q_a_norm", *_LATENT),
        optional=_ROPE_FACTORS[1:],
        names={"attention_q": "blk.{layer}.attn_q_b.weight"},
        keys=("kv_rank", "query_rank"),
        refine=refined.minicpm3,
    ),
    _llama("maincoder", qk_norm="head", qk_norm_after=True),
    _half("hunyuan-dense", qk_norm="head", qk_norm_after=True, keys=("rope_alpha",), refine=refined.hunyuan),
    _half("hunyuan_vl", qk_norm="head", qk_norm_after=True, keys=("rope_alpha",), refine=refined.hunyuan),
    _llama("glm4", also=_POST, refine=refined.glm4),
    _half("plamo", without=("ffn_norm",)),
    _half("openelm", qk_norm="head"),
    _llama("deci", optional=_ROPE_FACTORS),
    # Mixtures of experts.
    _half("qwen2moe", mixture=Mixture(normalise=False)),
    _half("qwen3moe", qk_norm="head", mixture=Mixture()),
    _half("qwen3vlmoe", qk_norm="head", mixture=Mixture()),
    _half("olmoe", qk_norm="row", mixture=Mixture(normalise=False)),
    _half("phimoe", optional=_ROPE_FACTORS[1:], mixture=Mixture()),
    _half(
        "gpt-oss",
        also=("attention_sinks",),
        names={"ffn_norm": "blk.{layer}.post_attention_norm.weight"},
        windows=Windows(2, theta=0.0),
        activation="gelu_quick",
        gate_limit=7.0,
        up_offset=1.0,
        mixture=Mixture("chosen", normalise=False),
    ),
    _half(
        "dbrx",
        names={"ffn_norm": "blk.{layer}.attn_output_norm.weight"},
        keys=("qkv_clamp",),
        norm="layer",
        mixture=Mixture(),
    ),
    _half(
        "exaone-moe",
        optional=_ROPE_FACTORS,
        qk_norm="head",
        windows=Windows(4, 128, rotates_full=False, theta=0.0),
        mixture=Mixture(normalise=None, said=True),
    ),
    _half(
        "grok",
        also=_POST,
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
        },
        activation="gelu",
        dense_beside=True,
        mixture=Mixture(),
    ),
    _half(
        "afmoe",
        also=(*_POST, "attention_gate"),
        qk_norm="head",
        windows=Windows(4, theta=0.0),
        refine=refined.afmoe,
        mixture=Mixture("sigmoid", normalise=None, said=True),
    ),
    _half(
        "mellum",
        qk_norm="head",
        windows=Windows(4, scaled=False),
        mixture=Mixture(),
    ),
    _half(
        "hy_v3",
        optional=_ROPE_FACTORS,
        names={"expert_choice_bias": "blk.{layer}.exp_probs_b"},
        qk_norm="head",
        mixture=Mixture("sigmoid", normalise=None, said=True),
    ),
    _half(
        "maple",
        qk_norm="head",
        windows=Windows(0, rotates_full=False, theta=0.0),
        refine=refined.maple,
        mixture=Mixture(),
    ),
    _half(
        "smallthinker",
        windows=Windows(4, theta=0.0, first=True),
        refine=refined.smallthinker,
        activation="relu",
        routed_by_input=True,
        mixture=Mixture(said=True),
    ),
    _llama("arctic", also=("experts_norm",), refine=refined.arctic, dense_beside=True, mixture=Mixture()),
    _half(
        "mimo2",
        optional=("attention_sinks",),
        unread=("attention_q_bias", "attention_k_bias", "attention_v_bias"),
        keys=("value_scale",),
        windows=Windows(0, theta=0.0),
        mixture=Mixture("sigmoid"),
    ),
    _llama(
        "llama4",
        optional=_ROPE_FACTORS,
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
    _llama(
        "cohere2moe",
        without=("ffn_norm",),
        optional=_ROPE_FACTORS,
        keys=("logit_scale",),
        windows=Windows(4, rotates_full=False, first=True),
        refine=refined.cohere2moe,
        norm="layer",
        halved=True,
        mixture=Mixture("sigmoid", normalise=None, said=True),
    ),
    _llama("deepseek", mixture=Mixture(normalise=False)),
    _llama("bailingmoe", mixture=Mixture(normalise=None)),
    _half("bailingmoe2", qk_norm="head", mixture=Mixture(normalise=None, said=True)),
    _half("dots1", qk_norm="head", mixture=Mixture(normalise=None, said=True)),
    _llama("ernie4_5-moe", mixture=Mixture()),
    _half("minimax-m2", qk_norm="row", mixture=Mixture(said=True)),
    _half(
        "glm4moe",
        optional=("attention_q_norm", "attention_k_norm"),
        names={"ffn_norm": "blk.{layer}.post_attention_norm.weight"},
        qk_norm="head",
        mixture=Mixture("sigmoid", normalise=None, said=True),
    ),
    _half("hunyuan-moe", qk_norm="head", qk_norm_after=True, mixture=Mixture()),
    _half("rnd1", qk_norm="head", no_keys=("causal",), both_ways=True, mixture=Mixture()),
    _half("llada-moe", qk_norm="head", no_keys=("causal",), both_ways=True, mixture=Mixture(normalise=False)),
    # Norms behind attention and feed-forward alone.
    _half("olmo2", without=("attention_norm", "ffn_norm"), also=_POST, qk_norm="row", windows=Windows(4, scaled=False)),
    _half(
        "exaone4",
        without=("attention_norm", "ffn_norm"),
        also=_POST,
        optional=_ROPE_FACTORS,
        qk_norm="head",
        windows=Windows(4, 4096, rotates_full=False),
        refine=refined.exaone4,
    ),
    # Gemma.
    _half("gemma", activation="gelu", refine=refined.gemma),
    _half(
        "gemma2",
        also=_POST,
        activation="gelu",
        keys=("attention_softcap", "logit_softcap"),
        defaults={"attention_softcap": 50.0, "logit_softcap": 30.0},
        windows=Windows(2, 4096, theta=0.0),
        refine=refined.gemma,
    ),
    _half(
        "gemma3",
        also=_POST,
        activation="gelu",
        qk_norm="head",
        keys=("logit_softcap",),
        windows=Windows(6, theta=10000.0, scaled=False),
        refine=refined.gemma,
    ),
    _half(
        "plamo3",
        also=_POST,
        names={
            "attention_post_norm": "blk.{layer}.post_attention_norm",
            "ffn_post_norm": "blk.{layer}.post_ffw_norm",
        },
        qk_norm="head",
        windows=Windows(8, theta=10000.0, scaled=False),
    ),
    # Layer norms.
    _half("orion", norm="layer"),
    _half("nemotron", without=("ffn_gate",), activation="relu2", norm="layer"),
    _half("jais2", without=("ffn_gate",), activation="relu2", norm="layer"),
    _half("starcoder2", without=("ffn_gate",), activation="gelu", norm="layer"),
    _half("codeshell", without=("ffn_gate",), activation="gelu", norm="layer"),
    _llama("pockettts", without=("ffn_gate",), activation="gelu", norm="layer"),
    _llama("olmo", without=_NORMS, keys=("qkv_clamp",), weightless=_NORMS, norm="layer"),
    _half(
        "stablelm",
        optional=("ffn_norm", "attention_q_norm", "attention_k_norm"),
        qk_norm="heads",
        qk_norm_kind="layer",
        norm="layer",
    ),
    # One norm, attention and feed-forward side by side.
    _half("phi2", without=("ffn_norm", "ffn_gate"), activation="gelu", norm="layer"),
    _half("falcon", without=("ffn_norm", "ffn_gate"), optional=("attention_norm_2",), activation="gelu", norm="layer"),
    _half("gptneox", without=("ffn_gate",), keys=("parallel",), activation="gelu", norm="layer"),
    _llama(
        "command-r",
        without=("ffn_norm",),
        optional=("attention_q_norm", "attention_k_norm"),
        keys=("logit_scale",),
        qk_norm="heads",
        qk_norm_kind="layer",
        norm="layer",
    ),
    _llama(
        "cohere2",
        without=("ffn_norm",),
        optional=_ROPE_FACTORS,
        keys=("logit_scale",),
        windows=Windows(4, rotates_full=False),
        norm="layer",
    ),
    # Learned positions, and ALiBi.
    _row("gpt2", "none", without=("ffn_gate",), also=("position_embedding",), activation="gelu", norm="layer"),
    _row("starcoder", "none", without=("ffn_gate",), also=("position_embedding",), activation="gelu", norm="layer"),
    _row(
        "mpt",
        "none",
        without=("ffn_gate",),
        optional=("position_embedding", "attention_q_norm", "attention_k_norm", "ffn_divisors"),
        forms={"ffn_divisors": "inverted"},
        keys=("max_alibi_bias", "qkv_clamp"),
        refine=refined.mpt,
        activation="gelu",
        qk_norm="hidden",
        qk_norm_kind="layer",
        norm="layer",
    ),
    _row(
        "bloom",
        "none",
        without=("ffn_gate",),
        also=("embedding_norm",),
        defaults={"max_alibi_bias": 8.0},
        activation="gelu",
        norm="layer",
    ),
    _row(
        "refact",
        "none",
        unread=_OUTER_BIASES,
        defaults={"max_alibi_bias": 8.0},
    ),
    _row("jais", "none", keys=("max_alibi_bias",), refine=refined.jais, norm="layer"),
    # Sinks and gates of attention.
    _llama(
        "granite_swa",
        also=("attention_sinks",),
        optional=_ROPE_FACTORS,
        keys=_SCALES,
        windows=Windows(0),
        refine=refined.granite_swa,
    ),
    _llama(
        "muse-glimmer",
        also=(*_POST, "attention_gate"),
        keys=("logit_scale", "logit_softcap"),
        weightless=("embedding_norm",),
        post_epsilon=1e-8,
        qk_norm="head",
        windows=Windows(4, rotates_full=False, theta=0.0, scaled=False),
    ),
    _half(
        "spark2_5",
        also=("attention_gate",),
        forms={"attention_gate": "repeated"},
        activation="gelu",
        windows=Windows(0, theta=0.0),
    ),
    _half(
        "talkie",
        without=_NORMS,
        also=("embedding_skip",),
        forms={"attention_q_norm": "repeated", "attention_k_norm": "ones"},
        keys=("logit_scale",),
        weightless=("embedding_norm", *_NORMS),
        qk_norm="heads",
        qk_norm_after=True,
    ),
    # Diffusion models, whose positions see each other.
    _half("dream", unread=("output_bias",), no_keys=("causal",), both_ways=True),
    _llama("llada", unread=_OUTER_BIASES, no_keys=("causal",), both_ways=True),
    # Encoders whose norms stand before attention and feed-forward.
    _llama("llama-embed", optional=_ROPE_FACTORS, no_keys=("causal",), both_ways=True),
    _half("eurobert", no_keys=("causal",), both_ways=True),
    _llama("neo-bert", names={"output_norm": "enc.output_norm.weight"}, no_keys=("causal",), both_ways=True),
    _half(
        "modern-bert",
        also=("embedding_norm",),
        optional=("attention_norm",),
        norm="layer",
        activation="gelu",
        windows=Windows(3, theta=10000.0, scaled=False, first=True),
        refine=refined.modern_bert,
        no_keys=("causal",),
        both_ways=True,
    ),
    _half(
        "gemma-embedding",
        also=_POST,
        activation="gelu",
        qk_norm="head",
        windows=Windows(6, theta=10000.0, scaled=False),
        refine=refined.gemma,
        no_keys=("causal",),
        both_ways=True,
    ),
)
"""A row each."""
