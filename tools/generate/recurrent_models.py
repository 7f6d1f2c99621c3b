"""What small models with recurrent state have beyond the sizes of others: layers of two kinds, and the scan's sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from typing import Final

import gguf
import numpy as np
import numpy.typing as npt

from rocmforge.compiler.architectures import ARCHITECTURES
from rocmforge.compiler.model_config import ModelConfig, Recurrence
from rocmforge.compiler.models.architecture import Architecture

_INTERVAL: Final = 2
_SIZES: Final = {
    "short_conv": Recurrence("short_conv", 3, 64),
    "mamba": Recurrence("mamba", 4, 128, 128, 16, rank=8),
    "mamba2": Recurrence("mamba2", 4, 128, 4, 16, 2),
    "plamo2": Recurrence("plamo2", 4, 128, 4, 16, rank=64, normed=True),
    "delta": Recurrence("delta", 4, 64, 4, 16, 2),
    "kda": Recurrence("kda", 4, 64, 4, 16, 4),
    "lightning": Recurrence("lightning", 0, 64, 4, 16, 4),
}
"""By kind. llama.cpp asks for Mamba's to be twice the residual stream, and for a rank of at least 64 of PLaMo 2's."""
WITH_SECTIONS: Final = ("qwen35", "qwen35moe")
"""Whose rotation has sections."""
_KEYS: Final = {"ssm_size": "size", "ssm_state": "state", "ssm_heads": "heads", "ssm_groups": "groups"}


def with_recurrence(row: Architecture, config: ModelConfig) -> ModelConfig:
    """Return a configuration whose every second layer, from the first on, has recurrent state, or all have."""
    mixer, numbers = row.mixer, range(config.num_layers)
    if mixer is None:
        return config
    recurrent = [mixer.layers == "all" or number % _INTERVAL != _INTERVAL - 1 for number in numbers]
    of_layers: dict[str, tuple[int, ...]] = {"recurrent": tuple(recurrent)}
    headless = [one and not mixer.beside for one in recurrent]
    if mixer.apart:  # the last is a feed-forward, and the one before it as all before it
        headless[-1] = True
        last = [int(number == numbers[-1]) for number in numbers]
        of_layers["intermediate_size"] = tuple(config.intermediate_size * one for one in last)
        of_layers["num_experts"] = tuple(config.num_experts * one for one in last)
    if mixer.layers == "all" and not mixer.beside:
        of_layers["intermediate_size"] = (0,) * config.num_layers
    for name in ("num_heads", "num_kv_heads"):
        of_layers[name] = tuple(0 if none else getattr(config, name) for none in headless)
    return replace(config, recurrence=_SIZES[mixer.kind], by_layer={**config.by_layer, **of_layers})


def add_recurrence_keys(writer: gguf.GGUFWriter, row: Architecture, config: ModelConfig) -> None:
    """Add the keys of what a model has beyond others; those of heads and feed-forward take the others' place."""
    mixer, has = row.mixer, config.recurrence
    if mixer is None or has is None:
        return
    for hyperparameter, name in _KEYS.items():
        if hyperparameter in row.keys:
            writer.add_uint32(row.key(hyperparameter), getattr(has, name))
    for hyperparameter in ("short_taps", "ssm_taps"):
        if hyperparameter in row.keys:
            writer.add_uint32(row.key(hyperparameter), has.taps)
    if has.kind in ("mamba", "plamo2"):
        key, number = ("group_count", 0) if has.kind == "plamo2" else ("time_step_rank", has.rank)
        writer.add_uint32(f"{row.name}.ssm.{key}", number)  # llama.cpp asks for it
    if has.kind == "kda":
        writer.add_uint32(row.key("delta_head_dim"), has.state)
    if "full_interval" in row.keys:
        writer.add_uint32(row.key("full_interval"), _INTERVAL)
    for hyperparameter, numbers in numbers_by_layer(row, config).items():
        writer.add_array(row.key(hyperparameter), numbers)
    if "norm_epsilon_else" in row.keys:
        writer.add_float32(row.key("norm_epsilon_else"), 1e-5)


def numbers_by_layer(row: Architecture, config: ModelConfig) -> dict[str, list[int]]:
    """Return the values of keys that say a number of each layer; published files count queries' heads once for all."""
    mixer = row.mixer
    if mixer is None or mixer.layers == "all":
        return {}
    names = ("num_kv_heads", "intermediate_size") if mixer.apart else ("num_kv_heads",)
    layers = [config.layer(number) for number in range(config.num_layers)]
    return {name: [int(getattr(layer, name)) for layer in layers] for name in names if mixer.layers == "headless"}


def stored_shapes(
    row: Architecture, config: ModelConfig, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of tensors by name as files have them: heads' in one, Mamba 2's with a dimension more."""
    has, found = config.recurrence, dict(shapes)
    if row.mixer is None or has is None:
        return found
    for layer, (base, parts) in product(range(config.num_layers), row.interleaved.items()):
        names = [row.tensor_name(part, layer).removesuffix(".weight") for part in parts]
        if all(f"{name}.weight" in found for name in names):
            height = sum(found.pop(f"{name}.weight")[0] for name in names)
            for name, ending in product(names, ("bias", "scale")):
                found.pop(f"{name}.{ending}", None)
            found[f"{base.replace('{layer}', str(layer))}.weight"] = (height, config.hidden_size)
    for name in shapes if has.kind in ("mamba2", "kda") else ():
        if name.endswith((".ssm_a", ".ssm_d")):
            found[name] = (has.heads, 1)
        if "ssm_conv1d_" in name and name.endswith(".weight"):
            found[name] = (has.size, 1, has.taps)
        if name.endswith(".ssm_norm.weight") and has.kind == "mamba2":
            found[name] = (has.groups, has.size // has.groups)
    return found


def is_biased(architecture: str, name: str) -> bool:
    """Return whether a tensor of the scan has a bias in published files."""
    mixer = ARCHITECTURES[architecture].mixer
    if name.endswith(".ssm_conv1d.weight"):
        return mixer is not None and mixer.kind in ("mamba", "mamba2")
    return name.endswith(".ssm_dt.weight")


def recurrence_values(random: np.random.Generator, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32] | None:
    """Return numbers of a tensor by which states neither stay nor are gone at once; None: of any other's."""
    if name.endswith("ssm_a"):
        return -random.uniform(0.1, 1.5, shape).astype(np.float32)
    if name.endswith("ssm_d"):
        return random.normal(0, 0.5, shape).astype(np.float32)
    if "attn_q_norm" in name or "attn_k_norm" in name:  # attention that chooses, though few layers have it
        return random.uniform(1.2, 3.2, shape).astype(np.float32)
    return None


def recurrence_metadata(architecture: str, has: Recurrence, kv_heads: list[int]) -> dict[str, float | list[int]]:
    """Return what a file says of recurrent state, and of heads by layer, by the end of its key."""
    row = ARCHITECTURES[architecture]
    found: dict[str, float | list[int]] = {
        row.keys[hyperparameter]: getattr(has, name)
        for hyperparameter, name in _KEYS.items()
        if hyperparameter in row.keys
    }
    found |= {row.keys[one]: has.taps for one in ("short_taps", "ssm_taps") if one in row.keys}
    if row.mixer is not None and row.mixer.layers == "headless":
        found["attention.head_count_kv"] = kv_heads
    if architecture in WITH_SECTIONS:
        found["rope.dimension_sections"] = [11, 11, 10, 0]
    return found


def hybrid_tensors(config: ModelConfig) -> Iterator[tuple[int, str, tuple[int, ...]]]:
    """Yield layer, name and shape of each tensor of a model, but for its embedding and its output."""
    row = ARCHITECTURES[config.architecture]
    outside = row.shapes(config, config.layer(0))
    for role in row.tensors:
        if role in outside and not row.is_layer_role(role) and role != "token_embedding":
            yield 0, row.tensor_name(role), outside[role]
    for layer in range(config.num_layers):
        shapes = row.shapes(config, config.layer(layer))
        known = (role for role in row.tensors if role in shapes and row.is_layer_role(role))
        named = {row.tensor_name(role, layer): shapes[role] for role in known}
        for name, shape in stored_shapes(row, config, named).items():
            yield layer, name, shape
