"""Small projector files of random weights, of each kind of encoder of images, in which all that it has shows.

python -m rocmforge.tools.generate.vision_models qwen3vl_merger mmproj.gguf
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import click
import gguf
import numpy as np


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a small encoder.

    Attributes:
        hidden: of a patch's row.
        heads: of attention.
        inner: of the feed-forward.
        layers: of them.
        patch: pixels a side.
        side: patches a side of a picture in training.
        merge: patches a side that become a row.
        width: of the text model's rows.
        picture: height and width in patches of the picture that is compared.
        keys: further ones, below `clip.vision`.
    """

    hidden: int = 144
    heads: int = 2
    inner: int = 208
    layers: int = 3
    patch: int = 14
    side: int = 8
    merge: int = 2
    width: int = 64
    picture: tuple[int, int] = (8, 8)
    keys: Mapping[str, int] = field(default_factory=dict)


SHAPES: Mapping[str, Shape] = {
    "gemma3": Shape(merge=4, keys={"projector.scale_factor": 4}),
    "idefics3": Shape(merge=4, keys={"projector.scale_factor": 4, "preproc_image_size": 448}),
    "qwen2vl_merger": Shape(hidden=160, side=40, picture=(6, 10), keys={"spatial_merge_size": 2}),
    "qwen2.5vl_merger": Shape(
        hidden=160,
        inner=212,
        layers=5,
        side=40,
        picture=(12, 20),
        keys={"spatial_merge_size": 2, "n_wa_pattern": 4, "window_size": 112},
    ),
    "qwen3vl_merger": Shape(side=6, layers=4, picture=(8, 12), keys={"spatial_merge_size": 2}),
    "pixtral": Shape(hidden=128, side=40, picture=(6, 10), keys={"spatial_merge_size": 2}),
    "gemma4v": Shape(hidden=128, inner=160, side=40, merge=3, picture=(6, 9), keys={"projector.scale_factor": 3}),
    "internvl": Shape(keys={"projector.scale_factor": 2, "preproc_min_tiles": 1, "preproc_max_tiles": 6}),
}
"""A shape each; the larger of a picture's sides is not the other's, where the model lets it."""

_GELU = ("gemma3", "gemma4v", "idefics3", "qwen3vl_merger", "internvl")
_SILU = ("qwen2.5vl_merger", "pixtral")
_LAYER_NORMS = ("gemma3", "idefics3", "qwen2vl_merger", "qwen3vl_merger", "internvl")
_SWAPPED = re.compile(r"(?<=ffn_)(up|down)")
_LIMITS = {"input_min": -1.6, "input_max": 1.7, "output_min": -1.9, "output_max": 1.8}
"""Between which much of what is random lies, and much does not."""
DEEP_LAYERS = (0, 2)
"""Layers of the small Qwen3-VL after which it has further rows."""


def write_mmproj(path: Path, kind: str, seed: int = 0, matrices: str = "F16", swapped: bool = False) -> Path:
    """Write the projector file of a kind, the same bytes for the same seed; return `path`.

    Args:
        path: the file.
        kind: one of `SHAPES`.
        seed: of its weights.
        matrices: GGUF type of those whose columns it fits, else float16.
        swapped: the feed-forward's matrices have each other's names, as in old files.
    """
    shape, random = SHAPES[kind], np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "clip")
    _add_keys(writer, kind, shape)
    for right, sizes in _tensors(kind, shape).items():
        name = _SWAPPED.sub(lambda found: {"up": "down", "down": "up"}[found[0]], right) if swapped else right
        values = _numbers(random, name, sizes)
        if len(sizes) == 1 or "position" in name:
            writer.add_tensor(name, values)
            continue
        fits = sizes[-1] % 32 == 0 and len(sizes) == 2
        ggml_type = gguf.GGMLQuantizationType[matrices if fits else "F16"]
        data = values.astype(np.float16) if ggml_type.name == "F16" else gguf.quantize(values, ggml_type)
        writer.add_tensor(name, data, raw_dtype=ggml_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _numbers(
    random: np.random.Generator, name: str, sizes: tuple[int, ...]
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Return a tensor's numbers, of such a size that each part of the model moves what comes out."""
    if len(sizes) > 1:
        turned = name == "mm.input_projection.weight" and sizes[0] > sizes[1]
        inner = sizes[0] if turned else float(np.prod(sizes[1:]))
        size = 1.0 if "position" in name else (2.5 if "attn_q" in name or "attn_k" in name else 1.3) * inner**-0.5
        return random.normal(0, size, sizes).astype(np.float32)
    if name.endswith(tuple(_LIMITS)):
        return np.array([_LIMITS[name.rpartition(".")[2]] * random.uniform(0.9, 1.1)], np.float32)
    if "attn_q_norm" in name:  # scores are not scaled, and of the size that trained ones are
        return random.uniform(0.1, 0.3, sizes).astype(np.float32)
    if name.endswith("bias") or "class" in name or "img_break" in name:
        return random.normal(0, 0.4, sizes).astype(np.float32)
    return random.uniform(0.6, 1.6, sizes).astype(np.float32)


def _add_keys(writer: gguf.GGUFWriter, kind: str, shape: Shape) -> None:
    writer.add_string("clip.projector_type", kind)
    writer.add_bool("clip.has_vision_encoder", True)
    if kind in _GELU:
        writer.add_bool("clip.use_gelu", True)
    if kind in _SILU:
        writer.add_bool("clip.use_silu", True)
    numbers = {
        "embedding_length": shape.hidden,
        "feed_forward_length": shape.inner,
        "block_count": shape.layers,
        "projection_dim": shape.width,
        "attention.head_count": shape.heads,
        "image_size": shape.side * shape.patch,
        "patch_size": shape.patch,
        **shape.keys,
    }
    for key, number in numbers.items():
        writer.add_uint32(f"clip.vision.{key}", number)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-6)
    has_own = kind != "gemma4v"
    writer.add_array("clip.vision.image_mean", [0.48, 0.46, 0.41] if has_own else [0.0, 0.0, 0.0])
    writer.add_array("clip.vision.image_std", [0.27, 0.26, 0.28] if has_own else [1.0, 1.0, 1.0])


def _tensors(kind: str, shape: Shape) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors, outermost first."""
    hidden, merged = shape.hidden, shape.hidden * shape.merge**2
    tensors: dict[str, tuple[int, ...]] = {"v.patch_embd.weight": (hidden, 3, shape.patch, shape.patch)}
    if kind.startswith("qwen"):
        tensors["v.patch_embd.weight.1"] = tensors["v.patch_embd.weight"]
    if kind in ("gemma3", "idefics3", "qwen3vl_merger", "internvl"):
        tensors["v.patch_embd.bias"] = (hidden,)
        tensors["v.position_embd.weight"] = (shape.side**2 + (kind == "internvl"), hidden)
    if kind == "internvl":
        tensors["v.class_embd"] = (hidden,)
    if kind == "gemma4v":
        tensors |= {"v.position_embd.weight": (2, 16, hidden), "v.std_bias": (hidden,), "v.std_scale": (hidden,)}
    if kind == "pixtral":
        tensors |= {"v.pre_ln.weight": (hidden,), "v.token_embd.img_break": (shape.width,)}
    elif kind != "gemma4v":
        tensors["v.post_ln.weight"] = (hidden,)
        if kind in _LAYER_NORMS:
            tensors["v.post_ln.bias"] = (hidden,)
    for layer in range(shape.layers):
        tensors |= {f"v.blk.{layer}.{name}": sizes for name, sizes in _layer(kind, shape).items()}
        if kind == "qwen3vl_merger" and layer in DEEP_LAYERS:
            tensors |= {
                f"v.deepstack.{layer}.{name}": sizes
                for name, sizes in {
                    **dict.fromkeys(("norm.weight", "norm.bias"), (merged,)),
                    "fc1.weight": (merged, merged),
                    "fc1.bias": (merged,),
                    "fc2.weight": (shape.width, merged),
                    "fc2.bias": (shape.width,),
                }.items()
            }
    return {**tensors, **_projector(kind, shape)}


def _layer(kind: str, shape: Shape) -> dict[str, tuple[int, ...]]:
    hidden, inner = shape.hidden, shape.inner
    has_bias = kind not in ("pixtral", "gemma4v")
    tensors: dict[str, tuple[int, ...]] = {"ln1.weight": (hidden,), "ln2.weight": (hidden,)}
    if kind in _LAYER_NORMS:
        tensors |= {"ln1.bias": (hidden,), "ln2.bias": (hidden,)}
    rows = (
        {"attn_qkv": 3 * hidden} if kind == "qwen3vl_merger" else dict.fromkeys(("attn_q", "attn_k", "attn_v"), hidden)
    )
    gated = {"ffn_gate": inner} if kind in (*_SILU, "gemma4v") else {}
    for name, count in {**rows, "attn_out": hidden, "ffn_up": inner, **gated, "ffn_down": hidden}.items():
        tensors[f"{name}.weight"] = (count, inner if name == "ffn_down" else hidden)
        if has_bias:
            tensors[f"{name}.bias"] = (count,)
    if kind == "internvl":
        tensors |= {"ls1.weight": (hidden,), "ls2.weight": (hidden,)}
    if kind == "gemma4v":
        tensors |= dict.fromkeys(("attn_q_norm.weight", "attn_k_norm.weight"), (hidden // shape.heads,))
        tensors |= dict.fromkeys(("attn_post_norm.weight", "ffn_post_norm.weight"), (hidden,))
        limited = ("attn_q", "attn_v", "attn_out", "ffn_gate", "ffn_down")
        tensors |= {f"{name}.{end}": (1,) for name in limited for end in _LIMITS}
    return tensors


def _projector(kind: str, shape: Shape) -> dict[str, tuple[int, ...]]:
    hidden, merged, width = shape.hidden, shape.hidden * shape.merge**2, shape.width
    if kind == "gemma3":
        return {"mm.soft_emb_norm.weight": (hidden,), "mm.input_projection.weight": (hidden, width)}
    if kind == "gemma4v":
        return {"mm.input_projection.weight": (width, hidden)}
    if kind == "idefics3":
        return {"mm.model.fc.weight": (width, merged)}
    if kind == "pixtral":
        return {
            "mm.input_norm.weight": (hidden,),
            "mm.patch_merger.weight": (hidden, merged),
            "mm.1.weight": (width, hidden),
            "mm.2.weight": (width, width),
        }
    if kind == "internvl":
        base, first, last = "mm.model.mlp.", 1, 3
        norms = dict.fromkeys((f"{base}0.weight", f"{base}0.bias"), (merged,))
        inner = 96
    else:
        base, first, last, norms, inner = "mm.", 0, 2, {}, merged
    return {
        **norms,
        f"{base}{first}.weight": (inner, merged),
        f"{base}{first}.bias": (inner,),
        f"{base}{last}.weight": (width, inner),
        f"{base}{last}.bias": (width,),
    }


@click.command()
@click.argument("kind", type=click.Choice(list(SHAPES)))
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--seed", default=0, show_default=True)
@click.option("--matrices", default="F16", show_default=True)
def main(kind: str, path: Path, seed: int, matrices: str) -> None:
    """Write a small projector file of a KIND of encoder to PATH."""
    write_mmproj(path, kind, seed, matrices)


if __name__ == "__main__":
    main()
