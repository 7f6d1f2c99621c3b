"""config.json in, a GGUF file's metadata out: what the rest of the compiler reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ...artifacts.errors import printable
from ..models.hugging_face import FOLDER_ROWS, FolderRow
from .json_file import JsonObject

MAX_LAYERS = 1024
MAX_CONTEXT = 1 << 24
_MAX_SIZE = 1 << 20

# Keys of config.json to the parts of GGUF's after the architecture's prefix; values are checked where they are read.
_KEYS: Mapping[str, tuple[str, ...]] = {
    "hidden_size": ("embedding_length",),
    "intermediate_size": ("feed_forward_length",),
    "num_hidden_layers": ("block_count",),
    "num_attention_heads": ("attention.head_count",),
    "num_key_value_heads": ("attention.head_count_kv",),
    "head_dim": ("attention.key_length", "attention.value_length"),
    "rms_norm_eps": ("attention.layer_norm_rms_epsilon",),
    "layer_norm_eps": ("attention.layer_norm_epsilon",),
}


@dataclass(slots=True)
class GgufNames:
    """What a config.json comes to, as a GGUF file would say it.

    Attributes:
        architecture: GGUF's name.
        metadata: by GGUF's keys.
        names: GGUF's keys to those of config.json, for messages.
        tensors: that GGUF has and the folder not: float32.
    """

    architecture: str
    metadata: dict[str, object] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    tensors: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)

    def put(self, suffix: str, value: object, name: str) -> None:
        """Set a key below the architecture's prefix, from the key `name` of config.json."""
        key = f"{self.architecture}.{suffix}"
        self.metadata[key] = value
        self.names[key] = name


def folder_row(config: JsonObject) -> FolderRow:
    """Return what is known of this kind of model.

    Raises:
        InputError: nothing is.
    """
    kind = config.text("model_type")
    if kind not in FOLDER_ROWS:
        raise config.error("model_type", f"expected one of {', '.join(FOLDER_ROWS)}, found {printable(kind)}")
    return FOLDER_ROWS[kind]


def translate(config: JsonObject, row: FolderRow) -> GgufNames:
    """Return a model's hyperparameters by GGUF's names.

    Raises:
        InputError: a value is not what it should be, or a feature is not supported.
    """
    config = JsonObject(config.path, {**row.defaults, **{k: v for k, v in config.values.items() if v is not None}})
    gguf = GgufNames(row.architecture, {"general.architecture": row.architecture})
    for name, suffixes in {**_KEYS, **{name: (suffix,) for name, suffix in row.keys.items()}}.items():
        for suffix in suffixes if config.has(name) else ():
            gguf.put(suffix, config.values[name], name)
    config.integer("num_hidden_layers", None, 1, MAX_LAYERS)
    activation = config.text("hidden_act", config.text("hidden_activation", row.activations[0]))
    if activation not in row.activations:
        expected = " or ".join(row.activations)
        raise config.error("hidden_act", f"expected {expected} in a {row.architecture}, found {printable(activation)}")
    gguf.put("context_length", _context(config, row), "max_position_embeddings")
    _rope(config, gguf)
    return gguf


def head_dim(config: JsonObject, row: FolderRow) -> int:
    """Return the elements of a head."""
    heads = config.integer("num_attention_heads", None, 1, _MAX_SIZE)
    default = row.defaults.get("head_dim")
    if not isinstance(default, int):
        default = config.integer("hidden_size", None, 1, _MAX_SIZE) // heads
    return config.integer("head_dim", default, 2, _MAX_SIZE)


def interleaved_order(size: int) -> npt.NDArray[np.intp]:
    """Return for each row of a head in GGUF's order, (2i, 2i+1), which row it is of one that rotates in halves."""
    return np.arange(size).reshape(2, size // 2).T.reshape(-1)


def _context(config: JsonObject, row: FolderRow) -> int:
    """Return the tokens of context; of a model whose graph has no window, no more than its window holds."""
    context = config.integer("max_position_embeddings", None, 1, MAX_CONTEXT)
    if row.windowed or not config.has("sliding_window") or not config.boolean("use_sliding_window", True):
        return context
    return min(context, config.integer("sliding_window", None, 1, MAX_CONTEXT))


def _rope(config: JsonObject, gguf: GgufNames) -> None:
    """Rotary positions: `rope_theta` and `rope_scaling`, or both in `rope_parameters`, as newer folders have it."""
    place = "rope_parameters" if config.has("rope_parameters") else "rope_scaling"
    scaling = config.part(place)
    base = scaling if scaling.has("rope_theta") else config
    theta = base.number("rope_theta", 10000.0, 1, 1e15)
    gguf.put("rope.freq_base", theta, "rope_theta")
    row = FOLDER_ROWS[config.text("model_type")]
    rotated = int(head_dim(config, row) * config.number("partial_rotary_factor", 1.0, 0, 1))
    gguf.put(
        "rope.dimension_count", rotated, "partial_rotary_factor" if config.has("partial_rotary_factor") else "head_dim"
    )
    kind = scaling.text("rope_type", scaling.text("type", "default"))
    if kind == "default":
        return
    if kind == "linear":
        gguf.put("rope.scaling.type", "linear", f"{place}.rope_type")
        gguf.put("rope.scaling.factor", scaling.number("factor", None, 1, 1e6), f"{place}.factor")
    elif kind == "llama3":
        gguf.tensors["rope_freqs.weight"] = llama3_factors(scaling, theta, rotated)
    elif kind == "yarn":
        _yarn(config, scaling, gguf, place)
    else:
        raise scaling.error("rope_type", f"expected default, linear, llama3 or yarn, found {printable(kind)}")


def llama3_factors(scaling: JsonObject, theta: float, rotated: int) -> npt.NDArray[np.float32]:
    """Return the divisor of each rotary frequency, float32[rotated / 2], by the rule of Llama 3.1.

    Waves longer than the context that the model was first trained for turn slower by `factor`, those that fit into it
    often stay, and those between pass from one to the other.
    """
    factor = scaling.number("factor", None, 1, 1e6)
    low = scaling.number("low_freq_factor", None, 1e-6, 1e6)
    high = scaling.number("high_freq_factor", None, 1e-6, 1e6)
    if high <= low:
        raise scaling.error("high_freq_factor", f"expected more than low_freq_factor, {low}, found {high}")
    context = scaling.integer("original_max_position_embeddings", None, 1, MAX_CONTEXT)
    turns = context * theta ** (-2.0 * np.arange(rotated // 2, dtype=np.float64) / rotated) / (2 * math.pi)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / (kept + (1 - kept) / factor)).astype(np.float32)


def _yarn(config: JsonObject, scaling: JsonObject, gguf: GgufNames, place: str) -> None:
    """Yarn: GGUF counts its magnitude in units of 0.1 ln(factor) + 1."""
    factor = scaling.number("factor", None, 1, 1e6)
    trained = config.integer("max_position_embeddings", None, 1, MAX_CONTEXT)
    original = scaling.integer("original_max_position_embeddings", trained, 1, MAX_CONTEXT)
    for name in ("mscale", "mscale_all_dim", "truncate"):
        if scaling.has(name):
            raise scaling.error(name, "expected no such key of yarn, which is not supported, found it")
    gguf.put("rope.scaling.type", "yarn", f"{place}.rope_type")
    gguf.put("rope.scaling.factor", factor, f"{place}.factor")
    gguf.put("rope.scaling.original_context_length", original, f"{place}.original_max_position_embeddings")
    for name in ("beta_fast", "beta_slow"):
        if scaling.has(name):
            gguf.put(f"rope.scaling.yarn_{name}", scaling.number(name, None, 0, 1e6), f"{place}.{name}")
    if scaling.has("attention_factor"):
        magnitude = scaling.number("attention_factor", None, 1e-6, 1e6)
        gguf.put("rope.scaling.attn_factor", magnitude / (0.1 * math.log(factor) + 1), f"{place}.attention_factor")
