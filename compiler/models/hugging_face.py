"""What sets a model's folder of Hugging Face apart from its GGUF file, by architecture.

Names of tensors are the `gguf` package's table (`gguf.get_tensor_name_map`), which knows those of each architecture;
keys that most configurations have are in `compiler/hugging_face/config.py`. A row says the rest.

Source: the configuration classes of `transformers` (names, defaults), and what llama.cpp's files of the models hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class FolderRow:
    """What is said of the folders of one architecture.

    Attributes:
        architecture: its name in GGUF.
        model_types: `model_type` of its config.json.
        defaults: what a key of config.json is where it is absent.
        keys: further keys of config.json, to the part of GGUF's after the architecture's prefix.
        activations: `hidden_act` (or `hidden_activation`) that it may have.
        permuted: rows of the query and key projections rotate in halves in the folder, (i, i + head_dim/2), and in
            GGUF interleaved, (2i, 2i+1).
        windowed: GGUF knows its window; else the context is limited to it, within which it hides nothing.
    """

    architecture: str
    model_types: tuple[str, ...]
    defaults: Mapping[str, object] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    activations: tuple[str, ...] = ("silu", "swish")
    permuted: bool = False
    windowed: bool = False


_RMS: Mapping[str, object] = MappingProxyType({"rms_norm_eps": 1e-6})
_ROWS = (
    FolderRow("llama", ("llama", "mistral"), _RMS, permuted=True),
    FolderRow("qwen2", ("qwen2",), _RMS),
    FolderRow("qwen3", ("qwen3",), {"rms_norm_eps": 1e-6, "head_dim": 128}),
)
FOLDER_ROWS: Mapping[str, FolderRow] = MappingProxyType({name: row for row in _ROWS for name in row.model_types})
"""By `model_type`."""
