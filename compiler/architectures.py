"""The architectures that can be compiled, by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from .graph import Graph, Weight
from .model_config import ModelConfig
from .models import decoder_rows, encoder, gemma3n, gemma4, hrm, hybrid_rows, mixture_rows
from .models.architecture import Architecture

_FAMILIES = (decoder_rows, mixture_rows, hybrid_rows, encoder, gemma3n, gemma4, hrm)
ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {row.name: row for family in _FAMILIES for row in family.ARCHITECTURES}
)


def build_graph(config: ModelConfig, weights: Mapping[str, Weight]) -> Graph:
    """Draw the forward pass of a model.

    Args:
        config: the model.
        weights: all weights by role.
    """
    from .verify import verify  # noqa: PLC0415 - brings all operations, which who only looks at a model does not need

    return verify(ARCHITECTURES[config.architecture].graph(config, weights))
