"""PEFT's folders of low-rank adapters: `adapter_config.json` and `adapter_model.safetensors`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
from gguf import get_tensor_name_map
from gguf.constants import MODEL_ARCH_NAMES

from ...artifacts.errors import InputError
from ..floats import Floats
from ..ggml_types import GgmlType
from ..lora import EMBEDDING, Adapter, LowRank, low_rank
from ..model_source import ModelSource, TensorInfo
from ..models.hugging_face import FOLDER_ROWS, PERMUTED, FolderRow
from .blocks import float_values
from .config import MAX_LAYERS, interleaved_order
from .folder import text_name
from .folder_tensor import FolderTensor
from .json_file import JsonObject, read_json_object
from .recurrent import REARRANGED
from .safetensors_file import SafetensorsFile, read_safetensors

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_SIDES = {".lora_A.weight": "A", ".lora_B.weight": "B", ".lora_embedding_A": "A", ".lora_embedding_B": "B"}
_FLOATS = ("F32", "F16", "BF16")
_OF_EXPERT = re.compile(r"(.+\.experts)\.(\d{1,4})\.(\w+)", re.ASCII)
_SIZES: Mapping[str, str] = {
    **{"linear_num_key_heads": "ssm.group_count", "linear_num_value_heads": "ssm.time_step_rank"},
    **{"linear_key_head_dim": "ssm.state_size", "num_local_experts": "expert_count"},
}
"""Keys of config.json to GGUF's."""
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
    row = next((row for row in FOLDER_ROWS.values() if row.architecture == architecture), None)
    matrices: dict[str, LowRank] = {}
    for module, (stored, a, b) in _stacked(file, pairs, base.get_int(f"{architecture}.expert_count", 0)).items():
        for found, left, right in _as_the_model(base, row, module, stored, a, b, file):
            name = names.get_name(found, (".weight",)) or ""
            if not name:
                raise InputError(file.path, stored, "expected a layer of the model, found one that it does not have")
            pair = (right.T, left.T) if name == EMBEDDING else (_turned(base, name, left, file), right)
            factor = scale * _strength(config, left.shape[-1])
            matrices[name] = low_rank(file.path, base, name, pair, factor)
    return Adapter((folder / CONFIG, folder / WEIGHTS), MappingProxyType(matrices))


def _stacked(
    file: SafetensorsFile, pairs: Mapping[str, Mapping[str, str]], experts: int
) -> dict[str, tuple[str, Floats, Floats]]:
    """Return each module's name in the file, its A and its B; experts' are stacked, zeros for those that have none."""
    found: dict[str, tuple[str, Floats, Floats]] = {}
    of_experts: dict[str, dict[int, tuple[str, Floats, Floats]]] = {}
    for module, sides in pairs.items():
        stored = next(iter(sides.values()))
        if len(sides) != 2:
            raise InputError(file.path, stored, "expected lora_A and lora_B, found one alone")
        pair = stored, _matrix(file, sides["A"]), _matrix(file, sides["B"])
        if match := _OF_EXPERT.fullmatch(module):
            of_experts.setdefault(f"{match[1]}.{match[3]}", {})[int(match[2])] = pair
        else:
            found[module] = pair
    for module, of_module in of_experts.items():
        stored, first_a, first_b = next(iter(of_module.values()))
        if max(of_module) >= experts:
            raise InputError(file.path, stored, f"expected an expert below {experts}, found {max(of_module)}")
        a, b = np.zeros((experts, *first_a.shape), np.float32), np.zeros((experts, *first_b.shape), np.float32)
        for number, (stored, one_a, one_b) in of_module.items():
            if (one_a.shape, one_b.shape) != (first_a.shape, first_b.shape):
                raise InputError(file.path, stored, "expected matrices as large as of other experts, found others")
            a[number], b[number] = one_a, one_b
        found[module] = stored, a, b
    return found


def _as_the_model(
    base: ModelSource, row: FolderRow | None, module: str, stored: str, a: Floats, b: Floats, file: SafetensorsFile
) -> Iterator[tuple[str, Floats, Floats]]:
    """Yield the name of each tensor that a module is in a GGUF, and what is added to it: rows of B, and A."""
    name, change = text_name(f"{module}.weight"), REARRANGED.get(row.form) if row else None
    if change is None:
        yield name, b, a
        return
    config = JsonObject(file.path, _sizes(base))
    of_columns = name.endswith("linear_attn.out_proj.weight")  # which stand in another order, not its rows
    values = np.ascontiguousarray(a if of_columns else b)
    data = values.view(np.uint8).reshape(-1, 4 * values.shape[-1])
    info = TensorInfo(name, values.shape, GgmlType.F32)
    tensor = FolderTensor(info, stored, lambda first, count: data[first : first + count])
    for turned in change(config, tensor):
        found = turned.read(0, turned.info.rows).view(np.float32).reshape(turned.info.shape)
        yield (turned.info.name, b, found) if of_columns else (turned.info.name, found, a)


def _sizes(base: ModelSource) -> dict[str, object]:
    """Return what config.json of a folder says that rows are put in order by."""
    at = base.get_str("general.architecture")
    values: dict[str, object] = {name: base.get_int(f"{at}.{key}", 0) for name, key in _SIZES.items()}
    inside, heads = base.get_int(f"{at}.ssm.inner_size", 0), base.get_int(f"{at}.ssm.time_step_rank", 0)
    return {**values, "linear_value_head_dim": inside // max(heads, 1)}


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
    """Return rows that belong to queries or keys in the order in which the model has those; experts' in one matrix."""
    if rows.ndim == 3:
        return rows.reshape(-1, rows.shape[-1])
    key = {"attn_q": "head_count", "attn_k": "head_count_kv"}.get(name.split(".")[-2])
    if key is None or base.get_str("general.architecture") not in PERMUTED:
        return rows
    heads = _heads(base, key, int(name.split(".")[1]))
    if len(rows) % (2 * heads):
        raise InputError(file.path, name, f"expected rows of {heads} heads, found {len(rows)}")
    order = interleaved_order(len(rows) // heads)
    return np.ascontiguousarray(rows.reshape(heads, len(order), -1)[:, order].reshape(rows.shape))


def _heads(base: ModelSource, key: str, layer: int) -> int:
    """Return a layer's heads, of which hybrids have a number for each layer."""
    at = f"{base.get_str('general.architecture')}.attention"
    if base.get_numbers(f"{at}.{key}") is not None:
        return base.get_int_list(f"{at}.{key}")[layer]
    return base.get_int(f"{at}.{key}", base.get_int(f"{at}.head_count"), 1)
