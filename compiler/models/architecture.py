"""What a family says of each of its architectures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..graph import Graph, Weight
from ..model_config import LayerConfig, ModelConfig, RopeStyle

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Architecture:
    """What sets one architecture apart.

    Attributes:
        name: `general.architecture`, and the prefix of its keys.
        rope_style: which elements of a head rotate together: "interleaved" (2i, 2i+1), as llama weights are
            permuted for in GGUF, or "half" (i, i + rope_dim/2).
        keys: hyperparameter to GGUF key, without the prefix.
        tensors: role to GGUF tensor name, `{layer}` standing for the layer's number. Each may have a bias and a scale
            beside it: the same name with these endings, and the roles `<role>_bias`, `<role>_scale`.
        shapes: role to the shape of its tensor, of the roles that a model has; matrices are [outputs, inputs].
            Those of a layer are asked for one layer.
        graph: the forward pass.
        optional: roles that a file may lack.
        fused: name of a tensor, without its ending, to the roles whose rows it may hold instead, in their order.
        rope_factors: whether a tensor may divide the rotary frequencies.
    """

    name: str
    rope_style: RopeStyle
    keys: Mapping[str, str]
    tensors: Mapping[str, str]
    shapes: Callable[[ModelConfig, LayerConfig], Shapes]
    graph: Callable[[ModelConfig, Mapping[str, Weight]], Graph]
    optional: frozenset[str] = frozenset()
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rope_factors: bool = False

    def key(self, hyperparameter: str) -> str:
        """Return the full GGUF key of a hyperparameter."""
        return f"{self.name}.{self.keys[hyperparameter]}"

    def is_layer_role(self, role: str) -> bool:
        """Return whether every layer has a tensor of this role."""
        return "{layer}" in self.tensors[role]

    def tensor_name(self, role: str, layer: int = 0) -> str:
        """Return the GGUF name of a role's tensor; `layer` is ignored for roles outside the layers."""
        return self.tensors[role].replace("{layer}", str(layer))
