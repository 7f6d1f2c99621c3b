"""The architectures that can be compiled, by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ..artifacts.errors import UsageError
from .graph import Graph, Weight
from .model_config import ModelConfig
from .models import decoder_rows, encoder, gemma3n, gemma4, hrm, hybrid_rows, mixture_rows
from .models.architecture import Architecture

_FAMILIES = (decoder_rows, mixture_rows, hybrid_rows, encoder, gemma3n, gemma4, hrm)
ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {row.name: row for family in _FAMILIES for row in family.ARCHITECTURES}
)

REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "deepseek4": "residual streams that are mixed, and an indexer that chooses among keys that are compressed",
        "dots3note": "an indexer that chooses what positions see, beside windows with latents of another size",
        "glm5-next": "an indexer of pools of positions, and residual streams that are mixed",
        "hy_v4": "an indexer that chooses what positions see, and residual streams that are mixed",
        "kimi-k3": "attention over the outputs of earlier layers",
        "qwen4exp": "an indexer of pools of positions, residual streams that are mixed, and tables of n-grams",
        **dict.fromkeys(
            ("rwkv6", "rwkv6qwen2"), "a shift of tokens, mixed by what they are, and states that decay row by row"
        ),
        **dict.fromkeys(("rwkv7", "arwkv7"), "a shift of tokens, and states that two products are added to at once"),
    }
)
"""What is not supported of architectures that are known by name. Source: llama.cpp 11434, `src/models/*.cpp`."""


def build_graph(config: ModelConfig, weights: Mapping[str, Weight]) -> Graph:
    """Draw the forward pass of a model.

    Args:
        config: the model.
        weights: all weights by role.

    Raises:
        UsageError: it is to take pictures, and cannot.
    """
    from .verify import verify  # noqa: PLC0415 - brings all operations, which who only looks at a model does not need

    row = ARCHITECTURES[config.architecture]
    graph = verify(row.graph(config, weights))
    if config.takes_images and not graph.input_width:
        raise UsageError(f"--mmproj: {row.name}: its tokens are not replaced by rows of pictures")
    columns = (1 + config.deepstack) * config.hidden_size
    if config.takes_images and graph.input_width != columns:
        found = f"{config.deepstack} layers that pictures add to, found {graph.input_width // config.hidden_size - 1}"
        raise UsageError(f"--mmproj: {row.name}: expected {found}")
    if config.sees_ahead and not any(node.attributes.get("sees_ahead") for node in graph.nodes):
        raise UsageError(f"--mmproj: {row.name}: its tokens of a picture do not see one another")
    if config.takes_images and row.sections and not any(config.rope_sections):
        raise UsageError(f"--mmproj: {row.name}: expected the key {row.key('rope_sections')} in its file, found none")
    return graph
