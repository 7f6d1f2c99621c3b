"""Random models of published shapes: their size is that of the published files, and they compile and run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.gguf_reader import read_gguf
from rocmforge.compiler.model_tensors import unused_tensors
from rocmforge.compiler.read_config import read_config
from rocmforge.tests.kernels.kernel_harness import WEIGHT_TYPES
from rocmforge.tests.oracles.dequantize import dequantize
from rocmforge.tests.support.emulated_programs import compiled
from rocmforge.tools.generate import shapes
from rocmforge.tools.generate.fixtures import write_model
from rocmforge.tools.generate.shapes import SHAPES, Shape, Tensor, write_shape


def n_bytes(shape: Shape) -> int:
    total = 0
    for tensor in shape.tensors():
        block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[tensor.kind]]
        total += int(np.prod(tensor.shape)) // block * size
    return total


@pytest.mark.parametrize(
    ("name", "tensors", "gigabytes"),
    [
        ("gpt-oss-20b", 459, 12.1),
        ("qwen3-30b-a3b", 579, 18.5),
        ("llama-8b", 291, 4.9),
        ("llama-1.1b", 201, 0.67),
        ("lfm2-1.2b", 148, 0.731),
    ],
)
def test_sizes_of_published_files(name: str, tensors: int, gigabytes: float) -> None:
    """Those of gpt-oss are its owner's, the others of Q4_K_M files; rope tables of llama 3.1 are left out."""
    shape = SHAPES[name]
    assert len(list(shape.tensors())) == tensors
    assert n_bytes(shape) == pytest.approx(gigabytes * 1e9, rel=0.02)


@pytest.mark.parametrize(("name", "billions"), [("lfm2-1.2b", 1.17), ("qwen3.5-0.8b", 0.752), ("qwen3.5-4b", 4.206)])
def test_hybrids(name: str, billions: float, tmp_path: Path) -> None:
    """Their parameters are as many as those of the published ones, and a file of four layers is read."""
    shape = SHAPES[name]
    assert sum(int(np.prod(one.shape)) for one in shape.tensors()) == pytest.approx(billions * 1e9, rel=0.001)
    small = replace(shape, layers=4, vocab=600, feed_forward=256)
    path = tmp_path / "model.gguf"
    write_shape(gguf.GGUFReader(write_model(tmp_path / "tokenizer.gguf")), small, path)
    source = read_gguf(path)
    config = read_config(source)
    assert [config.layer(layer).recurrent for layer in range(4)] == [layer not in shape.attending for layer in range(4)]
    assert unused_tensors(source, config) == ()


@pytest.mark.parametrize("kind", WEIGHT_TYPES[1:])  # without F32, that of vectors
def test_products_are_as_large_as_what_is_multiplied(kind: str) -> None:
    for columns in (512, 2048, 8192):
        raw = shapes._data(np.random.default_rng(2), Tensor("a.weight", (64, columns), kind))
        product = dequantize(raw, kind) @ np.random.default_rng(3).normal(0, 1, (columns, 16))
        assert 0.5 < product.std() < 2, columns


@pytest.mark.parametrize("name", ["gpt-oss-20b", "qwen3-30b-a3b"])
def test_a_small_one(name: str, tmp_path: Path, build_cache: BuildCache) -> None:
    """The golden record of the one that is compiled is replayed: no number is infinite."""
    small = replace(
        SHAPES[name],
        layers=1,
        hidden=256,
        heads=4,
        kv_heads=2,
        head_dim=64,
        feed_forward=256,
        vocab=600,
        experts=4,
        used=2,
    )
    path = tmp_path / "model.gguf"
    write_shape(gguf.GGUFReader(write_model(tmp_path / "tokenizer.gguf")), small, path)
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    assert set(found) == {tensor.name for tensor in small.tensors()}
    assert found["blk.0.ffn_gate_exps.weight"].shape.tolist() == [256, 256, 4]
    assert found["token_embd.weight"].shape.tolist() == [256, 600]
    if name != "gpt-oss-20b":  # one is enough: the other's operations have tests of their own
        return
    with compiled(path, build_cache, tmp_path / "model.rfb", archs=("host",)) as bundle:
        assert bundle.layout_of(bundle.manifest.targets[0]).vocab_size == 600
