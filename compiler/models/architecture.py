"""What a family says of each of its architectures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Final, Literal

from ...artifacts.dataclass import dataclass
from ..graph import Graph, Weight
from ..model_config import LayerConfig, ModelConfig, RopeStyle
from ..model_source import ModelSource

Shapes = Mapping[str, tuple[int, ...]]
WeightForm = Literal["stored", "repeated", "inverted", "first_row", "ones", "slopes", "transposed"]
"""As the file has it; each row, or element, for all of a head; one over it; its first row; all 1, of no tensor; those
that `weights.slopes` makes of heads and layer, of no tensor; the matrices of heads, each turned round."""
MADE: Final = ("ones", "slopes")
"""Of no tensor."""

DraftInput = Literal["", "normed", "residual"]


def as_read(source: ModelSource, config: ModelConfig) -> ModelConfig:
    """Return a configuration as its keys say it, for `Architecture.refine`."""
    return config


@dataclass(frozen=True, slots=True)
class Windows:
    """Which layers see the last positions alone, where the file gives or `size` is how many.

    Attributes:
        pattern: the last of so many layers sees all, unless the file says otherwise; 0: none does.
        size: positions that the others see, where the file has no such key.
        rotates_full: layers that see all rotate as well.
        theta: base of the others' frequencies where the file has none; 0: that of those that see all; None: the same
            whatever the file has.
        first: it is the first of so many that sees all, not the last.
        scaled: the others' frequencies are scaled as those of layers that see all.
    """

    pattern: int
    size: int = 0
    rotates_full: bool = True
    theta: float | None = None
    scaled: bool = True
    first: bool = False


@dataclass(frozen=True, slots=True)
class Mixture:
    """How an architecture's experts are chosen, where its files have some; see `ops/route.py`.

    Attributes:
        scoring: where the file does not say.
        normalise: None: the file says.
        said: whether the file may say the scoring.
    """

    scoring: str = "softmax"
    normalise: bool | None = True
    said: bool = False


@dataclass(frozen=True, slots=True)
class Mixer:
    """What stands for attention, or beside it, in layers with recurrent state; see `mixers.py`.

    Attributes:
        kind: one of `mixers.KINDS`.
        layers: which these are: those without heads of keys, all but the last of so many, or all.
        beside: they have attention as well.
        apart: a layer has one thing alone: state, attention, or a feed-forward.
        mapping: of heads to those of keys, see `ops/scan.py`.
        interval: of "interval", where the file does not say it.
    """

    kind: str
    layers: Literal["headless", "interval", "all"] = "headless"
    beside: bool = False
    apart: bool = False
    mapping: str = "block"
    interval: int = 4


@dataclass(frozen=True, slots=True)
class Architecture:
    """What sets one architecture apart.

    Attributes:
        name: `general.architecture`, and the prefix of its keys.
        rope_style: which elements of a head rotate together: "interleaved" (2i, 2i+1), as llama weights are
            permuted for in GGUF, or "half" (i, i + rope_dim/2); "none": it has no rotary positions.
        keys: hyperparameter to GGUF key, without the prefix, of those that it has.
        tensors: role to GGUF tensor name, `{layer}` standing for the layer's number. Each may have a bias and a scale
            beside it: the same name with these endings, and the roles `<role>_bias`, `<role>_scale`.
        shapes: role to the shape of its tensor, of the roles that a model has; matrices are [outputs, inputs].
            Those of a layer are asked for one layer.
        graph: the forward pass.
        optional: roles that a file may lack.
        fused: name of a tensor, without its ending, to the roles whose rows it may hold instead, in their order.
        interleaved: as `fused`, of tensors that hold the roles' rows head by head.
        unread: roles whose tensors a file may have, and which llama.cpp loads but does not compute with.
        forms: role to how its numbers come from the file's, see `WeightForm`.
        defaults: what a hyperparameter is where its key is absent; of norms' epsilon, or 0.
        windows: see `Windows`; None: all layers see all positions.
        mixture: see `Mixture`; None: it has no experts.
        mixer: see `Mixer`; None: its only state are keys and values.
        sections: "": its rotation has none; else how the pairs of those that the file says stand, "apart" or
            "interleaved", see `ops/rope_kv.py`.
        drafts: what a block that drafts tokens reads of a token before: its hidden state, "normed" or as the last layer
            leaves it ("residual"); "": such blocks are not known.
        refine: what the file's other facts make of the configuration that its keys say.
    """

    name: str
    rope_style: RopeStyle
    keys: Mapping[str, str]
    tensors: Mapping[str, str]
    shapes: Callable[[ModelConfig, LayerConfig], Shapes]
    graph: Callable[[ModelConfig, Mapping[str, Weight]], Graph]
    optional: frozenset[str] = frozenset()
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    interleaved: Mapping[str, tuple[str, ...]] = field(default_factory=dict, kw_only=True)
    unread: frozenset[str] = frozenset()
    forms: Mapping[str, WeightForm] = field(default_factory=dict)
    defaults: Mapping[str, float] = field(default_factory=dict)
    windows: Windows | None = None
    mixture: Mixture | None = None
    mixer: Mixer | None = field(default=None, kw_only=True)
    drafts: DraftInput = field(default="", kw_only=True)
    sections: Literal["", "apart", "interleaved"] = field(default="", kw_only=True)
    refine: Callable[[ModelSource, ModelConfig], ModelConfig] = as_read

    def key(self, hyperparameter: str) -> str:
        """Return the full GGUF key of a hyperparameter."""
        return f"{self.name}.{self.keys[hyperparameter]}"

    def is_layer_role(self, role: str) -> bool:
        """Return whether every layer has a tensor of this role."""
        return "{layer}" in self.tensors[role]

    def tensor_name(self, role: str, layer: int = 0) -> str:
        """Return the GGUF name of a role's tensor; `layer` is ignored for roles outside the layers."""
        return self.tensors[role].replace("{layer}", str(layer))
