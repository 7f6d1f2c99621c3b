"""Rotary positions and windows of a model, as its file's keys and its architecture's row say them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..artifacts.errors import printable
from .model_config import ModelConfig
from .model_source import ModelSource
from .models.architecture import Architecture, Windows
from .position_tables import RopeScaling, RopeTable, Temperatures

DEFAULT_ROPE_THETA = 10000.0
MAX_THETA = 1e15
MAX_WINDOW = 1 << 24
_SECTIONS = 4  # time, height, width, extra
_KINDS = ("none", "linear", "yarn", "longrope")


def read_rope_scaling(source: ModelSource, row: Architecture, max_seq_len: int) -> RopeScaling:
    """Return how frequencies are stretched.

    Source: llama.cpp `llama_model::load_hparams`: linear is what a bare factor means; 0 means none.

    Raises:
        GgufError: of a kind that is not known, or a number out of bounds.
    """
    key = row.key("rope_scaling_kind")
    kind = source.get_str(key, "linear")
    if kind not in _KINDS:
        known = f"{', '.join(_KINDS[:-1])} or {_KINDS[-1]}"
        raise source.error(key, f"expected {known}, found {printable(kind)}, which is not supported")
    old = source.get_float(row.key("rope_scale_linear"), 0.0, minimum=0, maximum=1e6)
    factor = source.get_float(row.key("rope_scaling_factor"), old, minimum=0, maximum=1e6)
    if kind == "none" or factor == 0:
        factor = 1.0
    grown = source.get_float(row.key("rope_attention_factor"), 0.0, 0, 1e6) or 1.0
    common: dict[str, Any] = {
        "factor": factor,
        "original_context": _original_context(source, row, max_seq_len),
        "attention_factor": grown,
    }
    if _has(source, row, "rope_factors_long") and (kind == "longrope" or "rope_factors" not in row.tensors):
        return RopeScaling("longrope", **common)
    if kind == "yarn":
        return RopeScaling(
            "yarn",
            divided=_has(source, row, "rope_factors"),
            beta_fast=source.get_float(
                row.key("rope_beta_fast"), row.defaults.get("rope_beta_fast", 32.0), minimum=0, maximum=1e6
            ),
            beta_slow=source.get_float(row.key("rope_beta_slow"), 1.0, minimum=0, maximum=1e6),
            log_multiplier=source.get_float(row.key("rope_log_multiplier"), 0.0, minimum=0, maximum=1e6),
            **common,
        )
    if _has(source, row, "rope_factors"):
        return RopeScaling("factors", factor, attention_factor=grown)
    return RopeScaling("none" if factor == 1 else "linear", factor, attention_factor=grown)


def _original_context(source: ModelSource, row: Architecture, max_seq_len: int) -> int:
    return source.get_int(row.key("rope_original_context"), 0, 0, MAX_WINDOW) or max_seq_len


def _has(source: ModelSource, row: Architecture, role: str) -> bool:
    return role in row.tensors and row.tensor_name(role) in source.tensors


def with_windows(source: ModelSource, row: Architecture, config: ModelConfig) -> ModelConfig:
    """Return a configuration with what its layers see, and by which table those with a window rotate.

    Raises:
        GgufError: a key that says so is not what such a key is.
    """
    windows = row.windows
    size = 0 if windows is None else source.get_int(row.key("window"), windows.size, 0, MAX_WINDOW)
    if windows is None or not size:
        return config
    windowed = _windowed(source, row.key("window_pattern"), windows, config.num_layers)
    changed: dict[str, tuple[int | str, ...]] = {"window": tuple(size if one else 0 for one in windowed)}
    if not windows.rotates_full:
        changed["rope_dim"] = tuple(config.rope_dim if one else 0 for one in windowed)
    table = _windowed_table(source, row, windows, config)
    tables = dict(config.further_tables)
    if table != config.tables()["rope_table"]:
        role = "rope_table_windowed"
        changed["rope_table"] = tuple(role if one else "rope_table" for one in windowed)
        tables[role] = table
    return replace(config, window=size, by_layer={**config.by_layer, **changed}, further_tables=tables)


def _windowed(source: ModelSource, key: str, windows: Windows, num_layers: int) -> tuple[bool, ...]:
    """Return which layers have a window: one by one as the file says, or all but one of so many."""
    flags = source.get_flags(key, num_layers)
    if flags is not None:
        return flags
    every = source.get_int(key, windows.pattern, 0, MAX_WINDOW)
    whole = 0 if windows.first else every - 1
    return tuple(not every or layer % every != whole for layer in range(num_layers))


def _windowed_table(source: ModelSource, row: Architecture, windows: Windows, config: ModelConfig) -> RopeTable:
    theta = config.rope_theta
    if windows.theta is not None:
        theta = source.get_float(row.key("rope_theta_windowed"), windows.theta or theta, 1, MAX_THETA)
    return RopeTable(theta, config.rope_dim, config.rope_scaling if windows.scaled else RopeScaling())


def with_sections(source: ModelSource, row: Architecture, config: ModelConfig) -> ModelConfig:
    """Return a configuration with the sections of its rotation, where its architecture has some.

    Raises:
        GgufError: they are not four numbers of pairs.
    """
    if not row.sections or (key := row.key("rope_sections")) not in source.metadata:
        return config
    found = source.get_int_list(key)
    if len(found) != _SECTIONS or min(found) < 0 or not 0 < sum(found) <= config.rope_dim:
        expected = f"expected {_SECTIONS} numbers of pairs, 1 to {config.rope_dim} in all"
        raise source.error(key, f"{expected}, found {', '.join(map(str, found[: 2 * _SECTIONS]))}")
    time, height, width, extra = found
    interleaved = row.sections == "interleaved"
    return replace(config, rope_sections=(time, height, width, extra), sections_interleaved=interleaved)


def with_temperatures(source: ModelSource, row: Architecture, config: ModelConfig) -> ModelConfig:
    """Return a configuration with the table by which queries are multiplied, where its file asks for one.

    Raises:
        GgufError: the scale is out of bounds.
    """
    if "temperature_scale" not in row.keys:
        return config
    scale = source.get_float(row.key("temperature_scale"), 0.0, 0, 1e6)
    if not scale:
        return config
    temperatures = Temperatures(scale, _original_context(source, row, config.max_seq_len))
    return replace(config, further_tables={**config.further_tables, "temperatures": temperatures})
