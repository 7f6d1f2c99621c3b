"""Changes that a test of an architecture must see: what of a file's logits hangs on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from rocmforge.compiler.model_config import ModelConfig
from rocmforge.compiler.model_source import ModelSource
from rocmforge.compiler.operation import Float64
from rocmforge.compiler.position_tables import RopeTable

from .meaning import Meaning

_QUERIES = (".attention_q", ".attention_q_own", ".attention_q_tail")


def changed(source: ModelSource, meaning: Meaning, positions: int) -> Iterator[tuple[str, Meaning]]:
    """Yield models that differ from a model in one thing, with the name of the change."""
    config = meaning.config
    if config.rope_dim and any(config.layer(number).rope_dim for number in range(config.num_layers)):
        yield "rope base doubled", Meaning.with_config(source, _with_theta(config), positions)
    if config.max_alibi_bias:
        flat = replace(config, max_alibi_bias=config.max_alibi_bias / 2)
        yield "ALiBi halved", Meaning.with_config(source, flat, positions)
    if 0 < config.window < positions:
        by_layer = {name: values for name, values in config.by_layer.items() if name != "window"}
        whole = replace(config, window=0, by_layer=by_layer)
        yield "window dropped", Meaning.with_config(source, whole, positions)
    if any(config.layer(number).num_heads for number in range(config.num_layers)):
        yield "a head changed", _with_other_head(meaning)
    if any("_taps" in role for role in meaning.numbers):
        yield "taps turned round", _with_changed(meaning, "_taps", lambda taps: taps[:, ::-1])
    if any(role.endswith(".ssm_a") for role in meaning.numbers):
        yield "decays doubled", _with_changed(meaning, ".ssm_a", lambda decays: 2 * decays)


def _with_theta(config: ModelConfig) -> ModelConfig:
    tables = {
        role: replace(table, theta=2 * table.theta) if isinstance(table, RopeTable) else table
        for role, table in config.further_tables.items()
    }
    return replace(config, rope_theta=2 * config.rope_theta, further_tables=tables)


def _with_changed(meaning: Meaning, part: str, change: Callable[[Float64], Float64]) -> Meaning:
    """Return a model with a weight changed: the first whose role has that in it."""
    role = next(role for role in meaning.numbers if part in role)
    return replace(meaning, numbers={**meaning.numbers, role: change(meaning.numbers[role])})


def _with_other_head(meaning: Meaning) -> Meaning:
    """Return a model whose first head of queries, in the first layer that has some, is turned round."""
    roles = [role for role in meaning.numbers if role.endswith(_QUERIES)]
    heads = {role: meaning.config.layer(int(role.split(".")[1])).num_heads for role in roles}
    role = next(role for role in roles if heads[role])
    queries = meaning.numbers[role].copy()
    head_dim = len(queries) // heads[role]
    queries[:head_dim] = np.roll(queries[:head_dim], 1, axis=0)
    return replace(meaning, numbers={**meaning.numbers, role: queries})
