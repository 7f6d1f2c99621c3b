"""The feed-forward of a mixture: a token goes to some of many experts, and to one that all tokens share."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ..graph import Attribute
from ..graph_builder import GraphBuilder
from ..model_config import Experts, LayerConfig, ModelConfig
from .architecture import Shapes

ROLES = (
    *("expert_router", "expert_choice_bias", "ffn_gate_experts", "ffn_up_experts", "ffn_down_experts"),
    *("ffn_gate_shared", "ffn_up_shared", "ffn_down_shared", "shared_gate"),
)
LATENT = ("experts_in", "experts_out")
"""Of some besides: experts read and make a latent of the residual stream."""
OF_NEIGHBOURS = ("ffn_gate_neighbours", "ffn_up_neighbours", "ffn_down_neighbours")
"""Of some besides: experts that several neighbours share."""
"""Of weights that a layer of a mixture may have."""
OPTIONAL = ("expert_choice_bias", "shared_gate")


def expert_shapes(config: ModelConfig, layer: LayerConfig) -> Shapes:
    """Return the shapes of a layer's experts: matrices are [experts, outputs, inputs]."""
    experts, hidden, count = config.experts, config.hidden_size, layer.num_experts
    if experts is None or not count:
        return {}
    inner, shared, read = experts.intermediate_size, experts.shared_size, experts.latent_size or hidden
    found: dict[str, tuple[int, ...]] = {
        "expert_router": (count, hidden),
        "expert_choice_bias": (count,),
        "ffn_gate_experts": (count, inner, read),
        "ffn_up_experts": (count, inner, read),
        "ffn_down_experts": (count, read, inner),
    }
    if experts.latent_size:
        found |= {"experts_in": (read, hidden), "experts_out": (hidden, read)}
    if experts.sharers:
        pools, inside = count // experts.sharers, experts.sharers_size
        found |= dict.fromkeys(OF_NEIGHBOURS[:2], (pools, inside, hidden))
        found["ffn_down_neighbours"] = (pools, hidden, inside)
    if shared:
        found |= {"ffn_gate_shared": (shared, hidden), "ffn_up_shared": (shared, hidden)}
        found |= {"ffn_down_shared": (hidden, shared), "shared_gate": (1, hidden)}
    return found


_PLAIN: Mapping[str, Attribute] = MappingProxyType({})


def expert_feed_forward(
    g: GraphBuilder,
    config: ModelConfig,
    source: str,
    activation: str,
    *,
    routed_by: str = "",
    router_scale: float = 1.0,
    weighted_inputs: bool = False,
    gate: Mapping[str, Attribute] = _PLAIN,
) -> str:
    """Append the experts' feed-forward of `source`, and the shared one's.

    Args:
        activation: of the gates.
        routed_by: what the router reads, where that is something else.
        router_scale: by which its logits are multiplied.
        weighted_inputs: the experts' weights multiply what they read.
        gate: further attributes of gates, see `ops/gate.py`.
    """
    experts, count = config.experts, config.num_experts
    assert experts is not None
    logits = g.linear("router_logits", routed_by or source, "expert_router", scale=router_scale)
    routed = g.route("routed", logits, experts.used, "expert_choice_bias", **_choice(experts))
    weighted: dict[str, Attribute] = {"weighted": True} if weighted_inputs else {}
    read = g.linear("experts_in", source, "experts_in") if experts.latent_size else source
    roles = [role for role in ("ffn_gate_experts", "ffn_up_experts") if g.has(role)]
    inside = g.expert_linear("expert_gate_up", read, routed, count, *roles, **weighted)
    activated = _activated(g, "expert_activated", inside, activation, len(roles) == 2, gate)
    down = g.expert_linear("expert_down", activated, routed, count, "ffn_down_experts", each=True)
    scaled: dict[str, Attribute] = {"scale": config.residual_scale} if config.residual_scale != 1 else {}
    found = g.expert_sum("experts_out", down, routed, **weighted, **scaled)
    if experts.latent_size:
        found = g.linear("experts_expanded", found, "experts_out")
    if experts.sharers:
        return _with_neighbours(g, experts, count, found, logits, activation)
    if not experts.shared_size:
        return found
    roles = [role for role in ("ffn_gate_shared", "ffn_up_shared") if g.has(role)]
    inside = g.linear("shared_gate_up", source, *roles)
    activated = _activated(g, "shared_activated", inside, activation, len(roles) == 2, gate)
    shared = g.linear("shared_out", activated, "ffn_down_shared", scale=config.residual_scale)
    if g.has("shared_gate"):
        opened = g.activate("shared_opened", g.linear("shared_gate_in", source, "shared_gate"), "sigmoid")
        shared = g.mul("shared_gated", shared, opened)
    return g.add("experts_and_shared", found, shared)


def _with_neighbours(g: GraphBuilder, experts: Experts, count: int, source: str, logits: str, activation: str) -> str:
    """Append the experts that neighbours of those chosen share, which read `source`, what these made.

    Source: llama.cpp 11434, src/models/grovemoe.cpp: the choice is made again, of no more experts than there are.
    """
    pools = count // experts.sharers
    used = min(experts.used, pools)
    routed = g.route("neighbours_routed", logits, used, shared=experts.sharers, **_choice(experts))
    repeats: dict[str, Attribute] = {"repeats": min(used, experts.sharers)} if experts.sharers > 1 else {}
    inside = g.expert_linear("neighbours_gate_up", source, routed, pools, *OF_NEIGHBOURS[:2], **repeats)
    activated = g.gate("neighbours_activated", inside, activation)
    down = g.expert_linear("neighbours_down", activated, routed, pools, OF_NEIGHBOURS[2], each=True, **repeats)
    found = g.expert_sum("neighbours_out", down, routed, scale=experts.sharers_scale)
    return g.add("experts_and_neighbours", source, found)


def _activated(
    g: GraphBuilder, output: str, source: str, activation: str, gated: bool, gate: Mapping[str, Attribute]
) -> str:
    """Append what experts do to their inside, gate and up side by side or up alone."""
    return g.gate(output, source, activation, **gate) if gated else g.activate(output, source, activation)


def _choice(experts: Experts) -> dict[str, Attribute]:
    """Return the attributes of the choice that are not what is usual."""
    found: dict[str, Attribute] = {"scoring": experts.scoring}
    if experts.normalise:
        found["normalise"] = True
    if experts.scale != 1:
        found["scale"] = experts.scale
    if experts.groups > 1:
        found |= {"groups": experts.groups, "groups_used": experts.groups_used}
    return found
