"""PEFT's folders of low-rank adapters: `adapter_config.json` and `adapter_model.safetensors`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
from gguf import get_tensor_name_map
from gguf.constants import MODEL_ARCH_NAMES

from ...artifacts.errors import InputError
from ..floats import Floats
from ..lora import EMBEDDING, Adapter, LowRank, low_rank
from ..model_source import ModelSource
from ..models.hugging_face import FOLDER_ROWS
from .blocks import float_values
from .config import MAX_LAYERS, interleaved_order
from .json_file import JsonObject, read_json_object
from .safetensors_file import SafetensorsFile, read_safetensors

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_SIDES = {".lora_A.weight": "A", ".lora_B.weight": "B", ".lora_embedding_A": "A", ".lora_embedding_B": "B"}
_FLOATS = ("F32", "F16", "BF16")
# What changes a result and is not read, by the value that it must have.
_PLAIN: Mapping[str, object] = {
    **{"use_dora": False, "bias": "none", "fan_in_fan_out": False, "alpha_pattern": {}},
    "alora_invocation_tokens": None,
}


def read_peft_adapter(folder: Path, base: ModelSource, scale: float) -> Adapter:
    """Read an adapter of PEFT's for a model of either kind.

    Raises:
        InputError: a file is missing or wrong, or the adapter is of another model.
    """
    config = read_json_object(folder / CONFIG)
    if config.text("peft_type").upper() != "LORA":
        raise config.error("peft_type", f"expected LORA, found {config.text('peft_type')}")
    for key, plain in _PLAIN.items():
        if config.has(key) and config.values[key] != plain:
            raise config.error(key, f"expected {plain}, found another value, which is not supported")
    file = read_safetensors(folder / WEIGHTS)
    pairs: dict[str, dict[str, str]] = {}
    for stored in file.tensors:
        end = next((end for end in _SIDES if stored.endswith(end)), None)
        if end is None:
            raise InputError(file.path, stored, "expected lora_A or lora_B of a layer, found something else")
        pairs.setdefault(stored.removesuffix(end).removeprefix(_PREFIX), {})[_SIDES[end]] = stored
    architecture = base.get_str("general.architecture")
    layers = base.get_int(f"{architecture}.block_count", None, 1, MAX_LAYERS)
    names = get_tensor_name_map(next(a for a, n in MODEL_ARCH_NAMES.items() if n == architecture), layers)
    matrices: dict[str, LowRank] = {}
    for module, sides in pairs.items():
        stored = next(iter(sides.values()))
        if len(sides) != 2:
            raise InputError(file.path, stored, "expected lora_A and lora_B, found one alone")
        name = names.get_name(f"{module}.weight", (".weight",)) or ""
        if not name:
            raise InputError(file.path, stored, "expected a layer of the model, found one that it does not have")
        a, b = _matrix(file, sides["A"]), _matrix(file, sides["B"])
        left, right = (a.T, b.T) if name == EMBEDDING else (_turned(base, name, b, file), a)
        matrices[name] = low_rank(file.path, base, name, (left, right), scale * _strength(config, b.shape[1]))
    return Adapter((folder / CONFIG, folder / WEIGHTS), MappingProxyType(matrices))


def _strength(config: JsonObject, rank: int) -> float:
    """Return what an adapter's product is multiplied by."""
    alpha = config.number("lora_alpha", None, -1e9, 1e9)
    return alpha / (math.sqrt(rank) if config.boolean("use_rslora", False) else rank)


def _matrix(file: SafetensorsFile, name: str) -> Floats:
    tensor = file.tensors[name]
    if tensor.dtype not in _FLOATS or len(tensor.shape) != 2 or 0 in tensor.shape:
        problem = f"expected a matrix of {', '.join(_FLOATS)}, found {tensor.dtype} of shape {list(tensor.shape)}"
        raise InputError(file.path, name, problem)
    return float_values(file.read_rows(name, 0, tensor.rows).reshape(-1), tensor.dtype).reshape(tensor.shape)


def _turned(base: ModelSource, name: str, rows: Floats, file: SafetensorsFile) -> Floats:
    """Return rows that belong to queries or keys in the order in which the model has those."""
    architecture = base.get_str("general.architecture")
    row = next((row for row in FOLDER_ROWS.values() if row.architecture == architecture), None)
    key = {"attn_q": "head_count", "attn_k": "head_count_kv"}.get(name.split(".")[-2])
    if row is None or not row.permuted or key is None:
        return rows
    heads = base.get_int(f"{architecture}.attention.{key}", base.get_int(f"{architecture}.attention.head_count"), 1)
    if len(rows) % (2 * heads):
        raise InputError(file.path, name, f"expected rows of {heads} heads, found {len(rows)}")
    order = interleaved_order(len(rows) // heads)
    return np.ascontiguousarray(rows.reshape(heads, len(order), -1)[:, order].reshape(rows.shape))
