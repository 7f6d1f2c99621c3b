"""Projector files: what is read of them, and that anything wrong or unknown is refused in one line that names it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from rocmforge.artifacts.errors import InputError
from rocmforge.compiler.vision.kinds import KINDS
from rocmforge.compiler.vision.model import read_vision_model
from rocmforge.tools.generate.vision_models import SHAPES, write_mmproj

Change = Callable[[dict[str, Any], dict[str, Any]], None]
"""Of keys and tensors, in place."""


def rewritten(path: Path, kind: str, change: Change) -> Path:
    """A projector file with its keys and tensors changed."""
    reader = gguf.GGUFReader(write_mmproj(path.with_suffix(".whole"), kind))
    keys: dict[str, Any] = {"general.architecture": "clip"}
    for name, field in reader.fields.items():
        if not name.startswith("GGUF."):
            keys[name] = field.contents()
    tensors: dict[str, Any] = {one.name: (one.data, one.tensor_type) for one in reader.tensors}
    change(keys, tensors)
    writer = gguf.GGUFWriter(path, keys.pop("general.architecture"))
    for name, value in keys.items():
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        else:
            writer.add_array(name, value)
    for name, (data, kind_of) in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(data), raw_dtype=kind_of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def key(name: str, value: object) -> Change:
    def change(keys: dict[str, Any], _tensors: dict[str, Any]) -> None:
        if value is None:
            del keys[name]
        else:
            keys[name] = value

    return change


def without(name: str) -> Change:
    def change(_keys: dict[str, Any], tensors: dict[str, Any]) -> None:
        del tensors[name]

    return change


def tensor(name: str, shape: tuple[int, ...], dtype: type = np.float32, value: float = 1) -> Change:
    kinds: dict[type, gguf.GGMLQuantizationType] = {
        np.float32: gguf.GGMLQuantizationType.F32,
        np.int32: gguf.GGMLQuantizationType.I32,
    }

    def change(_keys: dict[str, Any], tensors: dict[str, Any]) -> None:
        tensors[name] = (np.full(shape, value, dtype), kinds[dtype])

    return change


VISION = "clip.vision."
CASES: dict[str, tuple[str, Change, str]] = {
    "architecture": ("gemma3", key("general.architecture", "llama"), "expected clip, as projector files have"),
    "kind": ("gemma3", key("clip.projector_type", "mlp"), "clip.projector_type: expected one of gemma3, idefics3,"),
    "no-kind": ("gemma3", key("clip.projector_type", None), "clip.projector_type: expected a string, found nothing"),
    "no-encoder": ("gemma3", key("clip.has_vision_encoder", False), "expected an encoder of images, found none"),
    "two-activations": ("gemma3", key("clip.use_silu", True), "clip.use_silu: expected one activation, found gelu too"),
    "no-layers": ("gemma3", key(f"{VISION}block_count", 0), "block_count: expected 1 to 256, found 0"),
    "heads": ("gemma3", key(f"{VISION}attention.head_count", 7), "head_count: expected a divisor of 144, found 7"),
    "no-size": ("gemma3", key(f"{VISION}image_size", None), "image_size: expected an integer, found nothing"),
    "size": (
        "gemma3",
        key(f"{VISION}image_size", 100),
        "image_size: expected a multiple of 56 of at most 8192 patches",
    ),
    "large": (
        "gemma3",
        key(f"{VISION}image_size", 2240),
        "image_size: expected a multiple of 56 of at most 8192 patch",
    ),
    "merge": (
        "idefics3",
        key(f"{VISION}projector.scale_factor", None),
        "scale_factor: expected an integer, found nothin",
    ),
    "epsilon": ("gemma3", key(f"{VISION}attention.layer_norm_epsilon", 2.0), "layer_norm_epsilon: expected 0.0 to 0.1"),
    "mean": ("gemma3", key(f"{VISION}image_mean", [0.5, 0.5]), "image_mean: expected 3 finite numbers"),
    "no-mean": ("gemma3", key(f"{VISION}image_mean", None), "image_mean: expected 3 finite numbers"),
    "deviation": ("gemma3", key(f"{VISION}image_std", [0.5, 0.0, 0.5]), "image_std: expected 3 finite numbers"),
    "windows": (
        "qwen2.5vl_merger",
        key(f"{VISION}n_wa_pattern", None),
        "n_wa_pattern: expected an integer, found nothing",
    ),
    "no-patches": ("gemma3", without("v.patch_embd.weight"), "v.patch_embd.weight: expected this tensor, found none"),
    "one-frame": ("qwen3vl_merger", without("v.patch_embd.weight.1"), "v.patch_embd.weight.1: expected this tensor"),
    "no-places": ("gemma3", without("v.position_embd.weight"), "v.position_embd.weight: expected this tensor"),
    "no-values": (
        "gemma3",
        without("v.blk.1.attn_v.weight"),
        "v.blk.1.attn_v.weight: expected this tensor, found none",
    ),
    "no-norm": ("gemma3", without("mm.soft_emb_norm.weight"), "mm.soft_emb_norm.weight: expected this tensor"),
    "half-deep": ("qwen3vl_merger", without("v.deepstack.2.fc1.bias"), "v.deepstack.2.fc1.bias: expected this tensor"),
    "places": (
        "gemma3",
        tensor("v.position_embd.weight", (63, 144)),
        "v.position_embd.weight: expected 64 rows, found 63",
    ),
    "square": (
        "qwen3vl_merger",
        tensor("v.position_embd.weight", (35, 144)),
        "expected a square number of rows, found 35",
    ),
    "shape": (
        "gemma3",
        tensor("v.blk.0.ffn_up.weight", (208, 100)),
        "ffn_up.weight: expected shape [208, 144], found [208",
    ),
    "type": (
        "gemma3",
        tensor("v.blk.0.ln1.weight", (144,), np.int32),
        "v.blk.0.ln1.weight: expected a type of F32, F16",
    ),
    "unknown": (
        "gemma3",
        tensor("v.blk.0.lora.weight", (4, 4)),
        "v.blk.0.lora.weight: expected no such tensor in an enc",
    ),
    "limit": (
        "gemma4v",
        tensor("v.blk.0.attn_q.input_min", (2,)),
        "attn_q.input_min: expected one finite number of ty",
    ),
    "limits": ("gemma4v", tensor("v.blk.0.attn_q.output_min", (1,), value=9), "attn_q.input_min: expected a smallest"),
    "no-limits": (
        "gemma3",
        tensor("v.blk.0.attn_q.input_min", (1,)),
        "attn_q.input_min: expected no such tensor in an",
    ),
    "all-three": ("gemma4v", tensor("v.blk.0.attn_qkv.weight", (384, 128)), "attn_qkv.weight: expected no such tensor"),
    "axes": ("gemma4v", tensor("v.position_embd.weight", (3, 7, 128)), "expected two tables, found 21 rows"),
    "heads-of-keys": ("gemma3", key(f"{VISION}attention.head_count_kv", 1), "head_count_kv: expected 2 to 2, found 1"),
    "further": (
        "gemma3",
        tensor("v.blk.3.ln1.weight", (144,)),
        "v.blk.3.ln1.weight: expected no such tensor in an encod",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_named(tmp_path: Path, name: str) -> None:
    kind, change, problem = CASES[name]
    path = rewritten(tmp_path / "mmproj.gguf", kind, change)
    with pytest.raises(InputError) as caught:
        read_vision_model(path, SHAPES[kind].width)
    assert problem in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_an_encoder_for_another_text_model(tmp_path: Path) -> None:
    path = write_mmproj(tmp_path / "mmproj.gguf", "qwen3vl_merger")
    with pytest.raises(InputError, match="expected rows of 3840, as the text model has them, found 192"):
        read_vision_model(path, 1280)


def test_tensors_of_an_encoder_of_sound_are_left_alone(tmp_path: Path) -> None:
    path = rewritten(tmp_path / "mmproj.gguf", "gemma3", tensor("a.blk.0.ln1.weight", (4,)))
    assert "v.patch_embd.weight" in {one.name for one in read_vision_model(path, 64).tensors.values()}


def test_rows_of_a_small_gemma_4_do_not_see_one_another(tmp_path: Path) -> None:
    def change(_keys: dict[str, Any], tensors: dict[str, Any]) -> None:
        data = np.ones((1536, 128), np.float32)
        tensors["mm.input_projection.weight"] = (data, gguf.GGMLQuantizationType.F32)

    path = rewritten(tmp_path / "mmproj.gguf", "gemma4v", change)
    assert not read_vision_model(path, 1536).vision.both_ways


@pytest.mark.parametrize("kind", SHAPES)
def test_what_the_runtime_is_told(tmp_path: Path, kind: str) -> None:
    shape, row = SHAPES[kind], KINDS[kind]
    vision = read_vision_model(write_mmproj(tmp_path / "mmproj.gguf", kind), shape.width).vision
    assert (vision.kind, vision.patch_size, vision.merge, vision.width) == (kind, 14, shape.merge, shape.width)
    own = kind != "gemma4v"  # whose patches are twice their values less 1
    assert vision.mean == pytest.approx((0.48, 0.46, 0.41) if own else (0.5, 0.5, 0.5))
    assert vision.std == pytest.approx((0.27, 0.26, 0.28) if own else (0.5, 0.5, 0.5))
    assert vision.deepstack == (2 if kind == "qwen3vl_merger" else 0)
    assert vision.window == (8 if kind == "qwen2.5vl_merger" else 0)
    assert (vision.resize, vision.resample, vision.m_rope) == (row.resize, row.resample, kind.startswith("qwen"))
    assert vision.both_ways == (kind in ("gemma3", "gemma4v"))
    area = (14 * shape.merge) ** 2
    least, most = row.tokens
    assert vision.min_pixels == least * area
    assert vision.max_pixels == min(most * area, 8192 // shape.merge**2 * area)
    assert vision.max_patches * 14 * 14 == (vision.max_pixels or vision.image_size**2)
