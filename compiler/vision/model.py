"""A projector file, read: its graph, its weights, and what the runtime has to know of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from ...artifacts.dataclass import dataclass
from ...artifacts.errors import InputError
from ...artifacts.vision import CHANNELS, Vision
from ..arrays import is_array
from ..graph import Graph, Weight
from ..model_source import ModelSource
from ..model_tensors import WeightTensor
from ..passes import run_passes
from ..position_tables import RopeTable
from ..sources import open_source
from ..weights import read_floats
from .graph import VisionConfig, vision_graph
from .kinds import KINDS, MOST_PATCHES, Kind
from .tensors import FlatSource, VisionSizes, clamps_of, flat_source, head_orders, vision_tensors

ARCHITECTURE = "clip"
MAX_LAYERS, MAX_HEADS, MAX_SIZE, MAX_SIDE = 256, 256, 1 << 16, 1 << 13
WINDOW_PIXELS = 112
_GEMMA4_CAUSAL = (1536, 2560)  # widths of the small ones, whose rows do not see one another
_LARGE_INTERNVL = (3200, 45)  # hidden size and layers of the one whose norms are RMS norms


@dataclass(frozen=True, slots=True)
class VisionModel:
    """An encoder of images.

    Attributes:
        source: of its weights.
        tensors: by role.
        tables: by position, that the compiler makes.
        made: numbers of weights that the file has in another form, by role.
        graph: after all passes.
        vision: what the runtime has to know.
        max_tokens: of a step.
        max_rows: of a step.
        hidden_size: of a patch's row.
        head_dim: elements of a head.
    """

    source: ModelSource
    tensors: Mapping[str, WeightTensor]
    tables: Mapping[str, RopeTable]
    made: Mapping[str, npt.NDArray[np.float32]]
    graph: Graph
    vision: Vision
    max_tokens: int
    max_rows: int
    hidden_size: int
    head_dim: int


def read_vision_model(path: Path, width: int) -> VisionModel:
    """Read a projector file for a text model whose rows are `width` wide.

    Raises:
        InputError: it cannot be trusted, is of no kind that is known, or is another model's.
    """
    given = open_source(path)
    architecture = given.get_str("general.architecture")
    if architecture != ARCHITECTURE:
        problem = f"expected {ARCHITECTURE}, as projector files have (--mmproj), found {architecture!r}"
        raise given.error("general.architecture", problem)
    source, kind = flat_source(given), _kind(given)
    sizes, merge = _sizes(source, kind)
    tensors = vision_tensors(source, kind, sizes)
    if kind.rope == "quarters":
        source = source.with_orders(head_orders(tensors, sizes.hidden // sizes.heads))
    config = replace(_config(source, kind, sizes, merge), clamps=clamps_of(source, tensors))
    tables = _tables(config)
    made = _made(source, tensors)
    weights = {role: Weight(role, one.shape, one.ggml_type.name) for role, one in tensors.items()}
    weights |= {role: Weight(role, table.shape(1), "F32") for role, table in tables.items()}
    graph = run_passes(vision_graph(config, weights))
    vision = _facts(source, kind, config, tensors, graph, width)
    extra = 1 if "class" in tensors else 0
    rows = vision.max_patches // merge**2
    return VisionModel(
        source, tensors, tables, made, graph, vision, vision.max_patches + extra, rows, sizes.hidden, config.head_dim
    )


def _kind(source: ModelSource) -> Kind:
    key = "clip.projector_type"
    if key not in source.metadata and "clip.vision.projector_type" in source.metadata:
        key = "clip.vision.projector_type"
    name = source.get_str(key)
    if name not in KINDS:
        raise source.error(key, f"expected one of {', '.join(KINDS)}, found {name!r}")
    if "clip.has_vision_encoder" in source.metadata and not source.get_bool("clip.has_vision_encoder"):
        raise source.error("clip.has_vision_encoder", "expected an encoder of images, found none")
    return KINDS[name]


def _sizes(source: FlatSource, kind: Kind) -> tuple[VisionSizes, int]:
    """Return the sizes of an encoder, and how many patches a side become a row."""
    hidden = source.get_int("clip.vision.embedding_length", None, 1, MAX_SIZE)
    heads = source.get_int("clip.vision.attention.head_count", None, 1, MAX_HEADS)
    if hidden % heads:
        raise source.error("clip.vision.attention.head_count", f"expected a divisor of {hidden}, found {heads}")
    for key, only in (("head_count_kv", heads), ("head_dim", hidden // heads)):
        source.get_int(f"clip.vision.attention.{key}", only, only, only)
    merge = source.get_int(kind.merge_key, kind.merge or None, 1, 16)
    patch = source.get_int("clip.vision.patch_size", None, 1, 256)
    return (
        VisionSizes(
            hidden=hidden,
            inner=source.get_int("clip.vision.feed_forward_length", None, 1, MAX_SIZE),
            heads=heads,
            layers=source.get_int("clip.vision.block_count", None, 1, MAX_LAYERS),
            patch_values=CHANNELS * patch * patch,
            merged=merge * merge,
            width=source.get_int("clip.vision.projection_dim", 0, 0, MAX_SIZE) if kind.name == "gemma3" else 0,
        ),
        merge,
    )


def _config(source: FlatSource, kind: Kind, sizes: VisionSizes, merge: int) -> VisionConfig:
    gelu, silu = source.get_bool("clip.use_gelu", False), source.get_bool("clip.use_silu", False)
    if gelu and silu:
        raise source.error("clip.use_silu", "expected one activation, found gelu too")
    head_dim = sizes.hidden // sizes.heads
    if kind.rope and head_dim % 4:
        raise source.error("clip.vision.attention.head_count", f"expected heads of a multiple of 4, found {head_dim}")
    large = kind.name == "internvl" and (sizes.hidden, sizes.layers) == _LARGE_INTERNVL
    every = 0
    if kind.name == "qwen2.5vl_merger":
        every = source.get_int("clip.vision.n_wa_pattern", None, 0, MAX_LAYERS)
    return VisionConfig(
        kind=kind,
        layers=sizes.layers,
        heads=sizes.heads,
        hidden=sizes.hidden,
        norm="rms" if large else kind.norm,
        epsilon=source.get_float("clip.vision.attention.layer_norm_epsilon", None, 0.0, 0.1),
        activation="gelu" if gelu else "silu" if silu else "gelu_quick",
        merge=merge,
        patch_values=sizes.patch_values,
        full_every=every,
    )


def _tables(config: VisionConfig) -> dict[str, RopeTable]:
    if not config.kind.rope:
        return {}
    axes: Literal["again", "turns"] = "turns" if config.kind.rope == "turns" else "again"
    return {"rope_table": RopeTable(config.kind.theta, config.head_dim, axes=axes)}


def _made(source: FlatSource, tensors: Mapping[str, WeightTensor]) -> dict[str, npt.NDArray[np.float32]]:
    """Return the table of places of an encoder with a class token: its last row is all that this token begins with; and
    what is taken away from rows as what is added to them."""
    if "std_bias" in tensors:
        return {"std_bias": -read_floats(source, tensors["std_bias"])}
    if "class" not in tensors:
        return {}
    table = read_floats(source, tensors["positions"]).reshape(tensors["positions"].shape).copy()
    table[-1] += read_floats(source, tensors["class"])
    if "patch_bias" in tensors:  # that the product of no patch has too
        table[-1] -= read_floats(source, tensors["patch_bias"])
    return {"positions": table}


def _facts(
    source: FlatSource,
    kind: Kind,
    config: VisionConfig,
    tensors: Mapping[str, WeightTensor],
    graph: Graph,
    width: int,
) -> Vision:
    image = source.get_int("clip.vision.image_size", None, 1, MAX_SIDE)
    patch = source.get_int("clip.vision.patch_size", None, 1, 256)
    found = graph.values[graph.nodes[-1].inputs[0]].columns
    deep = sum(role.endswith("deepstack_norm") for role in tensors)
    if found != width * (1 + deep):
        problem = f"expected rows of {width * (1 + deep)}, as the text model has them, found {found}"
        raise source.error("mmproj", problem)
    area = (patch * config.merge) ** 2
    side, most = image // patch, MOST_PATCHES // config.merge**2 * config.merge**2
    fixed = kind.resize != "pixels"
    if fixed and (image % (patch * config.merge) or side * side > MOST_PATCHES):
        problem = f"expected a multiple of {patch * config.merge} of at most {MOST_PATCHES} patches, found {image}"
        raise source.error("clip.vision.image_size", problem)
    _check_positions(source, kind, tensors, side)
    least_rows, most_rows = kind.tokens
    mean, std = (_numbers(source, f"clip.vision.image_{name}") for name in ("mean", "std"))
    if kind.name == "gemma4v":  # whose patches are twice their values less 1
        mean = tuple(one + deviation / 2 for one, deviation in zip(mean, std, strict=True))
        std = tuple(deviation / 2 for deviation in std)
    texts = {name: kind.texts.get(name, "") for name in _TEXTS}
    tiles = kind.resize == "internvl"
    return Vision(
        kind=kind.name,
        image_size=image,
        patch_size=patch,
        merge=config.merge,
        width=width,
        deepstack=deep,
        mean=mean,
        std=std,
        resize=kind.resize,
        resample=kind.resample,
        min_pixels=least_rows * area,
        max_pixels=min(most_rows * area, most * patch * patch),
        longest_edge=source.get_int("clip.vision.preproc_image_size", 0, 0, MAX_SIDE)
        if kind.resize == "idefics3"
        else 0,
        min_tiles=source.get_int("clip.vision.preproc_min_tiles", 1, 1, 64) if tiles else 0,
        max_tiles=source.get_int("clip.vision.preproc_max_tiles", 12, 1, 64) if tiles else 0,
        max_patches=side * side if fixed else min(most, most_rows * config.merge**2),
        both_ways=kind.both_ways and not (kind.name == "gemma4v" and width in _GEMMA4_CAUSAL),
        m_rope=kind.m_rope,
        positions=kind.positions,
        window=_window(source, patch) if config.full_every else 0,
        **texts,
    )


_TEXTS = ("begin", "end", "row_end", "tile_begin", "tile_row_end", "overview_begin", "overview_end")


def _window(source: FlatSource, patch: int) -> int:
    return source.get_int("clip.vision.window_size", WINDOW_PIXELS, patch, MAX_SIDE) // patch


def _check_positions(source: FlatSource, kind: Kind, tensors: Mapping[str, WeightTensor], side: int) -> None:
    """Hold the table of places against the pictures."""
    if kind.positions == "none":
        return
    name, rows = tensors["positions"].name, tensors["positions"].shape[0]
    wanted = side * side + ("class" in tensors)
    if kind.positions == "table" and rows != wanted:
        raise source.error(name, f"expected {wanted} rows, found {rows}")
    if kind.positions == "axes" and rows % 2:
        raise source.error(name, f"expected two tables, found {rows} rows")
    if kind.positions == "resized" and round(rows**0.5) ** 2 != rows:
        raise source.error(name, f"expected a square number of rows, found {rows}")


def _numbers(source: FlatSource, key: str) -> tuple[float, ...]:
    """Return a number for each channel."""
    found = source.metadata.get(key)
    if not is_array(found) or len(found) != CHANNELS or not np.isfinite(np.asarray(found, np.float64)).all():
        raise _wrong_numbers(source, key)
    numbers = tuple(float(number) for number in found)
    if key.endswith("std") and min(numbers) < 1e-6:
        raise _wrong_numbers(source, key)
    return numbers


def _wrong_numbers(source: FlatSource, key: str) -> InputError:
    return source.error(key, f"expected {CHANNELS} finite numbers (a deviation above 0), found otherwise")
