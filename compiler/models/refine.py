"""What files of some architectures say otherwise than by a key of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...artifacts.errors import printable
from ..arrays import is_array, np
from ..model_config import Experts, ModelConfig, Xielu
from ..model_source import ModelSource
from ..position_tables import RopeScaling, RopeTable, Temperatures

LLAMA4_CHUNK = 8192
_MAX_RANK = 1 << 17
_MAX_HEAD_DIM = 1024
_GLM_FLASH = ((47, 48), 154880)  # layers, vocabulary
_GEMMA_27B = {"gemma2": 46, "gemma3": 62}  # layers


def apertus(source: ModelSource, config: ModelConfig) -> ModelConfig:
    """The activation of each layer has numbers of its own; two of them are kept as what softplus makes them of.

    Raises:
        GgufError: one is missing, or no number.
    """
    of_layers = zip(
        *(_of_layers(source, f"xielu.{name}", config) for name in ("alpha_p", "alpha_n", "beta", "eps")), strict=True
    )
    numbers = (
        Xielu(math.log1p(math.exp(positive)), beta + math.log1p(math.exp(negative)), beta, epsilon)
        for positive, negative, beta, epsilon in of_layers
    )
    return replace(config, xielu=tuple(numbers))


def _of_layers(source: ModelSource, key: str, config: ModelConfig) -> tuple[float, ...]:
    """Return a number of each layer, which the source has one by one, or once for all."""
    value = source.metadata.get(key)
    if not is_array(value):
        return (source.get_float(key, minimum=-100, maximum=100),) * config.num_layers
    if value.dtype.kind != "f" or len(value) < config.num_layers or not (np.abs(value) <= 100).all():
        found = f"{len(value)} {value.dtype.name} values"
        raise source.error(key, f"expected -100 to 100 for each of {config.num_layers} layers, found {found}")
    return tuple(value[: config.num_layers].tolist())


def baichuan(source: ModelSource, config: ModelConfig) -> ModelConfig:
    """7B rotates; 13B has ALiBi, and a depth that is of neither has no positions, as in llama.cpp."""
    if config.num_layers == 32:
        return config
    return replace(config, rope_dim=0, rope_style="none", max_alibi_bias=8.0 if config.num_layers == 40 else 0.0)


def every_fourth_without_rope(source: ModelSource, config: ModelConfig) -> ModelConfig:
    """Every fourth layer does not rotate."""
    rotates = tuple(config.rope_dim if (layer + 1) % 4 else 0 for layer in range(config.num_layers))
    return replace(config, by_layer={**config.by_layer, "rope_dim": rotates})


def _without(config: ModelConfig, *names: str) -> dict[str, tuple[int | str, ...]]:
    """Return what differs between layers, but for these."""
    return {name: of_layers for name, of_layers in config.by_layer.items() if name not in names}


def exaone4(source: ModelSource, config: ModelConfig) -> ModelConfig:
    """Only 32B, of 64 layers, has windows."""
    if config.num_layers == 64:
        return config
    return replace(config, window=0, by_layer=_without(config, "window", "rope_dim", "rope_table"), further_tables={})


def afmoe(source: ModelSource, config: ModelConfig) -> ModelConfig:
    """Embeddings as Gemma's, and every fourth layer does not rotate."""
    return every_fourth_without_rope(source, replace(config, embedding_scale=config.hidden_size**0.5))


def arctic(source: ModelSource, config: ModelConfig) -> ModelConfig:
    """The inside of the dense feed-forward is as wide as the residual stream.

    Raises:
        GgufError: it has no experts beside that.
    """
    if config.experts is None:
        raise source.error("arctic.expert_count", "expected experts, found none")
    return replace(config, intermediate_size=config.hidden_size)


def llama4(source: ModelSource, config: ModelConfig) -> ModelConfig:
    """Chunks are of 8192 positions, whatever the file says, unless that is none; every fourth layer sees all, does not
    rotate, and has temperatures."""
    key = f"{config.architecture}.attention.sliding_window"
    if not source.get_int(key, LLAMA4_CHUNK, 0, 1 << 31):
        return replace(config, window=0, by_layer=_without(config, "window", "rope_dim", "rope_table"))
    windows = tuple(LLAMA4_CHUNK if config.layer(number).window else 0 for number in range(config.num_layers))
    config = replace(config, window=LLAMA4_CHUNK, by_layer={**config.by_layer, "window": windows})
    temperatures = Temperatures(0.1, LLAMA4_CHUNK, 1)
    config = replace(config, further_tables={**config.further_tables, "temperatures": temperatures})
    return every_fourth_without_rope(source, config)


def maple(source: ModelSource, config: ModelConfig) -> ModelConfig:
    """Each layer has its limit of gates."""
    return replace(config, gate_limits=_of_layers(source, f"{config.architecture}.swiglu_clamp_exp", config))


def smallthinker(source: ModelSource, config: ModelConfig) -> ModelConfig:
    """With windows, of 4096 whatever the file says, every fourth layer from the first on does not rotate."""
    if not config.window:
        return config
    windows = tuple(4096 if config.layer(number).window else 0 for number in range(config.num_layers))
    rotates = tuple(config.rope_dim if number % 4 else 0 for number in range(config.num_layers))
    return replace(config, window=4096, by_layer={**config.by_layer, "window": windows, "rope_dim": rotates})


def cohere2moe(source: ModelSource, config: ModelConfig) -> ModelConfig:
    """Leading dense layers rotate, whatever they see; norms are of the kind whose epsilon the file has."""
    key = f"{config.architecture}.attention.layer_norm_rms_epsilon"
    if key in source.metadata:
        config = replace(config, norm="rms", norm_epsilon=source.get_float(key, minimum=1e-12, maximum=1))
    leading = source.get_int(f"{config.architecture}.leading_dense_block_count", 0, 0, config.num_layers)
    rotates = (config.layer(number).rope_dim for number in range(config.num_layers))
    of_layers = tuple(config.rope_dim if number < leading else dim for number, dim in enumerate(rotates))
    return replace(config, by_layer={**config.by_layer, "rope_dim": of_layers})


def gemma(source: ModelSource, config: ModelConfig) -> ModelConfig:
    """Embeddings are multiplied by the root of their width; 27B scales scores by the width that heads share, and a
    folder says by what."""
    scale = source.get_float(f"{config.architecture}.attention.scale", 0.0, 0, 1)
    if not scale and config.num_layers == _GEMMA_27B.get(config.architecture):
        scale = (config.hidden_size // config.num_heads) ** -0.5
    return replace(config, embedding_scale=config.hidden_size**0.5, attention_scale=scale)


def glm4(source: ModelSource, config: ModelConfig) -> ModelConfig:
    """Vision models, whose rotation has sections, rotate in halves."""
    sections = source.metadata.get(f"{config.architecture}.rope.dimension_sections")
    return replace(config, rope_style="half") if is_array(sections) and sections.any() else config


def granite_scales(source: ModelSource, config: ModelConfig) -> ModelConfig:
    """Logits are divided by the scale."""
    return replace(config, logit_scale=1 / config.logit_scale)


def granite(source: ModelSource, config: ModelConfig) -> ModelConfig:
    """Those without rotation were left without by the training of a hybrid."""
    config = granite_scales(source, config)
    if source.get_bool(f"{config.architecture}.rope.scaling.finetuned", True):
        return config
    return replace(config, rope_dim=0, rope_style="none", rope_scaling=RopeScaling())


def granite_swa(source: ModelSource, config: ModelConfig) -> ModelConfig:
    """A layer that the pattern has not does not rotate."""
    config = granite_scales(source, config)
    pattern = source.metadata.get(f"{config.architecture}.attention.rope_pattern")
    if not is_array(pattern) or len(pattern) < config.num_layers:
        return config
    rotates = tuple(config.rope_dim if one else 0 for one in pattern[: config.num_layers])
    return replace(config, by_layer={**config.by_layer, "rope_dim": rotates})


def grok(source: ModelSource, config: ModelConfig) -> ModelConfig:
    """Scores are scaled by what has a key of its own."""
    key = f"{config.architecture}.attention.output_scale"
    return replace(config, attention_scale=source.get_float(key, config.attention_scale, -1e6, 1e6))


def halved_feed_forward(source: ModelSource, config: ModelConfig) -> ModelConfig:
    """Qwen 1 counts gate and up in one."""
    return replace(config, intermediate_size=config.intermediate_size // 2)


def hunyuan(source: ModelSource, config: ModelConfig) -> ModelConfig:
    """The base of the frequencies grows by a power of alpha, where there is one."""
    alpha = source.get_float(f"{config.architecture}.rope.scaling.alpha", 0.0, 0, 1e6)
    if not alpha:
        return config
    return replace(config, rope_theta=config.rope_theta * alpha ** (config.head_dim / (config.head_dim - 2)))


def jais(source: ModelSource, config: ModelConfig) -> ModelConfig:
    """Scores are divided by the elements of a head."""
    return replace(config, attention_scale=1 / config.head_dim)


def mpt(source: ModelSource, config: ModelConfig) -> ModelConfig:
    """Norms of queries and keys are both as wide as the residual stream.

    Raises:
        GgufError: there are such norms, and fewer keys than queries.
    """
    if "blk.0.attn_q_norm.weight" in source.tensors and config.num_kv_heads != config.num_heads:
        key, found = "mpt.attention.head_count_kv", config.num_kv_heads
        raise source.error(
            key, f"expected {config.num_heads}, as many as of queries, whose norm there is, found {found}"
        )
    return config


def minimax_01(source: ModelSource, config: ModelConfig) -> ModelConfig:
    """Files multiply what is added to, not what is added: here the residual stream is divided by that scale, from the
    embedding on, and so is, by its square, the epsilon of norms, which else would know the difference.

    Raises:
        GgufError: the scale is below 0, or as good as 0 or infinite.
    """
    key, scale = f"{config.architecture}.residual_scale", config.residual_scale
    if not 1e-3 <= scale <= 1e3:
        raise source.error(key, f"expected 0.001 to 1000, found {scale:g}")
    epsilon = config.norm_epsilon / scale**2
    return replace(config, embedding_scale=1 / scale, residual_scale=1 / scale, norm_epsilon=epsilon)


def minicpm(source: ModelSource, config: ModelConfig) -> ModelConfig:
    """Older files lack the scales, which follow from the sizes."""
    usual = _minicpm_scales(config)
    said = {name for name in usual if source.get_float(f"{config.architecture}.{name}", 0.0)}
    config = replace(config, **{name: value for name, value in usual.items() if name not in said})
    return replace(config, logit_scale=1 / config.logit_scale)


def _minicpm_scales(config: ModelConfig) -> dict[str, Any]:
    return {
        "embedding_scale": 12.0,
        "residual_scale": 1.4 / config.num_layers**0.5,
        "logit_scale": config.hidden_size / 256,
    }


def minicpm3(source: ModelSource, config: ModelConfig) -> ModelConfig:
    """Its attention is latent, and its scales are those of older files of MiniCPM, which it has no keys for."""
    usual = _minicpm_scales(config)
    scales = {**usual, "logit_scale": 1 / usual["logit_scale"]}
    return latent_attention(source, replace(config, **scales))


def latent_attention(source: ModelSource, config: ModelConfig) -> ModelConfig:
    """Keys and values of all heads are made of one latent, which is all that is kept of a token.

    Files whose attention is absorbed have the sizes of the cache's heads where others have those of heads, and these
    under keys of their own.

    Raises:
        InputError: the sizes do not fit each other.
    """
    prefix = f"{config.architecture}.attention"
    kv_rank = source.get_int(f"{prefix}.kv_lora_rank", None, 1, _MAX_RANK)
    query_rank = source.get_int(f"{prefix}.q_lora_rank", 0, 0, _MAX_RANK)
    if "blk.0.attn_q.weight" in source.tensors:
        query_rank = 0
    head_dim = source.get_int(f"{prefix}.key_length_mla", 0, 0, _MAX_HEAD_DIM) or config.head_dim
    value_dim = source.get_int(f"{prefix}.value_length_mla", 0, 0, _MAX_HEAD_DIM)
    value_dim = value_dim or config.value_dim or config.head_dim
    tail_key = f"{config.architecture}.rope.dimension_count"
    tail = source.get_int(tail_key, None, 2, _MAX_HEAD_DIM)
    if tail > head_dim:
        raise source.error(tail_key, f"expected at most the {head_dim} elements of a head, found {tail}")
    by_layer = _with_one_kv_head(config)
    config = replace(config, num_kv_heads=1, head_dim=head_dim, value_dim=value_dim, by_layer=by_layer)
    return replace(config, kv_rank=kv_rank, query_rank=query_rank, key_tail=tail)


def _with_one_kv_head(config: ModelConfig) -> dict[str, tuple[int | str, ...]]:
    """Return what differs between layers, where those with keys have one head of them."""
    kv_heads = tuple(min(int(one), 1) for one in config.by_layer.get("num_kv_heads", ()))
    same = _without(config, "num_kv_heads")
    return {**same, "num_kv_heads": kv_heads} if len(set(kv_heads)) > 1 else same


def deepseek2(source: ModelSource, config: ModelConfig) -> ModelConfig:
    """Latent attention whose scores grow by YaRN's magnitude; cosines and sines then do not.

    Source: llama.cpp 11434, `src/models/deepseek2.cpp`, which has a multiplier of 0.1 in files as 1.
    """
    config = latent_attention(source, config)
    scaling = config.rope_scaling
    multiplier = scaling.log_multiplier * 10
    if multiplier and config.architecture == "deepseek2":
        scaling = replace(scaling, log_multiplier=1.0)
    elif multiplier:
        scaling = replace(scaling, log_multiplier=multiplier)
    grown = scaling.magnitude()
    if scaling.kind == "yarn" and scaling.factor > 1:
        grown *= 1 + 0.1 * multiplier * math.log(scaling.factor)
    tables, temperatures = dict(config.further_tables), config.further_tables.get("temperatures")
    length_key = f"{config.architecture}.attention.temperature_length"
    if isinstance(temperatures, Temperatures) and length_key in source.metadata:
        tables["temperatures"] = replace(temperatures, length=source.get_int(length_key, None, 1, 1 << 31))
    config = replace(config, rope_scaling=scaling, attention_scale=grown**2 * config.head_dim**-0.5)
    return replace(config, experts=_deepseek2_experts(source, config), further_tables=tables)


def _deepseek2_experts(source: ModelSource, config: ModelConfig) -> Experts | None:
    """Return the experts; older files of GLM-4.7-Flash do not say that their scores are sigmoids."""
    layers, vocabulary = _GLM_FLASH
    said = source.get_int(f"{config.architecture}.expert_gating_func", 0)
    if said or config.experts is None or config.num_layers not in layers or config.vocab_size != vocabulary:
        return config.experts
    return replace(config.experts, scoring="sigmoid")


def seen_whole(source: ModelSource, config: ModelConfig) -> ModelConfig:
    """Where an indexer chooses what positions see, it chooses all as long as they are not more than it may: a longer
    context is not supported."""
    prefix = f"{config.architecture}.attention.indexer"
    most = source.get_int(f"{prefix}.top_k", None, 1, 1 << 31) * source.get_int(f"{prefix}.block_size", 1, 1, 1 << 20)
    return replace(config, max_seq_len=min(config.max_seq_len, most), bounded=True)


def deepseek32(source: ModelSource, config: ModelConfig) -> ModelConfig:
    """As DeepSeek V2, with an indexer."""
    return seen_whole(source, deepseek2(source, config))


def laguna(source: ModelSource, config: ModelConfig) -> ModelConfig:
    """Layers with windows rotate other elements than the others, by a table without stretching."""
    tables, role = dict(config.further_tables), "rope_table_windowed"
    table = tables.get(role)
    if not config.window or not isinstance(table, RopeTable):
        return config
    key = f"{config.architecture}.rope.dimension_count_swa"
    dim = source.get_int(key, config.rope_dim, 2, config.head_dim)
    rotates = tuple(dim if config.layer(number).window else config.rope_dim for number in range(config.num_layers))
    tables[role] = replace(table, dim=dim)
    return replace(config, by_layer={**config.by_layer, "rope_dim": rotates}, further_tables=tables)


_GATES: Mapping[str, str] = {
    **dict.fromkeys(("gelu", "geglu"), "gelu"),
    **dict.fromkeys(("silu", "swish", "swiglu"), "silu"),
    "reglu": "relu",
}
"""A gate's activation by the names that files of ModernBERT's have for it, as llama.cpp 11434 reads them."""


def modern_bert(source: ModelSource, config: ModelConfig) -> ModelConfig:
    """Some have another activation, and some blocks behind the encoder's, which decide between answers.

    Raises:
        InputError: the activation is none that its gate may have, or there are such blocks.
    """
    key, blocks_key = (f"{config.architecture}.{name}" for name in ("hidden_activation", "decision.block_count"))
    if blocks := source.get_int(blocks_key, 0, 0, 1 << 16):
        raise source.error(blocks_key, f"expected an encoder alone, found {blocks} blocks that choose answers")
    said = source.get_str(key, "gelu")
    if said not in _GATES:
        raise source.error(key, f"expected {', '.join(_GATES)}, found {printable(said)}")
    return replace(config, activation=_GATES[said])


def nanbeige(source: ModelSource, config: ModelConfig) -> ModelConfig:
    """Some run through their layers more than once.

    Raises:
        InputError: it is one of these.
    """
    key = f"{config.architecture}.num_loops"
    loops = source.get_int(key, 1, 0, 1 << 16)
    if loops > 1:
        raise source.error(key, f"expected a model that runs its layers once, found {loops} times")
    return config
