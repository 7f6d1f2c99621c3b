"""Stage, for models with recurrent state: which layers have it, and of what sizes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from .model_config import ModelConfig, Recurrence
from .model_source import ModelSource
from .models.architecture import Architecture, Mixer

MAX_TAPS: Final = 8
MAX_STATE: Final = 256
_MAX_SIZE: Final = 1 << 17
_MAX_HEADS: Final = 1 << 12
_MAX_INTERVAL: Final = 1024


def with_recurrence(source: ModelSource, row: Architecture, config: ModelConfig) -> ModelConfig:
    """Return a configuration with the layers that have recurrent state, where its architecture has such layers.

    Raises:
        GgufError: sizes that do not fit each other, or what a key says is not what such a key is.
    """
    mixer = row.mixer
    if mixer is None:
        return config
    recurrent = _recurrent(source, row, mixer, config)
    if not any(recurrent):
        raise source.error(row.key("num_kv_heads"), "expected layers with recurrent state, found none")
    changed: dict[str, tuple[int, ...]] = {"recurrent": recurrent}
    for name in ("num_heads", "num_kv_heads"):
        found = (getattr(config.layer(number), name) for number in range(config.num_layers))
        changed[name] = tuple(
            0 if _headless(mixer, config, number, recurrent[number]) else heads for number, heads in enumerate(found)
        )
    largest: dict[str, Any] = {name: max(of_layers) for name, of_layers in changed.items()}
    by_layer = {name: of_layers for name, of_layers in config.by_layer.items() if name not in changed}
    by_layer |= {name: of_layers for name, of_layers in changed.items() if len(set(of_layers)) > 1}
    recurrence = _sizes(source, row, mixer, config, recurrent.index(True))
    return replace(config, recurrence=recurrence, by_layer=by_layer, **largest)


def _recurrent(source: ModelSource, row: Architecture, mixer: Mixer, config: ModelConfig) -> tuple[bool, ...]:
    layers = range(config.num_layers)
    if mixer.layers == "all":
        return (True,) * config.num_layers
    if mixer.layers == "headless":
        found = (config.layer(number) for number in layers)
        return tuple(not one.num_kv_heads and not (mixer.apart and one.intermediate_size) for one in found)
    key = row.key("recurrent_layers")
    flags = source.get_flags(key, config.num_layers)
    if flags is None:
        every = source.get_int(row.key("full_interval"), mixer.interval, 1, _MAX_INTERVAL)
        return tuple((number + 1) % every != 0 for number in layers)
    return flags


def _headless(mixer: Mixer, config: ModelConfig, number: int, recurrent: bool) -> bool:
    """Return whether a layer has no attention."""
    alone = mixer.apart and config.layer(number).intermediate_size
    return bool(alone) or (recurrent and not mixer.beside)


def _sizes(source: ModelSource, row: Architecture, mixer: Mixer, config: ModelConfig, layer: int) -> Recurrence:
    """Return the sizes of what a model's layers with recurrent state have; `layer` is one of them."""
    if mixer.kind == "short_conv":
        taps = source.get_int(row.key("short_taps"), minimum=2, maximum=MAX_TAPS)
        return Recurrence(mixer.kind, taps, config.hidden_size)
    if mixer.kind == "lightning":
        heads, columns = config.num_heads, config.head_dim
        if columns > MAX_STATE:
            raise source.error(row.key("key_length"), f"expected at most {MAX_STATE}, found {columns}")
        return Recurrence(mixer.kind, 0, heads * columns, heads, columns, heads)
    taps = source.get_int(row.key("ssm_taps"), minimum=2, maximum=MAX_TAPS)
    if mixer.kind == "kda":
        if not config.num_heads:
            raise source.error(row.key("num_heads"), "expected heads of layers with recurrent state, found 0")
        columns = source.get_int(row.key("delta_head_dim"), minimum=1, maximum=MAX_STATE)
        return Recurrence(mixer.kind, taps, config.num_heads * columns, config.num_heads, columns, config.num_heads)
    size = source.get_int(row.key("ssm_size"), minimum=1, maximum=_MAX_SIZE)
    state = source.get_int(row.key("ssm_state"), minimum=1, maximum=MAX_STATE)
    heads = source.get_int(row.key("ssm_heads"), minimum=1, maximum=_MAX_HEADS) if "ssm_heads" in row.keys else size
    groups = source.get_int(row.key("ssm_groups"), 1, 1, heads) if "ssm_groups" in row.keys else 1
    for key, total, part in (("ssm_heads", size, heads), ("ssm_groups", heads, groups)):
        if key in row.keys and total % part:
            raise source.error(row.key(key), f"expected a divisor of {total}, found {part}")
    rank, normed = _steps(source, row, layer)
    return Recurrence(mixer.kind, taps, size, heads, state, groups, rank, normed, mixer.mapping)


def _steps(source: ModelSource, row: Architecture, layer: int) -> tuple[int, bool]:
    """Return the elements that time steps are made of, which the tensor says, and whether these are normed."""
    if "ssm_step" not in row.tensors:
        return 0, False
    rank = source.tensor(row.tensor_name("ssm_step", layer)).shape[-1]
    said = "ssm_normed" in row.keys and source.get_bool(row.key("ssm_normed"), False)
    return rank, said or "ssm_step_norm" in row.tensors
