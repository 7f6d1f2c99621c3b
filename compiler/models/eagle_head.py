"""The graph of an EAGLE 3 head: one layer that drafts tokens from what a model has in three of its layers.

It reads a token, and of the one before it either these three hidden states, side by side, or the one that the head
itself had there: what it does not take is given as zeros, of which its product is zero too.
Source: Li et al., "EAGLE-3: Scaling up Inference Acceleration of Large Language Models via Training-Time Test",
section 3.1; llama.cpp `src/models/eagle3.cpp`.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...artifacts.dataclass import dataclass
from ..graph import LOGITS, Attribute, Graph, Weight
from ..graph_builder import GraphBuilder

LAYER = "layers.0."
ROPE_TABLE = f"{LAYER}rope_table"


@dataclass(frozen=True, slots=True)
class EagleConfig:
    """The sizes of a head.

    Attributes:
        hidden_size: of its own.
        given_size: of the hidden states that it reads, side by side.
        intermediate_size: of its feed-forward.
        num_heads: of queries.
        num_kv_heads: of keys and values.
        head_dim: of both.
        rope_dim: elements of a head that rotate.
        norm_epsilon: of all norms.
        adds_to_normed: the sum of residuals begins with the hidden state as it is normed.
    """

    hidden_size: int
    given_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope_dim: int
    norm_epsilon: float
    adds_to_normed: bool


def shapes(config: EagleConfig, vocab_size: int, draft_vocab_size: int) -> Mapping[str, tuple[int, ...]]:
    """Return the shapes of what a head has by its role within the layer; matrices are [outputs, inputs].

    Args:
        config: its sizes.
        vocab_size: tokens of the model.
        draft_vocab_size: those that it drafts.
    """
    hidden, inner = config.hidden_size, config.intermediate_size
    query, key = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    return {
        "embedding": (vocab_size, hidden),
        "fusion_norm": (config.given_size,),
        "fusion": (hidden, config.given_size),
        "embedding_norm": (hidden,),
        "hidden_norm": (hidden,),
        "attention_q": (query, 2 * hidden),
        "attention_k": (key, 2 * hidden),
        "attention_v": (key, 2 * hidden),
        "attention_output": (hidden, query),
        "ffn_norm": (hidden,),
        "ffn_gate": (inner, hidden),
        "ffn_up": (inner, hidden),
        "ffn_down": (hidden, inner),
        "final_norm": (hidden,),
        "output": (draft_vocab_size, hidden),
        "rope_factors": (config.rope_dim // 2,),
    }


def graph(config: EagleConfig, weights: Mapping[str, Weight], output: str) -> Graph:
    """Draw what a head computes.

    Args:
        config: its sizes.
        weights: by role: its own are those of layer 0; `token_embedding` and the output matrix are the model's.
        output: role of the model's output matrix.
    """
    g, epsilon = GraphBuilder(weights), config.norm_epsilon
    layer = g.layer(0)
    embedded = (
        layer.embed("embedded", "embedding") if layer.has("embedding") else g.embed("embedded", "token_embedding")
    )
    given = layer.input_rows("given", count=config.given_size)
    own = layer.input_rows("own", count=config.hidden_size, column=config.given_size)
    if layer.has("fusion_norm"):
        given = layer.norm("given_normed", given, "fusion_norm", epsilon)
    hidden = layer.add("hidden", own, layer.linear("fused", given, "fusion"))
    normed = layer.norm("hidden_normed", hidden, "hidden_norm", epsilon)
    joined = layer.side_by_side("joined", layer.norm("embedded_normed", embedded, "embedding_norm", epsilon), normed)
    between = normed if config.adds_to_normed else hidden
    between = layer.add("attention_residual", between, _attention(layer, config, joined))
    both = layer.linear("gate_up", layer.norm("ffn_normed", between, "ffn_norm", epsilon), "ffn_gate", "ffn_up")
    out = layer.linear("ffn_out", layer.gate("activated", both, "silu"), "ffn_down")
    hidden = layer.add("ffn_residual", between, out)
    g.tap(hidden, 0, config.hidden_size)
    normed = layer.norm("final_normed", hidden, "final_norm", epsilon, LOGITS)
    of_output, role = (layer, "output") if layer.has("output") else (g, output)
    logits = of_output.linear("logits", normed, role)
    if layer.has("draft_tokens"):
        logits = layer.token_logits("token_logits", logits, "draft_tokens")
    g.sample("sampled", logits)
    return g.graph()


def _attention(g: GraphBuilder, config: EagleConfig, joined: str) -> str:
    heads: dict[str, Attribute] = {
        "layer": 0,
        "num_heads": config.num_heads,
        "num_kv_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
    }
    qkv = g.linear("qkv", joined, "attention_q", "attention_k", "attention_v")
    rotated = g.rope_kv(
        "rotated_qkv",
        qkv,
        (),
        ROPE_TABLE,
        rope_dim=config.rope_dim,
        interleaved=True,
        epsilon=config.norm_epsilon,
        **heads,
    )
    columns = config.num_heads * config.head_dim
    found = g.attention("attended", rotated, columns, scale=config.head_dim**-0.5, **heads)
    return g.linear("attention_out", found, "attention_output")
