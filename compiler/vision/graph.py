"""The graph of an encoder: patches as rows from outside, layers in which each sees all, and what makes rows of them.

Patches of a step are those of one picture, such that those that become a row are neighbours; rows are asked for at the
first of each. Source: llama.cpp 11434, `tools/mtmd/clip.cpp` (`build_vit`) and `models/*.cpp`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from ...artifacts.dataclass import dataclass
from ..graph import Attribute, Graph, Weight
from ..graph_builder import GraphBuilder
from .kinds import Kind

PROJECTOR_EPSILON = 1e-5
"""Of InternVL's projector, whatever the layers' is."""


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """What a graph is drawn of.

    Attributes:
        kind: of encoder.
        layers: of them.
        heads: of attention.
        hidden: of a patch's row.
        norm: `layer` or `rms`.
        epsilon: of norms.
        activation: of the feed-forward.
        merge: patches a side that become a row.
        patch_values: of a patch.
        full_every: of so many layers the last sees all, the others their window; 0: all see all.
        clamps: what inputs and products of a matrix are held between, by role: least and most of both.
    """

    kind: Kind
    layers: int
    heads: int
    hidden: int
    norm: str
    epsilon: float
    activation: str
    merge: int
    patch_values: int
    full_every: int
    clamps: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def head_dim(self) -> int:
        """Elements of a head."""
        return self.hidden // self.heads


def vision_graph(config: VisionConfig, weights: Mapping[str, Weight]) -> Graph:
    """Draw the graph; its last values are rows for the text model, as wide as `Vision.row_width`."""
    g = GraphBuilder(weights)
    hidden = _patches(g, config)
    if g.has("norm_before"):
        hidden = _norm(g, config, "normed_before", hidden, "norm_before")
    deep = [number for number in range(config.layers) if g.layer(number).has("deepstack_norm")]
    for number in range(config.layers):
        hidden = _layer(g.layer(number), config, number, hidden)
        if number in deep:
            _deep_rows(g.layer(number), config, hidden, 1 + deep.index(number), 1 + len(deep))
    if g.has("norm_after"):
        hidden = _norm(g, config, "normed_after", hidden, "norm_after")
    g.sample("sampled", _rows(g, config, hidden, 1 + len(deep)))
    return g.graph()


def _norm(g: GraphBuilder, config: VisionConfig, output: str, source: str, role: str) -> str:
    return g.norm(output, source, role, config.epsilon, g.values[source].rows, kind=config.norm)


def _product(g: GraphBuilder, config: VisionConfig, output: str, source: str, role: str) -> str:
    """Append the product with a matrix, held within its limits where it has some."""
    limits = config.clamps.get(g.prefix + role)
    if limits is None:
        return g.linear(output, source, role)
    held = g.clamp(f"{output}_source", source, *limits[:2])
    return g.clamp(output, g.linear(f"{output}_product", held, role), *limits[2:])


def _products(g: GraphBuilder, config: VisionConfig, output: str, source: str, *roles: str) -> str:
    """Append products with matrices side by side."""
    if not any(g.prefix + role in config.clamps for role in roles):
        return g.linear(output, source, *roles)
    return g.side_by_side(output, *(_product(g, config, f"{output}_{role}", source, role) for role in roles))


def _patches(g: GraphBuilder, config: VisionConfig) -> str:
    """Append rows of patches: products of their values, and what is added for their places."""
    values = g.input_rows("patches", count=config.patch_values)
    hidden = g.linear("embedded", values, "patch")
    if g.has("patch_next"):
        hidden = g.add("embedded_both", hidden, g.linear("embedded_next", values, "patch_next"))
    if config.kind.positions == "none":
        return hidden
    return g.input_rows("placed", hidden, column=config.patch_values, add=True)


def _layer(g: GraphBuilder, config: VisionConfig, number: int, hidden: str) -> str:
    normed = _norm(g, config, "attention_normed", hidden, "norm_1")
    branch = _product(g, config, "attention_out", _attended(g, config, number, normed), "attention_output")
    if g.has("attention_weights"):
        branch = g.scale_by("attention_weighted", branch, "attention_weights")
    if g.has("attention_after_norm"):
        branch = _norm(g, config, "attention_out_normed", branch, "attention_after_norm")
    hidden = g.add("attention_residual", hidden, branch)
    branch = _feed_forward(g, config, _norm(g, config, "ffn_normed", hidden, "norm_2"))
    if g.has("ffn_after_norm"):
        branch = _norm(g, config, "ffn_out_normed", branch, "ffn_after_norm")
    if g.has("ffn_weights"):
        branch = g.scale_by("ffn_weighted", branch, "ffn_weights")
    hidden = g.add("ffn_residual", hidden, branch)
    return g.scale_by("weighted", hidden, "out_weights") if g.has("out_weights") else hidden


def _attended(g: GraphBuilder, config: VisionConfig, number: int, normed: str) -> str:
    """Append attention; all layers share one cache, whose keys and values nobody reads after them."""
    names = ("attention_qkv",) if g.has("attention_qkv") else ("attention_q", "attention_k", "attention_v")
    heads: dict[str, Attribute] = {
        "layer": 0,
        "num_heads": config.heads,
        "num_kv_heads": config.heads,
        "head_dim": config.head_dim,
    }
    norms = ("attention_q_norm", "attention_k_norm") if g.has("attention_q_norm") else ()
    rotation: dict[str, Attribute] = {"rope_dim": 0, "interleaved": False}
    if config.kind.rope:
        axis = config.head_dim // 4
        rotation = {
            "rope_dim": config.head_dim,
            "interleaved": config.kind.rope == "turns",
            "sections": f"0,{axis},{axis},0",
        }
    if config.kind.name == "gemma4v":
        rotation["value_norm"] = True
    if norms and g.weights[g.prefix + norms[0]].shape != (config.head_dim,):
        rotation["norm_rows"] = True
    if norms and config.norm == "layer":
        rotation["norm"] = "layer"
    qkv = _products(g, config, "qkv", normed, *names)
    qkv = g.rope_kv("rotated_qkv", qkv, norms, "rope_table", "", epsilon=config.epsilon, **heads, **rotation)
    windowed = bool(config.full_every) and bool((number + 1) % config.full_every)
    return g.attention(
        "attended",
        qkv,
        config.hidden,
        scale=1.0 if config.kind.name == "gemma4v" else config.head_dim**-0.5,
        both_ways=True,
        **({"spans": True} if windowed else {}),
        **heads,
    )


def _feed_forward(g: GraphBuilder, config: VisionConfig, normed: str) -> str:
    if g.has("ffn_gate"):
        both = _products(g, config, "ffn_gate_up", normed, "ffn_gate", "ffn_up")
        inner = g.gate("ffn_gated", both, config.activation)
    else:
        inner = g.activate("ffn_activated", _product(g, config, "ffn_up", normed, "ffn_up"), config.activation)
    return _product(g, config, "ffn_down", inner, "ffn_down")


def _deep_rows(g: GraphBuilder, config: VisionConfig, hidden: str, index: int, count: int) -> None:
    """Append rows that are added after a layer of the text model, at their place behind those of tokens."""
    merged = g.merge_rows("deepstack_merged", hidden, config.merge**2)
    normed = _norm(g, config, "deepstack_normed", merged, "deepstack_norm")
    inner = g.activate("deepstack_activated", g.linear("deepstack_up", normed, "deepstack_up"), "gelu")
    width = g.weights[g.prefix + "deepstack_down"].shape[0]
    g.linear_slice("rows", inner, "deepstack_down", index * width, count * width)


def _rows(g: GraphBuilder, config: VisionConfig, hidden: str, parts: int) -> str:
    """Append rows for the text model of patches after the last layer, before those of `parts` - 1 earlier layers."""
    count = config.merge**2
    if config.kind.name == "gemma3":
        merged = g.merge_rows("pooled", hidden, count, "mean")
        merged = g.norm("rows_normed", merged, "row_norm", config.epsilon, g.values[merged].rows)
        return g.linear("rows", merged, "project")
    if config.kind.name == "gemma4v":
        return _gemma4_rows(g, config, g.merge_rows("pooled", hidden, count, "mean"))
    if config.kind.name == "pixtral" and g.has("merger"):
        hidden = g.norm("rows_normed", hidden, "row_norm", config.epsilon)
        hidden = g.linear("merged", g.merge_rows("neighbours", hidden, count, "turned"), "merger")
    else:
        hidden = g.merge_rows("merged", hidden, count)
    if config.kind.name == "idefics3":
        return g.linear("rows", hidden, "project")
    if config.kind.name == "internvl":
        rows = g.values[hidden].rows
        hidden = g.norm("rows_normed", hidden, "row_norm", PROJECTOR_EPSILON, rows, kind="layer")
    inner = g.activate("activated", g.linear("project_up", hidden, "project_up"), "gelu")
    return g.linear_slice("rows", inner, "project_down", 0, parts * g.weights["project_down"].shape[0])


def _gemma4_rows(g: GraphBuilder, config: VisionConfig, pooled: str) -> str:
    rows = g.scaled("pooled_scaled", pooled, config.hidden**0.5)
    if g.has("std_bias"):
        rows = g.scale_by("standard", g.add_weight("centred", rows, "std_bias"), "std_scale")
    rows = g.norm("rows_normed", rows, "", config.epsilon, g.values[rows].rows)
    return _product(g, config, "rows", rows, "project")
