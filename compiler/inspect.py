"""`rfc inspect` of a GGUF: what is in it, and what it would need."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..artifacts.errors import printable
from ..artifacts.packing_sizes import packed_bytes
from .architectures import ARCHITECTURES
from .model_config import LayerConfig, ModelConfig
from .model_source import ModelSource, TensorInfo
from .model_tensors import unused_tensors
from .read_config import read_config
from .sources import open_source

_MAX_SHOWN = 4000  # characters of a fact


def inspect_gguf(path: Path) -> dict[str, object]:
    """Return facts of a GGUF file, as plain data; of an architecture that is not supported, what every such file says.

    Raises:
        GgufError: it cannot be trusted, or contradicts what its architecture demands.
    """
    gguf = open_source(path)
    architecture = gguf.get_str("general.architecture")
    if architecture not in ARCHITECTURES:
        return _common_facts(gguf, architecture)
    config = read_config(gguf)
    types = Counter(tensor.ggml_type.name for tensor in gguf.tensors.values())
    layers = [config.layer(number) for number in range(config.num_layers)]
    unused = unused_tensors(gguf, config)
    kv_bytes = sum(2 * one.num_kv_heads * _kv_elements(config, one) for one in layers)
    return {
        "file": printable(path),
        **gguf.facts(),
        "architecture": config.architecture,
        "name": printable(config.name),
        "layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "heads": f"{config.num_heads} query, {config.num_kv_heads} key/value, of {config.head_dim}",
        "vocabulary": config.vocab_size,
        "context": config.max_seq_len,
        "tensors": ", ".join(f"{count} {kind}" for kind, count in sorted(types.items())),
        "unused_tensors": [printable(name) for name in unused],
        "weight_bytes": sum(tensor.n_bytes for tensor in gguf.tensors.values()),
        **_packed_facts(gguf, unused),
        "kv_bytes_per_token": kv_bytes,
        "kv_bytes_full_context": kv_bytes * config.max_seq_len,
    }


def _kv_elements(config: ModelConfig, layer: LayerConfig) -> int:
    """Return the elements that are kept of a token for each head of keys: of latent attention keys alone."""
    return config.kv_rank + config.key_tail if config.kv_rank else layer.head_dim + (layer.value_dim or layer.head_dim)


def _packed_facts(gguf: ModelSource, unused: Sequence[str]) -> dict[str, object]:
    """Return what a bundle for the host will hold of the weights, in bytes: of all that is used, and of each type."""
    used = [tensor for name, tensor in gguf.tensors.items() if name not in unused]
    in_file, packed = Counter[str](), Counter[str]()
    for tensor in used:
        in_file[tensor.ggml_type.name] += tensor.n_bytes
        packed[tensor.ggml_type.name] += _packed_bytes(tensor)
    types = (f"{kind} {in_file[kind]:,} in the file and {packed[kind]:,} packed" for kind in sorted(in_file))
    return {"packed_weight_bytes": packed.total(), "weight_bytes_by_type": "; ".join(types)}


def _packed_bytes(tensor: TensorInfo) -> int:
    """Return the bytes of a tensor as host kernels read it: a matrix in tiles of rows, anything else in float32."""
    *rows, columns = tensor.shape
    if not rows:
        return packed_bytes("f32", tensor.shape)
    return packed_bytes(f"rows16_{tensor.ggml_type.name.lower()}", (math.prod(rows), columns))


def _common_facts(gguf: ModelSource, architecture: str) -> dict[str, object]:
    types = Counter(tensor.ggml_type.name for tensor in gguf.tensors.values())
    facts: dict[str, object] = {
        "file": printable(gguf.path),
        **gguf.facts(),
        "architecture": f"{printable(architecture)}, which cannot be compiled (see docs/architectures.md)",
        "name": printable(gguf.get_str("general.name", gguf.path.stem)),
        "tensors": ", ".join(f"{count} {kind}" for kind, count in sorted(types.items())) or "none",
        "weight_bytes": sum(tensor.n_bytes for tensor in gguf.tensors.values()),
    }
    for name, key in (("vocabulary", "tokens"), ("merges", "merges")):
        facts[name] = len(gguf.get_str_list(f"tokenizer.ggml.{key}", ()))
    return facts


def format_facts(facts: dict[str, object]) -> Iterator[str]:
    """Write one line a fact."""
    width = max(map(len, facts)) + 2
    for key, value in facts.items():
        shown = f"{value:,}" if isinstance(value, int) else printable(value, _MAX_SHOWN)
        yield f"{printable(key.replace('_', ' ')):<{width}}{shown}"
