"""Small models whose files say more than the sizes, of the architectures of `architecture_models`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rocmforge.tools.generate.architecture_models import write_architecture

_NO_FACTORS = dict.fromkeys(("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"))
_LONG = {"rope_factors_long.weight": (8,), "rope_factors_short.weight": (8,)}
_YARN: Mapping[str, str | bool | int | float] = {
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 16,
}


@dataclass(frozen=True, slots=True)
class Case:
    """A model with keys or tensors that its row's others have not.

    Attributes:
        keys: without the architecture's prefix.
        tensors: shapes by name; None: it has not that tensor.
        experts: it has some, where there are models without.
    """

    architecture: str
    keys: Mapping[str, str | bool | int | float] = field(default_factory=dict)
    tensors: Mapping[str, tuple[int, ...] | None] = field(default_factory=dict)
    experts: bool = False


CASES: Mapping[str, Case] = {
    "none": Case("llama", {"rope.scaling.type": "none", "rope.scaling.factor": 4.0}, _NO_FACTORS),
    "linear": Case("llama", {"rope.scaling.factor": 4.0, "rope.scaling.attn_factor": 1.3}, _NO_FACTORS),
    "yarn": Case("llama", {**_YARN, "rope.scaling.attn_factor": 1.3}, _NO_FACTORS),
    "yarn-with-factors": Case(
        "llama", _YARN, {name: None for name in _NO_FACTORS if "long" in name or "short" in name}
    ),
    "longrope": Case(
        "llama",
        {"rope.scaling.type": "longrope", "rope.scaling.original_context_length": 32, "rope.scaling.attn_factor": 1.2},
        {**_NO_FACTORS, **_LONG},
    ),
    "longrope-short": Case(
        "llama",
        {"rope.scaling.type": "longrope", "rope.scaling.original_context_length": 256},
        {**_NO_FACTORS, **_LONG},
    ),
    "temperature": Case("mistral3", {"rope.scaling.original_context_length": 8}, _NO_FACTORS),
    "temperature-with-yarn": Case(
        "mistral3",
        {**_YARN, "rope.scaling.original_context_length": 8, "rope.scaling.yarn_log_multiplier": 0.7},
        _NO_FACTORS,
    ),
    "linear-but-in-windows": Case("gemma3", {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0}),
    "yarn-but-in-windows": Case("olmo2", _YARN),
    "without-rotation": Case("granite", {"rope.scaling.finetuned": False}, _NO_FACTORS),
    "alpha": Case("hunyuan-dense", {"rope.scaling.alpha": 3.0}),
    "experts": Case("llama", tensors=_NO_FACTORS, experts=True),
    "experts-scaled": Case("granitemoe", {"expert_weights_scale": 1.7}, _NO_FACTORS, experts=True),
    "experts-and-state": Case("jamba", experts=True),
    "experts-scaled-and-state": Case("granitehybrid", tensors=_NO_FACTORS, experts=True),
    "latent-lite": Case("deepseek2", {"attention.q_lora_rank": 0}),
    "latent-expanded": Case("deepseek2", {"attention.key_length_mla": 0, "attention.value_length_mla": 0}),
    "latent-yarn": Case("deepseek2", {**_YARN, "rope.scaling.yarn_log_multiplier": 0.0707}),
    "latent-yarn-of-one": Case("deepseek2", {**_YARN, "rope.scaling.yarn_log_multiplier": 0.1}),
    "latent-yarn-without": Case("deepseek2", _YARN),
    "latent-yarn-mistral4": Case("mistral4", {**_YARN, "rope.scaling.yarn_log_multiplier": 0.07}),
    "latent-groups": Case("deepseek2", {"expert_group_count": 4, "expert_group_used_count": 2}),
    "gates-of-elements": Case("laguna", tensors={f"blk.{layer}.attn_gate.weight": (64, 64) for layer in range(4)}),
    "experts-in-groups": Case("bailingmoe2", {"expert_group_count": 4, "expert_group_used_count": 2}),
}
"""Models whose files say more than the sizes, by what it is."""


def write_case(path: Path, name: str) -> Path:
    """Write one of `CASES`; returns `path`."""
    case = CASES[name]
    return write_architecture(path, case.architecture, keys=case.keys, tensors=case.tensors, experts=case.experts)
