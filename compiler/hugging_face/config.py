"""config.json in, a GGUF file's metadata out: what the rest of the compiler reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ...artifacts.errors import printable
from ..architectures import ARCHITECTURES
from ..models.hugging_face import FOLDER_ROWS, FolderRow
from .forms import ATTENTION, FORMS
from .gguf_names import GgufNames
from .json_file import JsonObject

MAX_LAYERS = 1024
MAX_CONTEXT = 1 << 24
MAX_THETA = 1e15
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
_LONG = "rope_factors_long.weight"
_DIVIDED = {"llama3": "rope_freqs.weight", "longrope": _LONG, "su": _LONG}
"""Kinds of rotation that divide frequencies by a tensor."""
_SOFTCAPS = ("attn_logit_softcapping", "final_logit_softcapping")
"""Keys whose null says something else than that they are absent: that there is none."""


def text_config(config: JsonObject) -> JsonObject:
    """Return a configuration with what a model of text and images says of its text on top."""
    if not config.has("text_config"):
        return config
    return JsonObject(config.path, {**config.values, **config.part("text_config").values})


def folder_row(config: JsonObject) -> FolderRow:
    """Return what is known of this kind of model.

    Raises:
        InputError: nothing is.
    """
    kind = config.text("model_type")
    if kind not in FOLDER_ROWS:
        raise config.error("model_type", f"expected one of {', '.join(FOLDER_ROWS)}, found {printable(kind)}")
    row, kinds = FOLDER_ROWS[kind], config.values.get("layer_types")
    if row.form != "granite_hybrid" or not isinstance(kinds, list) or not all(one in ATTENTION for one in kinds):
        return row
    if config.values.get("position_embedding_type") != "rope":  # which GGUF knows of hybrids alone
        raise config.error("position_embedding_type", "expected rope where all layers have attention, found another")
    return replace(row, architecture="granitemoe" if config.values.get("num_local_experts") else "granite")


def translate(config: JsonObject, row: FolderRow) -> GgufNames:
    """Return a model's hyperparameters by GGUF's names.

    Raises:
        InputError: a value is not what it should be, or a feature is not supported.
    """
    off = [name for name in _SOFTCAPS if name in row.keys and config.values.get(name, "") is None]
    config = JsonObject(config.path, {**row.defaults, **{k: v for k, v in config.values.items() if v is not None}})
    gguf = GgufNames(row.architecture, {"general.architecture": row.architecture})
    further = {name: (*_KEYS.get(name, ()), suffix) for name, suffix in row.keys.items()}
    for name, suffixes in {**_KEYS, **further}.items():
        for suffix in suffixes if config.has(name) else ():
            gguf.put(suffix, config.values[name], name)
    for name in off:
        gguf.put(row.keys[name], 0.0, name)
    config.integer("num_hidden_layers", None, 1, MAX_LAYERS)
    for name, value in row.required.items():
        if config.has(name) and config.values[name] != value:
            raise config.error(name, f"expected {value}, found {printable(config.values[name], 60)}, not supported")
    activation = config.text("hidden_act", config.text("hidden_activation", row.activations[0]))
    if activation not in row.activations:
        expected = " or ".join(row.activations)
        raise config.error("hidden_act", f"expected {expected} in a {row.architecture}, found {printable(activation)}")
    gguf.put("context_length", _context(config, row), "max_position_embeddings")
    if config.has("query_pre_attn_scalar"):  # Gemma's, from 2 on
        scalar = config.number("query_pre_attn_scalar", None, 1, _MAX_SIZE)
        gguf.put("attention.scale", scalar**-0.5, "query_pre_attn_scalar")
    _rope(config, row, gguf)
    if row.windowed:
        _windows(config, gguf)
    if row.form:
        FORMS[row.form](config, gguf)
    return gguf


def head_dim(config: JsonObject, row: FolderRow) -> int:
    """Return the elements of a head; of latent attention those that rotate."""
    if row.form == "latent":
        return config.integer("qk_rope_head_dim", None, 2, _MAX_SIZE)
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


def _windows(config: JsonObject, gguf: GgufNames) -> None:
    """Which layers see a window, and how much of the past."""
    if not config.has("sliding_window") or not config.boolean("use_sliding_window", True):
        return
    gguf.put("attention.sliding_window", config.integer("sliding_window", None, 1, MAX_CONTEXT), "sliding_window")
    layers = config.integer("num_hidden_layers", None, 1, MAX_LAYERS)
    kinds, pattern = config.values.get("layer_types"), config.values.get("sliding_window_pattern")
    if isinstance(kinds, list):
        gguf.put(
            "attention.sliding_window_pattern", np.array([one == "sliding_attention" for one in kinds]), "layer_types"
        )
    elif isinstance(pattern, str) and pattern:  # as LLLG
        of_layers = [pattern[layer % len(pattern)] == "L" for layer in range(layers)]
        gguf.put("attention.sliding_window_pattern", np.array(of_layers), "sliding_window_pattern")
    elif pattern is not None:
        every = config.integer("sliding_window_pattern", None, 0, MAX_LAYERS)
        gguf.put("attention.sliding_window_pattern", every, "sliding_window_pattern")


def _rope(config: JsonObject, row: FolderRow, gguf: GgufNames) -> None:
    """Rotary positions: `rope_theta` and `rope_scaling`, or both in `rope_parameters`, as newer folders have it."""
    place = "rope_parameters" if config.has("rope_parameters") else "rope_scaling"
    scaling = config.part(place)
    if scaling.has("full_attention"):  # one for each kind of layer
        of_windows = scaling.part("sliding_attention")
        if of_windows.has("rope_theta"):
            gguf.put("rope.freq_base_swa", of_windows.number("rope_theta", None, 1, MAX_THETA), place)
        scaling = scaling.part("full_attention")
    theta = (scaling if scaling.has("rope_theta") else config).number("rope_theta", 10000.0, 1, MAX_THETA)
    gguf.put("rope.freq_base", theta, "rope_theta")
    of_part = scaling if scaling.has("partial_rotary_factor") else config
    rotated = int(head_dim(config, row) * of_part.number("partial_rotary_factor", 1.0, 0, 1))
    name = "partial_rotary_factor" if of_part.has("partial_rotary_factor") else "head_dim"
    gguf.put("rope.dimension_count", rotated, name)
    if ARCHITECTURES[row.architecture].sections and scaling.has("mrope_section"):
        sections = scaling.numbers("mrope_section", 0, _MAX_SIZE)
        of_pairs = np.array([*sections, *[0] * (4 - len(sections))], np.int32)
        gguf.put("rope.dimension_sections", of_pairs, f"{place}.mrope_section")
    kind = scaling.text("rope_type", scaling.text("type", "default"))
    if kind == "default" or (kind == "mrope" and row.architecture.endswith("vl")):  # all sections are at a text's place
        return
    if kind == "linear":
        gguf.put("rope.scaling.type", "linear", f"{place}.rope_type")
        gguf.put("rope.scaling.factor", scaling.number("factor", None, 1, 1e6), f"{place}.factor")
    elif kind in _DIVIDED and _DIVIDED[kind] not in ARCHITECTURES[row.architecture].tensors.values():
        problem = f"expected default, linear or yarn in a {row.architecture}, found {kind}, not supported"
        raise scaling.error("rope_type", problem)
    elif kind == "llama3":
        gguf.tensors["rope_freqs.weight"] = llama3_factors(scaling, theta, rotated)
    elif kind == "yarn":
        _yarn(config, scaling, gguf, place)
    elif kind in _DIVIDED:
        _longrope(config, scaling, gguf, rotated)
    else:
        raise scaling.error("rope_type", f"expected default, linear, llama3, yarn or longrope, found {printable(kind)}")


def _longrope(config: JsonObject, scaling: JsonObject, gguf: GgufNames, rotated: int) -> None:
    """Two divisors for each frequency: for contexts up to the one first trained on, and for longer ones."""
    trained = config.integer("max_position_embeddings", None, 1, MAX_CONTEXT)
    of_original = scaling if scaling.has("original_max_position_embeddings") else config
    original = of_original.integer("original_max_position_embeddings", None, 2, MAX_CONTEXT)
    for name in ("long", "short"):
        factors = scaling.numbers(f"{name}_factor", 1e-6, 1e6)
        if len(factors) != rotated // 2:
            raise scaling.error(f"{name}_factor", f"expected {rotated // 2} numbers, found {len(factors)}")
        gguf.tensors[f"rope_factors_{name}.weight"] = np.array(factors, np.float32)
    usual = math.sqrt(1 + math.log(trained / original) / math.log(original)) if trained > original else 1.0
    magnitude = scaling.number("attention_factor", usual, 1e-6, 1e6)
    gguf.put("rope.scaling.type", "longrope", "rope_scaling.type")
    gguf.put("rope.scaling.original_context_length", original, "original_max_position_embeddings")
    gguf.put("rope.scaling.attn_factor", magnitude, "rope_scaling.attention_factor")


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
    # llama.cpp's yarn rounds the ends of the ramp; gpt-oss does not ("truncate"), and is computed as llama.cpp does.
    passed_over = {"gpt-oss": ("truncate",), "deepseek2": ("mscale", "mscale_all_dim")}.get(gguf.architecture, ())
    if gguf.architecture == "deepseek2":
        grown = scaling.number("mscale_all_dim", None, 1e-6, 1e6)
        if scaling.number("mscale", None, 1e-6, 1e6) != grown:
            raise scaling.error("mscale", f"expected mscale_all_dim, {grown}, found another, not supported")
        gguf.put("rope.scaling.yarn_log_multiplier", 0.1 * grown, f"{place}.mscale_all_dim")
    for name in ("mscale", "mscale_all_dim", "truncate"):
        if scaling.has(name) and name not in passed_over:
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
