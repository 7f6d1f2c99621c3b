"""The tensors of a model by their roles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from gguf.constants import GGMLQuantizationType

from ..artifacts.formats import FORMATS
from .architectures import ARCHITECTURES
from .graph import Weight
from .model_config import ModelConfig
from .model_source import ModelSource, TensorInfo

Quant = GGMLQuantizationType

MATRIX_TYPES = tuple(GGMLQuantizationType[name] for name in FORMATS)
VECTOR_TYPES = tuple(kind for kind in MATRIX_TYPES if FORMATS[kind.name].is_float)

# Tensors with these endings change the result: one that no role names must not be passed over.
_MEANINGFUL_ENDINGS = (".bias", ".scale")


def weight_tensors(gguf_file: ModelSource, config: ModelConfig) -> Mapping[str, TensorInfo]:
    """Return the model's tensors by role: `token_embedding`, `layers.0.attention_q` and so on.

    Raises:
        GgufError: one is missing.
    """
    found: dict[str, TensorInfo] = {}
    for role, name, _ in _needed(config):
        if name not in gguf_file.tensors:
            raise gguf_file.error(name, "expected this tensor, found none of that name")
        found[role] = gguf_file.tensors[name]
    return found


def unused_tensors(gguf_file: ModelSource, config: ModelConfig) -> tuple[str, ...]:
    """Return the names of tensors that the model does not use, in the file's order."""
    used = {name for _, name, _ in _needed(config)}
    return tuple(name for name in gguf_file.tensors if name not in used)


def weights_by_role(gguf_file: ModelSource, config: ModelConfig) -> Mapping[str, Weight]:
    """Return every weight of the model by its role, with the tables by position, which the compiler makes itself."""
    weights = {role: Weight(role, table.shape(config.max_seq_len), "F32") for role, table in config.tables().items()}
    for role, tensor in weight_tensors(gguf_file, config).items():
        weights[role] = Weight(role, tensor.shape, tensor.ggml_type.name)
    return weights


def _needed(config: ModelConfig) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Yield (role, GGUF name, shape) of every tensor that the model has."""
    row = ARCHITECTURES[config.architecture]
    shapes = row.shapes(config)
    for role in row.tensors:
        if role in shapes and not row.is_layer_role(role):
            yield role, row.tensor_name(role), shapes[role]
    for layer in range(config.num_layers):
        for role in row.tensors:
            if role in shapes and row.is_layer_role(role):
                yield f"layers.{layer}.{role}", row.tensor_name(role, layer), shapes[role]


def check_tensors(gguf_file: ModelSource, config: ModelConfig) -> None:
    """Check shapes and types against what the hyperparameters imply.

    Raises:
        GgufError: one is missing, or has others, or nobody would read it though it changes the result.
    """
    tensors = weight_tensors(gguf_file, config)
    for role, name, shape in _needed(config):
        tensor = tensors[role]
        if tensor.shape != shape:
            raise gguf_file.error(name, f"expected shape {list(shape)}, found {list(tensor.shape)}")
        known: tuple[Quant, ...] = MATRIX_TYPES if len(shape) == 2 else VECTOR_TYPES
        if role.startswith("rope_factors"):
            known = (Quant.F32,)
        if tensor.ggml_type not in known:
            names = ", ".join(kind.name for kind in known)
            raise gguf_file.error(name, f"expected a type of {names}, found {tensor.ggml_type.name}")
    for name in (tensors[role].name for role in tensors if role.startswith("rope_factors")):
        factors = gguf_file.read_tensor(name).view("<f4")
        if not (np.isfinite(factors) & (factors > 0)).all():
            raise gguf_file.error(name, "expected positive, finite divisors, found others")
    for name in unused_tensors(gguf_file, config):
        if name.endswith(_MEANINGFUL_ENDINGS):
            raise gguf_file.error(name, f"expected no such tensor in a {config.architecture} model, found it")
