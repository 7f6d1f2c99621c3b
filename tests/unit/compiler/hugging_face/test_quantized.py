"""Quantized folders: what the `gguf` package makes of our blocks is what the scheme's own formula says, to the bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from rocmforge.artifacts.errors import InputError
from rocmforge.compiler.architectures import build_graph
from rocmforge.compiler.hugging_face.folder import HuggingFaceFolder, open_folder
from rocmforge.compiler.model import CompileOptions, read_model
from rocmforge.compiler.model_tensors import unused_tensors, weights_by_role
from rocmforge.compiler.progress import Silent
from rocmforge.compiler.read_config import read_config
from rocmforge.tests.support.hugging_face import folder_config, stored_tensors, write_folder, write_weights
from rocmforge.tools.generate.fixtures import write_model

MATRIX = "model.layers.0.mlp.down_proj"  # [64, 128]
ROWS, COLUMNS = 64, 128
Parts = dict[str, tuple[str, tuple[int, ...], bytes]]


def opened(tmp_path: Path, settings: dict[str, Any], parts: Parts) -> HuggingFaceFolder:
    """A folder of which one matrix is quantized."""
    model = write_model(tmp_path / "m.gguf", quantization="F32")
    folder = write_folder(tmp_path / "m", model)
    tensors: Parts = stored_tensors(model)
    del tensors[f"{MATRIX}.weight"]
    write_weights(folder, tensors | parts)
    (folder / "config.json").write_text(json.dumps(folder_config(model) | {"quantization_config": settings}))
    read_model(CompileOptions(folder, folder), Silent())  # it can be compiled
    return open_folder(folder)


def values_of(folder: HuggingFaceFolder) -> np.ndarray:
    """The matrix as the gguf package reads our bytes, in pieces of rows that fit nothing."""
    name = "blk.0.ffn_down.weight"
    pieces = [folder.read_rows(name, first, min(19, ROWS - first)) for first in range(0, ROWS, 19)]
    return gguf.quants.dequantize(np.concatenate(pieces), gguf.GGMLQuantizationType(folder.tensors[name].ggml_type))


def bf16(values: np.ndarray) -> np.ndarray:
    """Cut float32 to values that BF16 holds."""
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)


def stored_bf16(values: np.ndarray) -> bytes:
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()


def e4m3(code: int) -> float:
    """What a byte of FP8 is, digit by digit."""
    sign, exponent, mantissa = code >> 7, code >> 3 & 15, code & 7
    magnitude = mantissa * 2.0**-9 if exponent == 0 else (8 + mantissa) * 2.0 ** (exponent - 10)
    return -magnitude if sign else magnitude


def fp8_codes(random: np.random.Generator) -> np.ndarray:
    codes = random.integers(0, 256, (ROWS, COLUMNS), dtype=np.uint8)
    return np.where(codes & 127 == 127, 0, codes).astype(np.uint8)  # no NaN


@pytest.mark.parametrize("block", [(16, 48), (128, 128)])
def test_fp8_with_block_scales(tmp_path: Path, block: tuple[int, int]) -> None:
    random = np.random.default_rng(1)
    codes = fp8_codes(random)
    grid = (-(-ROWS // block[0]), -(-COLUMNS // block[1]))
    scales = random.uniform(1e-4, 1e-2, grid).astype(np.float32)
    parts: Parts = {
        f"{MATRIX}.weight": ("F8_E4M3", codes.shape, codes.tobytes()),
        f"{MATRIX}.weight_scale_inv": ("F32", grid, scales.tobytes()),
    }
    folder = opened(tmp_path, {"quant_method": "fp8", "weight_block_size": list(block)}, parts)
    found = values_of(folder)
    for row, column in random.integers(0, (ROWS, COLUMNS), (500, 2)):
        exact = e4m3(int(codes[row, column])) * float(scales[row // block[0], column // block[1]])
        # Once to float32, once to BF16: no further than half a step of BF16 (2^-8), and what float32 adds (2^-24).
        assert abs(found[row, column] - exact) <= abs(exact) * (2.0**-8 + 2.0**-24)


def test_fp8_whose_scales_are_powers_of_two_is_exact(tmp_path: Path) -> None:
    codes = np.arange(256, dtype=np.uint8).repeat(32).reshape(ROWS, COLUMNS)
    codes[codes & 127 == 127] = 0
    parts: Parts = {
        f"{MATRIX}.weight": ("F8_E4M3", codes.shape, codes.tobytes()),
        f"{MATRIX}.weight_scale": ("BF16", (ROWS, 1), stored_bf16(2.0 ** -np.arange(ROWS))),
        f"{MATRIX}.input_scale": ("F32", (1,), bytes(4)),
    }
    found = values_of(opened(tmp_path, {"quant_method": "compressed-tensors"}, parts))
    expected = [[e4m3(int(code)) * 2.0**-row for code in codes[row]] for row in range(ROWS)]
    assert np.array_equal(found, np.array(expected, np.float32))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_fp8_with_one_scale(tmp_path: Path, shape: tuple[int, ...]) -> None:
    codes = fp8_codes(np.random.default_rng(2))
    parts: Parts = {
        f"{MATRIX}.weight": ("F8_E4M3", codes.shape, codes.tobytes()),
        f"{MATRIX}.weight_scale": ("F32", shape, np.float32(0.25).tobytes()),
    }
    found = values_of(opened(tmp_path, {"quant_method": "compressed-tensors"}, parts))
    assert found[3, 5] == e4m3(int(codes[3, 5])) / 4


def packed_words(values: np.ndarray, bits: int) -> np.ndarray:
    """uint[n, m] to words, the lowest bits first, value by value."""
    per_word = 32 // bits
    words = np.zeros((values.shape[0], -(-values.shape[1] // per_word)), np.uint32)
    for column in range(values.shape[1]):
        words[:, column // per_word] |= values[:, column].astype(np.uint32) << (column % per_word * bits)
    return words


def shape_part() -> Parts:
    return {f"{MATRIX}.weight_shape": ("I64", (2,), np.array([ROWS, COLUMNS], np.int64).tobytes())}


@pytest.mark.parametrize("group", [32, 128])
@pytest.mark.parametrize("bits,kind", [(4, "Q4_0"), (8, "Q8_0")])
def test_packed_integers(tmp_path: Path, bits: int, kind: str, group: int) -> None:
    random = np.random.default_rng(bits)
    half = 1 << (bits - 1)
    quants = random.integers(-half, half, (ROWS, COLUMNS))
    scales = bf16(random.uniform(1e-4, 1e-2, (ROWS, COLUMNS // group)))
    words = packed_words(quants + half, bits)
    parts: Parts = {
        f"{MATRIX}.weight_packed": ("I32", words.shape, words.tobytes()),
        f"{MATRIX}.weight_scale": ("BF16", scales.shape, stored_bf16(scales)),
        **shape_part(),
    }
    folder = opened(tmp_path, {"quant_method": "compressed-tensors", "format": "pack-quantized"}, parts)
    assert folder.tensors["blk.0.ffn_down.weight"].ggml_type.name == kind
    assert np.array_equal(values_of(folder), (quants * np.repeat(scales, group, axis=1)).astype(np.float32))


def test_packed_integers_with_zero_points(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    quants, zeros = random.integers(0, 16, (ROWS, COLUMNS)), random.integers(0, 16, (ROWS, 2))
    scales = random.uniform(1e-3, 1e-2, zeros.shape).astype(np.float16)
    words, zero_words = packed_words(quants, 4), packed_words(zeros.T, 4).T.copy()
    parts: Parts = {
        f"{MATRIX}.weight_packed": ("I32", words.shape, words.tobytes()),
        f"{MATRIX}.weight_scale": ("F16", scales.shape, scales.tobytes()),
        f"{MATRIX}.weight_zero_point": ("I32", zero_words.shape, zero_words.tobytes()),
        **shape_part(),
    }
    folder = opened(tmp_path, {"quant_method": "compressed-tensors"}, parts)
    assert folder.tensors["blk.0.ffn_down.weight"].ggml_type.name == "Q5_0"
    expected = (quants - np.repeat(zeros, 64, axis=1)) * np.repeat(scales.astype(np.float32), 64, axis=1)
    assert np.array_equal(values_of(folder), expected.astype(np.float32))


@pytest.mark.parametrize("shape", [(ROWS, 1), (ROWS,)])
def test_plain_integers(tmp_path: Path, shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(6)
    quants = random.integers(-128, 128, (ROWS, COLUMNS), dtype=np.int8)
    scales = bf16(random.uniform(1e-4, 1e-2, (ROWS, 1)))
    parts: Parts = {
        f"{MATRIX}.weight": ("I8", quants.shape, quants.tobytes()),
        f"{MATRIX}.weight_scale": ("BF16", shape, stored_bf16(scales)),
    }
    found = values_of(opened(tmp_path, {"quant_method": "compressed-tensors"}, parts))
    assert np.array_equal(found, quants * scales)


def awq_words(values: np.ndarray) -> np.ndarray:
    """Values of [n, outputs] in words as AutoAWQ packs them."""
    words = np.zeros((values.shape[0], values.shape[1] // 8), np.uint32)
    for column in range(words.shape[1]):
        for place, of in enumerate([0, 2, 4, 6, 1, 3, 5, 7]):
            words[:, column] |= values[:, 8 * column + of].astype(np.uint32) << (4 * place)
    return words


def awq_parts(random: np.random.Generator, group: int = 64) -> tuple[Parts, np.ndarray]:
    quants = random.integers(0, 16, (COLUMNS, ROWS))
    zeros = random.integers(0, 16, (COLUMNS // group, ROWS))
    scales = random.uniform(1e-3, 1e-2, zeros.shape).astype(np.float16)
    words, zero_words = awq_words(quants), awq_words(zeros)
    expected = (quants - zeros.repeat(group, axis=0)) * scales.astype(np.float32).repeat(group, axis=0)
    parts: Parts = {
        f"{MATRIX}.qweight": ("I32", words.shape, words.tobytes()),
        f"{MATRIX}.qzeros": ("I32", zero_words.shape, zero_words.tobytes()),
        f"{MATRIX}.scales": ("F16", scales.shape, scales.tobytes()),
    }
    return parts, expected.T.astype(np.float32)


AWQ = {"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm", "zero_point": True}


def test_awq(tmp_path: Path) -> None:
    parts, expected = awq_parts(np.random.default_rng(7))
    folder = opened(tmp_path, AWQ, parts)
    assert folder.tensors["blk.0.ffn_down.weight"].ggml_type.name == "Q5_0"
    assert np.array_equal(values_of(folder), expected)


EXPERTS, INNER, WIDTH = 3, 64, 96
GPT_OSS = {
    "model_type": "gpt_oss",
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": EXPERTS,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 256,
    "sliding_window": 16,
    "layer_types": ["sliding_attention"],
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
        "original_max_position_embeddings": 64,
    },
    "quantization_config": {"quant_method": "mxfp4"},
}
FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def expert_parts(random: np.random.Generator) -> Parts:
    """The experts of a layer of gpt-oss."""
    parts: Parts = {}
    for name, rows, columns in (("gate_up_proj", 2 * INNER, WIDTH), ("down_proj", WIDTH, INNER)):
        base = f"model.layers.0.mlp.experts.{name}"
        shape = (EXPERTS, rows, columns // 32, 16)
        scales = random.integers(118, 130, shape[:3], dtype=np.uint8)
        parts[f"{base}_blocks"] = ("U8", shape, random.integers(0, 256, shape, dtype=np.uint8).tobytes())
        parts[f"{base}_scales"] = ("U8", shape[:3], scales.tobytes())
        parts[f"{base}_bias"] = ("BF16", shape[:2], stored_bf16(random.normal(0, 1, shape[:2])))
    return parts


def gpt_oss(tmp_path: Path, parts: Parts) -> HuggingFaceFolder:
    (tmp_path / "config.json").write_text(json.dumps(GPT_OSS))
    write_weights(tmp_path, parts | {"lm_head.weight": ("BF16", (8, WIDTH), bytes(16 * WIDTH))})
    return open_folder(tmp_path)


def fp4_value(parts: Parts, base: str, expert: int, row: int, column: int) -> float:
    """What a weight is: its four bits, a sign before three, times a power of two that 32 of them share."""
    _, shape, blocks = parts[f"{base}_blocks"]
    block = (expert * shape[1] + row) * shape[2] + column // 32
    code = blocks[16 * block + column % 32 // 2] >> (4 * (column % 2)) & 15
    return (-1 if code & 8 else 1) * FP4[code & 7] * 2.0 ** (parts[f"{base}_scales"][2][block] - 127)


def test_experts_of_gpt_oss(tmp_path: Path) -> None:
    random = np.random.default_rng(9)
    parts = expert_parts(random)
    folder = gpt_oss(tmp_path, parts)
    for name, base, step, place in (
        ("gate", "gate_up_proj", 2, 0),
        ("up", "gate_up_proj", 2, 1),
        ("down", "down_proj", 1, 0),
    ):
        info = folder.tensors[f"blk.0.ffn_{name}_exps.weight"]
        assert info.shape == ((EXPERTS, WIDTH, INNER) if name == "down" else (EXPERTS, INNER, WIDTH))
        pieces = [folder.read_rows(info.name, first, min(50, info.rows - first)) for first in range(0, info.rows, 50)]
        values = gguf.quants.dequantize(np.concatenate(pieces), gguf.GGMLQuantizationType(info.ggml_type)).reshape(
            info.shape
        )
        of_all = f"model.layers.0.mlp.experts.{base}"
        for expert, row, column in random.integers(0, info.shape, (300, 3)):
            exact = fp4_value(parts, of_all, expert, int(row) * step + place, int(column))
            assert values[expert, row, column] == exact
        bias = folder.read_tensor(f"blk.0.ffn_{name}_exps.bias").view(np.uint16)
        whole = np.frombuffer(parts[f"{of_all}_bias"][2], np.uint16).reshape(EXPERTS, -1)
        assert np.array_equal(bias.reshape(EXPERTS, -1), whole[:, place::step])
    assert (
        folder.metadata["gpt-oss.expert_feed_forward_length"] == folder.metadata["gpt-oss.feed_forward_length"] == INNER
    )
    assert (folder.metadata["gpt-oss.expert_count"], folder.metadata["gpt-oss.expert_used_count"]) == (EXPERTS, 2)


def test_a_whole_folder_of_gpt_oss(tmp_path: Path) -> None:
    """All that its graph reads is there, and nothing else."""
    random = np.random.default_rng(11)
    layer = "model.layers.0."
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (8, WIDTH), "model.norm.weight": (WIDTH,)}
    shapes |= {f"{layer}{name}layernorm.weight": (WIDTH,) for name in ("input_", "post_attention_")}
    for name, rows in {"q": 256, "k": 128, "v": 128}.items():
        shapes |= {
            f"{layer}self_attn.{name}_proj.weight": (rows, WIDTH),
            f"{layer}self_attn.{name}_proj.bias": (rows,),
        }
    shapes |= {f"{layer}self_attn.o_proj.weight": (WIDTH, 256), f"{layer}self_attn.o_proj.bias": (WIDTH,)}
    shapes |= {f"{layer}self_attn.sinks": (4,)}
    shapes |= {f"{layer}mlp.router.weight": (EXPERTS, WIDTH), f"{layer}mlp.router.bias": (EXPERTS,)}
    further: Parts = {name: ("BF16", shape, stored_bf16(random.normal(0, 1, shape))) for name, shape in shapes.items()}
    folder = gpt_oss(tmp_path, expert_parts(random) | further)
    config = read_config(folder)
    build_graph(config, weights_by_role(folder, config))
    assert not unused_tensors(folder, config)
    assert config.experts is not None
    assert (config.num_experts, config.experts.used, config.experts.scoring) == (EXPERTS, 2, "chosen")


EXPERT_CASES: dict[str, tuple[str, tuple[str, tuple[int, ...], bytes] | None, str]] = {
    "no scales": ("down_proj_scales", None, "down_proj_blocks: expected down_proj_scales beside it"),
    "no blocks": ("down_proj_blocks", None, "down_proj_scales: expected a type of F32, F16, BF16, found U8"),
    "shape": (
        "down_proj_blocks",
        ("U8", (3, 96, 32), bytes(9216)),
        "expected experts, rows, blocks and 16 bytes, found",
    ),
    "bytes": (
        "down_proj_blocks",
        ("U8", (3, 96, 2, 8), bytes(4608)),
        "down_proj_blocks: expected shape [3, 96, 2, 16], found [3, 96, 2, 8]",
    ),
    "scales": ("down_proj_scales", ("U8", (3, 96, 1), bytes(288)), "expected shape [3, 96, 2], found [3, 96, 1]"),
    "bias": ("down_proj_bias", ("BF16", (3, 64), bytes(384)), "expected shape [3, 96], found [3, 64]"),
}


@pytest.mark.parametrize("case", EXPERT_CASES)
def test_experts_that_do_not_fit_are_refused_in_a_line(tmp_path: Path, case: str) -> None:
    name, value, problem = EXPERT_CASES[case]
    parts = expert_parts(np.random.default_rng(10))
    name = f"model.layers.0.mlp.experts.{name}"
    if value is None:
        del parts[name]
    else:
        parts[name] = value
    with pytest.raises(InputError) as caught:
        gpt_oss(tmp_path, parts)
    assert problem in str(caught.value)


def without(ending: str) -> Callable[[Parts], object]:
    return lambda parts: parts.pop(f"{MATRIX}.{ending}")


def other(ending: str, dtype: str, shape: tuple[int, ...], n_bytes: int) -> Callable[[Parts], object]:
    return lambda parts: parts.update({f"{MATRIX}.{ending}": (dtype, shape, bytes(n_bytes))})


CASES: dict[str, tuple[dict[str, Any], Callable[[Parts], object], str]] = {
    "method": ({"quant_method": "hqq"}, lambda _: None, "quant_method: expected one of fp8, compressed-tensors,"),
    "no method": ({}, lambda _: None, "quantization_config.quant_method: expected a string, found nothing"),
    "bits": (
        AWQ | {"bits": 3},
        lambda _: None,
        "version: expected gemm of 4 bits, found 3 bits, gemm",
    ),
    "version": (AWQ | {"version": "gemv"}, lambda _: None, "expected gemm of 4 bits, found 4 bits, gemv"),
    "no scales": (AWQ, without("scales"), "qweight: expected scales beside it, found no such tensor"),
    "no zeros": (AWQ, without("qzeros"), "qweight: expected qzeros beside it, found no such tensor"),
    "no weight": (AWQ, without("qweight"), "qzeros: expected a type of F32, F16, BF16, found I32"),
    "groups": (AWQ, other("scales", "F16", (3, 64), 384), "expected a divisor of the 128 inputs, found shape [3, 64]"),
    "zeros": (AWQ, other("qzeros", "I32", (1, 8), 32), "qzeros: expected shape [2, 8], found [1, 8]"),
    "scale type": (AWQ, other("scales", "I8", (2, 64), 128), "scales: expected a type of F32, F16, BF16, found I8"),
    "small groups": (AWQ, other("scales", "F16", (8, 64), 1024), "qzeros: expected shape [8, 8], found [2, 8]"),
}


@pytest.mark.parametrize("case", CASES)
def test_parts_that_do_not_fit_are_refused_in_a_line(tmp_path: Path, case: str) -> None:
    settings, change, problem = CASES[case]
    parts, _ = awq_parts(np.random.default_rng(8))
    change(parts)
    with pytest.raises(InputError) as caught:
        opened(tmp_path, settings, parts)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


PACKED_CASES: dict[str, tuple[Callable[[Parts], object], str]] = {
    "no shape": (without("weight_shape"), "weight_packed: expected weight_shape beside it"),
    "shape": (
        lambda parts: parts.update({f"{MATRIX}.weight_shape": ("I64", (2,), np.array([64, 96]).tobytes())}),
        "weight_packed: expected 96 columns of 4 or 8 bits, found [64, 16] words",
    ),
    "negative": (
        lambda parts: parts.update({f"{MATRIX}.weight_shape": ("I64", (2,), np.array([-64, -128]).tobytes())}),
        "weight_packed: expected -128 columns of 4 or 8 bits",
    ),
    "order": (other("weight_g_idx", "I32", (128,), 512), "expected columns in their order, found weight_g_idx"),
    "scales": (other("weight_scale", "F16", (64, 3), 384), "expected a divisor of the 128 columns, found 3 groups"),
    "few columns": (
        other("weight_scale", "F16", (64, 8), 1024),
        "multiple of 32, found 128 in groups of 16",
    ),
}


@pytest.mark.parametrize("case", PACKED_CASES)
def test_packed_parts_that_do_not_fit_are_refused_in_a_line(tmp_path: Path, case: str) -> None:
    change, problem = PACKED_CASES[case]
    parts: Parts = {
        f"{MATRIX}.weight_packed": ("I32", (64, 16), bytes(4096)),
        f"{MATRIX}.weight_scale": ("F16", (64, 1), bytes(128)),
        **shape_part(),
    }
    change(parts)
    with pytest.raises(InputError) as caught:
        opened(tmp_path, {"quant_method": "compressed-tensors"}, parts)
    assert problem in str(caught.value)


def test_scales_that_no_type_of_gguf_holds_are_refused_when_they_are_read(tmp_path: Path) -> None:
    parts: Parts = {
        f"{MATRIX}.weight": ("I8", (ROWS, COLUMNS), bytes(ROWS * COLUMNS)),
        f"{MATRIX}.weight_scale": ("F32", (ROWS, 1), np.full(ROWS, 0.1, np.float32).tobytes()),
    }
    folder = opened(tmp_path, {"quant_method": "compressed-tensors"}, parts)
    with pytest.raises(InputError, match=r"down_proj\.weight: expected scales that float16 holds exactly"):
        values_of(folder)
