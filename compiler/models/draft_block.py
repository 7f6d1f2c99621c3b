"""Blocks behind a model's last, which draft the token after the next one: multi-token prediction (`nextn`).

Such a block reads the embedding of a token and the hidden state of the one before it, each normed, side by side. A
product of these goes through a layer as the model's own; norm and output matrix may be the model's.
Source: DeepSeek-AI, "DeepSeek-V3 Technical Report", section 2.2.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..graph import LOGITS, Graph, Weight
from ..graph_builder import GraphBuilder
from ..model_config import ModelConfig
from .decoder import Style, block, drawn, output_role

OPTIONAL = ("draft_embedding", "draft_norm", "draft_output")
"""Roles of a block that the model's own stand for where it has none."""
ROLES = ("draft_embedding_norm", "draft_hidden_norm", "draft_projection", *OPTIONAL)


def graph(style: Style, config: ModelConfig, weights: Mapping[str, Weight]) -> Graph:
    """See `Architecture`; of a block that is the only layer."""
    g = GraphBuilder(weights)
    layer, kind = g.layer(0), config.norm or style.norm
    if layer.has("draft_embedding"):
        embedded = layer.embed("embedded", "draft_embedding", config.embedding_scale)
    else:
        embedded = g.embed("embedded", "token_embedding", config.embedding_scale)
    given = layer.input_rows("hidden", count=config.hidden_size)
    both = [
        layer.norm("embedded_normed", embedded, "draft_embedding_norm", config.norm_epsilon, kind=kind),
        layer.norm("hidden_normed", given, "draft_hidden_norm", config.norm_epsilon, kind=kind),
    ]
    hidden = layer.linear("projected", layer.side_by_side("joined", *both), "draft_projection")
    hidden = block(layer, style, config, 0, hidden)
    of_norm, norm = (layer, "draft_norm") if layer.has("draft_norm") else (g, "output_norm")
    normed = of_norm.norm("final_normed", hidden, norm, config.norm_epsilon, LOGITS, kind=kind)
    of_output, output = (layer, "draft_output") if layer.has("draft_output") else (g, output_role(config))
    return drawn(g, config, of_output.linear("logits", normed, output))
