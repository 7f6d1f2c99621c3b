"""HRM-Text: a lower and an upper stack of layers, which are run in turn over two states of each token.

Source: llama.cpp 11434, `src/models/hrm-text.cpp`. The files' first half of layers is the lower stack, the other the
upper; each time that a layer is run it has keys and values of its own. Tokens of a prompt do not see those after them,
whatever `hrm.prefix_lm` says, as in llama.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from ..graph import LOGITS, TOKENS, Graph, Weight
from ..graph_builder import GraphBuilder
from ..model_config import LayerConfig, ModelConfig
from ..model_source import ModelSource
from . import decoder
from .architecture import Architecture, Shapes
from .decoder import Style
from .decoder_names import FURTHER_KEYS, FUSED, KEYS, TENSORS

_MOST: Final = 1024  # layers, each time counted
_STYLE: Final = Style(weightless=("attention_norm", "ffn_norm"))
_ROLES: Final = (
    *("token_embedding", "output", "attention_q", "attention_k", "attention_v", "attention_gate", "attention_output"),
    *("ffn_gate", "ffn_up", "ffn_down"),
)


def refine(source: ModelSource, config: ModelConfig) -> ModelConfig:
    """Return a configuration of the layers that the file has; it counts each time that one is run.

    Raises:
        InputError: counts that do not fit each other.
    """
    key = ARCHITECTURES[0].key
    names = ("stack", "high_cycles", "low_cycles")
    stack, high, low = (source.get_int(key(name), minimum=1, maximum=_MOST) for name in names)
    runs = stack * high * (low + 1)
    if config.num_layers != runs:
        found = f"found {config.num_layers}"
        raise source.error(key("num_layers"), f"expected {runs}, as often as its cycles run a layer, {found}")
    if config.by_layer:
        raise source.error(key("num_heads"), "expected layers alike, found some that differ")
    return replace(config, num_layers=2 * stack, cycles=(high, low))


def shapes(config: ModelConfig, layer: LayerConfig) -> Shapes:
    """See `Architecture`."""
    return {**decoder.shapes(_STYLE, config, layer), "low_state": (config.hidden_size,)}


def graph(config: ModelConfig, weights: Mapping[str, Weight]) -> Graph:
    """See `Architecture`."""
    g, stack = GraphBuilder(weights), config.num_layers // 2
    upper, lower, runs = g.embed("embedded", "token_embedding", config.embedding_scale), "", 0
    high, low = config.cycles

    def stack_of(first: int, state: str, rows: str = TOKENS) -> str:
        nonlocal runs
        for number in range(first, first + stack):
            state = decoder.block(g.layer(number, f"runs.{runs}."), _STYLE, config, runs, state)
            runs += 1
        return g.norm(f"normed_{runs}", state, "", config.norm_epsilon, rows)

    for cycle in range(high):
        for _ in range(low):
            both = g.add(f"both_{runs}", upper, lower) if lower else g.add_weight("both", upper, "low_state")
            lower = stack_of(0, both)
        both = g.add(f"both_{runs}", upper, lower)
        upper = stack_of(stack, both, LOGITS if cycle == high - 1 else TOKENS)
    g.sample("sampled", g.linear("logits", upper, "token_embedding" if config.tie_word_embeddings else "output"))
    return g.graph()


ARCHITECTURES = (
    Architecture(
        "hrm_text",
        "half",
        {
            **KEYS,
            "embedding_scale": FURTHER_KEYS["embedding_scale"],
            "stack": "hrm.layers_per_stack",
            "high_cycles": "hrm.h_cycles",
            "low_cycles": "hrm.l_cycles",
        },
        {**{role: TENSORS[role] for role in _ROLES}, "low_state": "hrm.z_l_init"},
        shapes,
        graph,
        fused={"blk.{layer}.attn_qkv": FUSED["blk.{layer}.attn_qkv"]},
        refine=refine,
    ),
)
"""The family's members."""
