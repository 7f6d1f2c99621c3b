"""Decoders of blocks of attention and feed-forward, as their rows (`decoder_rows.py`) declare them.

Norms stand where the model has weights for them: before attention and feed-forward, behind them, or both. Where there
is none before the feed-forward, it reads what attention reads, beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Literal

from ...artifacts.dataclass import dataclass
from ..graph import LOGITS, TOKENS, Attribute, Graph, Weight
from ..graph_builder import GraphBuilder
from ..model_config import LayerConfig, ModelConfig
from . import latent, mixers
from .architecture import DraftInput, Shapes
from .experts import expert_feed_forward, expert_shapes

_MAVERICK_EXPERTS = 128  # Llama 4 with as many has no norms of queries and keys
_PROJECTIONS = ("attention_q", "attention_k", "attention_v")
QkNorm = Literal["", "head", "heads", "row", "hidden"]


@dataclass(frozen=True, slots=True)
class Style:
    """What sets a decoder apart from llama.

    Attributes:
        activation: of the feed-forward, one of `ACTIVATIONS`: of its gate, where it has one.
        norm: "rms" or "layer".
        weightless: roles of norms that it has without weights.
        post_epsilon: of norms behind attention and feed-forward; 0: that of all.
        qk_norm: of queries and keys: over each "head", with weights that all share, or of each of the "heads", or over
            the whole "row", or over a row that is as wide as the residual stream ("hidden").
        qk_norm_kind: "rms" or "layer".
        qk_norm_after: it comes behind the rotation.
        only_rotated: only heads that rotate have these norms, and only those that do not, temperatures.
        chunked: windows are chunks of as many positions, of which one sees its own.
        both_ways: a position sees those after it too.
        gate: activation of the gate of what attention found.
        gate_limit: of feed-forwards' gates, see `ops/gate.py`, as `up_offset`; 0: none.
        weighted_inputs: experts' weights multiply what they read, not what they make.
        routed_by_input: experts are chosen by what the layer reads, before any norm.
        dense_beside: a layer with experts may have a dense feed-forward beside them.
        adds_to_normed: what attention and feed-forward make is added to what they read, normed.
        halved: what experts and the shared one make is taken by half.
        drafts: see `Architecture`.
    """

    activation: str = "silu"
    norm: str = "rms"
    weightless: tuple[str, ...] = ()
    post_epsilon: float = 0.0
    qk_norm: QkNorm = ""
    qk_norm_kind: str = "rms"
    qk_norm_after: bool = False
    only_rotated: bool = False
    chunked: bool = False
    both_ways: bool = False
    gate: str = "sigmoid"
    gate_limit: float = 0.0
    up_offset: float = 0.0
    weighted_inputs: bool = False
    routed_by_input: bool = False
    dense_beside: bool = False
    halved: bool = False
    adds_to_normed: bool = False
    drafts: DraftInput = ""


def shapes(style: Style, config: ModelConfig, layer: LayerConfig) -> Shapes:
    """See `Architecture`; a layer without heads or feed-forward has no weights of theirs."""
    hidden, inner = config.hidden_size, layer.intermediate_size
    found: dict[str, tuple[int, ...]] = {
        "token_embedding": (config.vocab_size, hidden),
        "position_embedding": (config.max_seq_len, hidden),
        "embedding_norm": (hidden,),
        "output_norm": (hidden,),
        **_rope_shapes(config),
    }
    if not config.tie_word_embeddings:
        found["output"] = (config.vocab_size, hidden)
    if layer.num_heads or layer.recurrent:
        found |= dict.fromkeys(("attention_norm", "attention_norm_2", "attention_post_norm"), (hidden,))
    if layer.num_heads:
        found |= _attention_shapes(style, config, layer)
    if layer.recurrent:
        found |= mixers.shapes(config)
    if config.drafting:
        found |= dict.fromkeys(("draft_embedding_norm", "draft_hidden_norm", "draft_norm"), (hidden,))
        found |= dict.fromkeys(("draft_embedding", "draft_output"), (config.vocab_size, hidden))
        found["draft_projection"] = (hidden, 2 * hidden)
    if inner or layer.num_experts:
        found |= dict.fromkeys(("ffn_norm", "ffn_post_norm", "experts_norm"), (hidden,))
    found |= expert_shapes(config, layer)
    if inner and (style.dense_beside or not layer.num_experts):
        found |= {"ffn_gate": (inner, hidden), "ffn_up": (inner, hidden), "ffn_down": (hidden, inner)}
        found["ffn_divisors"] = (inner,)
    return found


def _rope_shapes(config: ModelConfig) -> Shapes:
    scaling, size = config.rope_scaling, (config.rope_dim // 2,)
    if scaling.kind == "longrope":
        return dict.fromkeys(("rope_factors_long", "rope_factors_short"), size)
    return {"rope_factors": size} if scaling.kind == "factors" or scaling.divided else {}


def _attention_shapes(style: Style, config: ModelConfig, layer: LayerConfig) -> Shapes:
    hidden = config.hidden_size
    if not layer.num_kv_heads:
        return {"attention_output": (hidden, hidden)}
    query, key = layer.num_heads * layer.head_dim, layer.num_kv_heads * layer.head_dim
    value_dim = layer.value_dim or layer.head_dim
    found: dict[str, tuple[int, ...]] = {
        "attention_q": (query, hidden),
        "attention_k": (key, hidden),
        "attention_v": (layer.num_kv_heads * value_dim, hidden),
        "attention_gate": (layer.num_heads * value_dim, hidden),
        "attention_output": (hidden, layer.num_heads * value_dim),
        "attention_sinks": (layer.num_heads,),
        "embedding_skip": (1,),
        # Rows of a fused tensor that has as many of keys, and of values, as of queries, which no head reads.
        "attention_rest": (query - key, hidden),
    }
    if config.kv_rank:
        found = {role: shape for role, shape in found.items() if role not in _PROJECTIONS}
        found |= latent.shapes(config, layer)
    if style.qk_norm and (not style.only_rotated or (layer.rope_dim and config.num_experts != _MAVERICK_EXPERTS)):
        of_both = {"head": (layer.head_dim,) * 2, "hidden": (hidden,) * 2}.get(style.qk_norm, (query, key))
        found |= {"attention_q_norm": of_both[:1], "attention_k_norm": of_both[1:]}
    return found


def graph(style: Style, config: ModelConfig, weights: Mapping[str, Weight]) -> Graph:
    """See `Architecture`."""
    g = GraphBuilder(weights)
    hidden = embedded_rows(g, config)
    if g.has("position_embedding"):
        hidden = g.position_embed("placed", hidden, "position_embedding")
    hidden = embedded = _norm(g, style, config, "embedding_normed", hidden, "embedding_norm")
    for number in range(config.num_layers):
        layer = g.layer(number)
        _tap(g, config, number, hidden)
        hidden = with_deepstack(layer, config, number, block(layer, style, config, number, hidden))
        if layer.has("embedding_skip"):
            skipped = layer.scale_by("embedding_skip", embedded, "embedding_skip")
            hidden = layer.add("skip_residual", hidden, skipped)
    _tap(g, config, config.num_layers, hidden)
    normed = _norm(g, style, config, "final_normed", hidden, "output_norm", LOGITS)
    return drawn(g, config, g.linear("logits", normed, output_role(config)))


def _tap(g: GraphBuilder, config: ModelConfig, number: int, hidden: str) -> None:
    """Append what a head reads of the residual stream before a layer, where one does."""
    for index, tapped in enumerate(config.taps):
        if tapped == number:
            g.tap(hidden, index * config.hidden_size, len(config.taps) * config.hidden_size)


def output_role(config: ModelConfig) -> str:
    """Return the role of the matrix that makes logits."""
    return "token_embedding" if config.tie_word_embeddings else "output"


def drawn(g: GraphBuilder, config: ModelConfig, logits: str) -> Graph:
    """Return the graph, with what is drawn from logits."""
    if config.logit_scale != 1 or config.logit_softcap:
        logits = g.logits_map("mapped_logits", logits, config.logit_scale, config.logit_softcap)
    g.sample("sampled", logits)
    return g.graph()


def embedded_rows(g: GraphBuilder, config: ModelConfig) -> str:
    """Append what each token begins with: a row of its own, scaled, or where it stands for a picture what is given."""
    hidden = g.embed("embedded", "token_embedding", config.embedding_scale)
    return g.input_rows("with_pictures", hidden) if config.takes_images else hidden


def with_deepstack(g: GraphBuilder, config: ModelConfig, number: int, hidden: str) -> str:
    """Append the sum with what pictures add after a layer, where they add some.

    Source: Meng et al.: "DeepStack", as Qwen3-VL has it: each of the first layers has columns of its own.
    """
    if not config.takes_images or number >= config.deepstack:
        return hidden
    return g.input_rows("with_deepstack", hidden, column=(number + 1) * config.hidden_size, add=True)


def _norm(
    g: GraphBuilder, style: Style, config: ModelConfig, output: str, source: str, role: str, rows: str = TOKENS
) -> str:
    """Append a norm where the model has one; else return its source."""
    epsilon = style.post_epsilon if style.post_epsilon and "post" in role else config.norm_epsilon
    kind = config.norm or style.norm
    if g.has(role):
        return g.norm(output, source, role, epsilon, rows, kind=kind)
    if role in style.weightless:
        return g.norm(output, source, "", epsilon, rows, kind=kind)
    return source


def block(g: GraphBuilder, style: Style, config: ModelConfig, number: int, hidden: str) -> str:
    """Append a layer; `number` counts it, and its cache."""
    has = config.layer(number)
    normed = _norm(g, style, config, "attention_normed", hidden, "attention_norm")
    source, between = normed, normed if style.adds_to_normed else hidden
    if has.num_heads:
        if g.has("attention_norm_2"):
            source = _norm(g, style, config, "attention_normed_2", hidden, "attention_norm_2")
        between = g.add("attention_residual", between, _attention(g, style, config, number, source))
    if has.recurrent:
        mixed = _norm(g, style, config, "mixed_normed", mixers.mixed(g, config, normed), "attention_post_norm")
        between = g.add("mixed_residual", between, mixed)
    if g.has("experts_norm"):
        return _beside(g, style, config, number, hidden, between)
    if not has.intermediate_size and not has.num_experts:
        return between
    beside = normed != hidden and not g.has("ffn_norm") and "ffn_norm" not in style.weightless
    source = normed if beside else hidden if config.parallel else between
    source = _norm(g, style, config, "ffn_normed", source, "ffn_norm")
    between = source if style.adds_to_normed else between
    return g.add("ffn_residual", between, _branch(g, style, config, number, source, hidden))


def _beside(g: GraphBuilder, style: Style, config: ModelConfig, number: int, hidden: str, between: str) -> str:
    """Append a dense feed-forward, and experts that read what the layer does."""
    dense = feed_forward(g, style, config, _norm(g, style, config, "ffn_normed", between, "ffn_norm"))
    sums = g.add("ffn_residual", between, dense)
    source = _norm(g, style, config, "experts_normed", hidden, "experts_norm")
    return g.add("experts_residual", sums, expert_feed_forward(g, config, source, style.activation))


def _branch(g: GraphBuilder, style: Style, config: ModelConfig, number: int, source: str, hidden: str) -> str:
    """Append the feed-forward of a layer, of the kind that it has; `hidden` is what the layer reads."""
    if config.xielu:
        return _xielu_branch(g, config, number, source)
    if not config.layer(number).num_experts:
        return feed_forward(g, style, config, source)
    limit = config.gate_limits[number] if config.gate_limits else style.gate_limit
    found = expert_feed_forward(
        g,
        config,
        source,
        style.activation,
        routed_by=hidden if style.routed_by_input else "",
        weighted_inputs=style.weighted_inputs,
        gate=_unusual(limit=limit, up_offset=style.up_offset),
    )
    if g.has("ffn_up"):
        dense = _feed_forward(g, style, config, source)
        found = g.scaled("dense_and_experts", g.add("dense_beside_experts", dense, found), 0.5**0.5)
    elif style.halved and g.has("ffn_up_shared"):
        found = g.scaled("experts_halved", found, 0.5)
    return _norm(g, style, config, "ffn_post_normed", found, "ffn_post_norm")


def _attention(g: GraphBuilder, style: Style, config: ModelConfig, number: int, normed: str) -> str:
    has = config.layer(number)
    found = attended(g, style, config, number, normed) if has.num_kv_heads else normed
    if g.has("attention_gate"):
        gate = g.activate("attention_gate", g.linear("attention_gate_in", normed, "attention_gate"), style.gate)
        found = g.mul("gated", found, gate)
    scale = config.residual_scale * config.value_scale
    out = g.linear("attention_out", found, "attention_output", scale=scale)
    return _norm(g, style, config, "attention_post_normed", out, "attention_post_norm")


def attended(g: GraphBuilder, style: Style, config: ModelConfig, number: int, normed: str) -> str:
    """Append attention over what the projections of `normed` are."""
    has = config.layer(number)
    heads: dict[str, Attribute] = {
        "layer": _cache(style, config, number),
        "num_heads": has.num_heads,
        "num_kv_heads": has.num_kv_heads,
        "head_dim": has.head_dim,
        **_unusual(value_dim=has.value_dim),
    }
    if config.kv_rank:
        heads |= latent.heads(config, has)
        qkv = latent.rows(g, config, has, normed)
    else:
        qkv = g.linear("qkv", normed, "attention_q", "attention_k", "attention_v")
    norms = ("attention_q_norm", "attention_k_norm") if g.has("attention_q_norm") else ()
    how: dict[str, Attribute] = {"norm_rows": style.qk_norm in ("row", "hidden"), "norm_after": style.qk_norm_after}
    if style.qk_norm_kind != "rms":
        how["norm"] = style.qk_norm_kind
    rotated = g.rope_kv(
        "rotated_qkv",
        qkv,
        norms,
        has.rope_table,
        "temperatures" if "temperatures" in g.weights and bool(has.rope_dim) != style.only_rotated else "",
        rope_dim=has.rope_dim,
        interleaved=config.rope_style == "interleaved",
        epsilon=config.norm_epsilon,
        **_unusual(
            clamp=config.qkv_clamp,
            rope_first=config.kv_rank if has.rope_dim else 0,
            **(how if norms else {}),
            **_sections(config),
        ),
        **heads,
    )
    found = g.attention(
        "attended",
        rotated,
        has.num_heads * (config.kv_rank or has.value_dim or has.head_dim),
        "",
        "attention_sinks" if g.has("attention_sinks") else "",
        scale=config.attention_scale or has.head_dim**-0.5,
        **_unusual(
            **{"chunk" if style.chunked else "window": has.window},
            softcap=config.attention_softcap,
            max_bias=config.max_alibi_bias,
            both_ways=style.both_ways,
            sees_ahead=config.sees_ahead,
        ),
        **heads,
    )
    return g.head_linear("attended_values", found, "attention_v_b", has.num_heads) if config.kv_rank else found


def _sections(config: ModelConfig) -> dict[str, Attribute]:
    """Return the sections of the rotation; none where no token has other positions than its own."""
    if not config.takes_images or not any(config.rope_sections):
        return {}
    sections = ",".join(map(str, config.rope_sections))
    return {"sections": sections, "sections_interleaved": config.sections_interleaved}


def _cache(style: Style, config: ModelConfig, number: int) -> int:
    """Return the cache that a layer uses: its own, or the first where texts are computed whole, so that nobody comes
    back for its keys and values once it has read them."""
    if style.both_ways and not {"num_kv_heads", "head_dim", "value_dim"} & set(config.by_layer):
        return 0
    heads = config.by_layer.get("num_kv_heads")
    return sum(map(bool, heads[:number])) if heads else number


def _unusual(**attributes: Attribute) -> dict[str, Attribute]:
    """Return the attributes that are not 0, which is what stands for an absent one."""
    return {name: value for name, value in attributes.items() if value}


def _xielu_branch(g: GraphBuilder, config: ModelConfig, number: int, normed: str) -> str:
    """Append the feed-forward of `normed` whose activation has numbers of the layer."""
    activated = g.xielu("activated", g.linear("up", normed, "ffn_up"), **asdict(config.xielu[number]))
    return g.linear("ffn_out", activated, "ffn_down")


def feed_forward(g: GraphBuilder, style: Style, config: ModelConfig, normed: str) -> str:
    """Append the feed-forward of `normed`, with a gate where the model has one, and the norm behind it."""
    return _norm(g, style, config, "ffn_post_normed", _feed_forward(g, style, config, normed), "ffn_post_norm")


def _feed_forward(g: GraphBuilder, style: Style, config: ModelConfig, normed: str) -> str:
    activation = config.activation or style.activation
    if g.has("ffn_gate"):
        both = g.linear("gate_up", normed, "ffn_gate", "ffn_up")
        held = _unusual(limit=style.gate_limit, up_offset=style.up_offset)
        activated = g.gate("activated", both, activation, **held)
    else:
        activated = g.activate("activated", g.linear("up", normed, "ffn_up"), activation)
    if g.has("ffn_divisors"):
        activated = g.scale_by("divided", activated, "ffn_divisors")
    return g.linear("ffn_out", activated, "ffn_down", scale=config.residual_scale)
