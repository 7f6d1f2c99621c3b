"""What a family says of each of its architectures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..graph import Graph, Weight
from ..model_config import ModelConfig, RopeStyle

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Architecture:
    """What sets one architecture apart.

    Attributes:
        name: `general.architecture`, and the prefix of its keys.
        rope_style: which elements of a head rotate together: "interleaved" (2i, 2i+1), as llama weights are
            permuted for in GGUF, or "half" (i, i + rope_dim/2).
        qkv_bias: whether the query, key and value projections have biases; None: where the file has them.
        qk_norm: whether queries and keys pass an RMS norm over each head before rotation.
        keys: hyperparameter to GGUF key, without the prefix.
        tensors: role to GGUF tensor name, `{layer}` standing for the layer's number.
        shapes: role to the shape of its tensor, of the roles that a model has; matrices are [outputs, inputs].
        graph: the forward pass.
        rope_factors: whether a tensor may divide the rotary frequencies.
        activation: of the feed-forward gate, one of `ACTIVATIONS`.
    """

    name: str
    rope_style: RopeStyle
    qkv_bias: bool | None
    qk_norm: bool
    keys: Mapping[str, str]
    tensors: Mapping[str, str]
    shapes: Callable[[ModelConfig], Shapes]
    graph: Callable[[ModelConfig, Mapping[str, Weight]], Graph]
    rope_factors: bool = False
    activation: str = "silu"

    def key(self, hyperparameter: str) -> str:
        """Return the full GGUF key of a hyperparameter."""
        return f"{self.name}.{self.keys[hyperparameter]}"

    def is_layer_role(self, role: str) -> bool:
        """Return whether every layer has a tensor of this role."""
        return "{layer}" in self.tensors[role]

    def tensor_name(self, role: str, layer: int = 0) -> str:
        """Return the GGUF name of a role's tensor; `layer` is ignored for roles outside the layers."""
        return self.tensors[role].replace("{layer}", str(layer))
