"""`--quantize`: which tensors get which type, and that each row is the one that its floats round to."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from rocmforge.artifacts.errors import InputError, UsageError
from rocmforge.compiler.changes import Changes, changed_source
from rocmforge.compiler.ggml_types import GgmlType as Quant
from rocmforge.compiler.gguf_reader import read_gguf
from rocmforge.compiler.quantizers import quantized_source
from rocmforge.compiler.quantizers.imatrix import Importance, read_importance
from rocmforge.compiler.quantizers.quantize import quantize_rows
from rocmforge.compiler.quantizers.quantized_source import TYPES, QuantizedSource
from rocmforge.compiler.read_config import read_config
from rocmforge.tools.generate.architecture_models import write_architecture
from rocmforge.tools.generate.fixtures import write_model
from rocmforge.tools.generate.gguf_writing import finish

EXPERTS = "blk.0.ffn_up_exps.weight"


def write_experts(path: Path) -> Path:
    """Write a model with a stack of 4 matrices of 24 rows beside its own tensors."""
    return write_model(path, quantization="F32", hidden_size=256, further={EXPERTS: (4, 24, 256)})


def old_importance(sums: np.ndarray) -> bytes:
    """Return the importance of the experts as llama.cpp wrote it before it had GGUF files of that."""
    entry = struct.pack("<i", len(EXPERTS)) + EXPERTS.encode() + struct.pack("<ii", 7, sums.size)
    return struct.pack("<i", 1) + entry + sums.astype("<f4").tobytes()


def types_of(path: Path, kind: str) -> dict[str, str]:
    source = QuantizedSource(read_gguf(path), kind)
    read_config(source)  # types that can be compiled
    return {name: info.ggml_type.name for name, info in source.tensors.items()}


def test_which_type_each_tensor_gets(tmp_path: Path) -> None:
    tied = write_model(tmp_path / "tied.gguf", quantization="F32", hidden_size=256, intermediate_size=512)
    found = types_of(tied, "Q4_K")
    assert found["token_embd.weight"] == "Q6_K"  # gives the logits too
    assert found["blk.0.attn_q.weight"] == found["blk.1.ffn_down.weight"] == "Q4_K"
    assert found["blk.0.attn_norm.weight"] == found["output_norm.weight"] == "F32"
    own = write_model(tmp_path / "own.gguf", quantization="F32", hidden_size=256, intermediate_size=512, tie=False)
    found = types_of(own, "Q4_K")
    assert (found["token_embd.weight"], found["output.weight"]) == ("Q4_K", "Q6_K")
    assert types_of(own, "Q8_0")["output.weight"] == "Q8_0"  # finer than Q6_K
    assert types_of(own, "BF16")["output.weight"] == "BF16"


@pytest.mark.parametrize(
    "kind,expected",
    [
        ("Q2_K", "IQ4_NL"),
        ("Q3_K", "IQ4_NL"),
        ("IQ4_XS", "IQ4_NL"),
        ("Q4_K", "Q5_0"),
        ("Q5_K", "Q5_1"),
        ("Q6_K", "Q8_0"),
        ("Q4_0", "Q4_0"),
    ],
)
def test_rows_that_are_no_superblocks_get_the_next_type(tmp_path: Path, kind: str, expected: str) -> None:
    found = types_of(write_model(tmp_path / "m.gguf", quantization="F32"), kind)
    assert found["blk.0.ffn_up.weight"] == expected
    assert found["token_embd.weight"] == "Q8_0"


def test_rows_that_are_no_blocks_become_f16(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", quantization="F32", intermediate_size=120)
    found = types_of(path, "Q4_0")
    assert (found["blk.0.ffn_down.weight"], found["blk.0.ffn_up.weight"]) == ("F16", "Q4_0")


@pytest.mark.parametrize(
    "name, kept",
    [("lfm2", "shortconv.conv"), ("mamba2", "ssm_norm"), ("mamba2", "ssm_conv1d"), ("stablelm", "attn_q_norm")],
)
def test_convolutions_and_norms_of_heads_are_kept(name: str, kept: str, tmp_path: Path) -> None:
    found = types_of(write_architecture(tmp_path / "model.gguf", name), "Q8_0")
    assert found[f"blk.0.{kept}.weight"] == "F32"
    assert "Q8_0" in found.values()


def test_biases_are_kept(tmp_path: Path) -> None:
    found = types_of(write_model(tmp_path / "m.gguf", "qwen2", "F16"), "Q8_0")
    assert found["blk.0.attn_q.bias"] == "F32"


@pytest.mark.parametrize("name", ["weight", ".weight", "blk.0.weights", "ffn_up"])
def test_a_matrix_that_is_of_no_module_is_kept(tmp_path: Path, name: str) -> None:
    path = write_model(tmp_path / "m.gguf", quantization="F32", further={name: (4, 64)})
    found = types_of(path, "Q8_0")
    assert (found[name], found["blk.0.ffn_up.weight"]) == ("F32", "Q8_0")
    base = read_gguf(path)
    assert np.array_equal(QuantizedSource(base, "Q8_0").read_tensor(name), base.read_tensor(name))


@pytest.mark.slow
@pytest.mark.parametrize("stored", ["F32", "F16", "BF16", "Q8_0"])
def test_each_row_is_its_floats_rounded(tmp_path: Path, stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized_source, "ELEMENTS_AT_ONCE", 1000)
    path = write_model(tmp_path / "m.gguf", quantization=stored, hidden_size=256, intermediate_size=512)
    source = QuantizedSource(read_gguf(path), "Q4_K")
    for tensor in gguf.GGUFReader(path).tensors:
        if tensor.name == "blk.1.ffn_gate.weight":
            floats = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
    expected = quantize_rows(floats, Quant.Q4_K)
    assert np.array_equal(source.read_tensor("blk.1.ffn_gate.weight"), expected.reshape(-1))
    assert np.array_equal(source.read_rows("blk.1.ffn_gate.weight", 7, 30), expected[7:37])


def test_what_has_the_type_already_is_not_touched(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", quantization="Q4_K", types={"attn_v": "Q6_K"})
    base, source = read_gguf(path), QuantizedSource(read_gguf(path), "Q4_K")
    name = "blk.0.attn_q.weight"
    assert np.array_equal(source.read_tensor(name), base.read_tensor(name))
    assert source.tensors["blk.0.attn_v.weight"].ggml_type is Quant.Q4_K


def test_the_importance_of_columns(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", quantization="F32", hidden_size=256, intermediate_size=512)
    columns = np.linspace(0.1, 10, 256, dtype=np.float32).reshape(1, -1)
    name = "blk.0.attn_q.weight"
    source = QuantizedSource(read_gguf(path), "Q4_K", Importance({name: columns}, ""))
    values = read_gguf(path).read_tensor(name).view(np.float32).reshape(-1, 256)
    assert np.array_equal(source.read_tensor(name), quantize_rows(values, Quant.Q4_K, columns[0]).reshape(-1))
    assert not np.array_equal(source.read_tensor(name), quantize_rows(values, Quant.Q4_K).reshape(-1))


@pytest.mark.parametrize("kind", ["Q4_K", "Q4_0", "Q8_0"])
@pytest.mark.parametrize("at_once", [1 << 23, 24 * 256, 2560, 1])
def test_each_expert_is_quantized_with_its_own_importance(
    tmp_path: Path, kind: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantized_source, "ELEMENTS_AT_ONCE", at_once)
    base = read_gguf(write_experts(tmp_path / "m.gguf"))
    columns = np.random.default_rng(1).uniform(0.01, 10, (4, 256)).astype(np.float32)
    source = QuantizedSource(base, kind, Importance({EXPERTS: columns}, ""))
    values = base.read_tensor(EXPERTS).view(np.float32).reshape(4, 24, 256)
    alone = [quantize_rows(one, Quant[kind], weights) for one, weights in zip(values, columns, strict=True)]
    expected = np.concatenate(alone)
    assert np.array_equal(source.read_tensor(EXPERTS), expected.reshape(-1))
    for first, count in ((0, 24), (7, 5), (7, 50), (24, 24), (47, 2), (71, 25), (95, 1)):
        assert np.array_equal(source.read_rows(EXPERTS, first, count), expected[first : first + count])
    if kind != "Q8_0":  # which passes importance over
        for one, quantized in zip(values, alone, strict=True):
            assert not np.array_equal(quantized, quantize_rows(one, Quant[kind]))


def test_one_importance_may_be_of_all_experts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized_source, "ELEMENTS_AT_ONCE", 2560)
    base = read_gguf(write_experts(tmp_path / "m.gguf"))
    columns = np.linspace(0.1, 10, 256, dtype=np.float32).reshape(1, -1)
    source = QuantizedSource(base, "Q4_0", Importance({EXPERTS: columns}, ""))
    values = base.read_tensor(EXPERTS).view(np.float32).reshape(-1, 256)
    assert np.array_equal(source.read_tensor(EXPERTS), quantize_rows(values, Quant.Q4_0, columns[0]).reshape(-1))


def test_an_old_file_of_experts(tmp_path: Path) -> None:
    base = read_gguf(write_experts(tmp_path / "m.gguf"))
    sums = np.random.default_rng(2).uniform(0, 10, (4, 256)).astype(np.float32) * [[1], [1000], [0.001], [0]]
    old, new = tmp_path / "imatrix.dat", tmp_path / "imatrix.gguf"
    old.write_bytes(old_importance(sums))
    writer = gguf.GGUFWriter(new, "")
    writer.add_type("imatrix")
    writer.add_tensor(f"{EXPERTS}.in_sum2", sums.astype(np.float32))
    finish(writer)
    of_old, of_new = (changed_source(base, Changes(quantize="Q4_0", imatrix=path))[0] for path in (old, new))
    importance = read_importance(new, base.tensors).columns[EXPERTS]
    values = base.read_tensor(EXPERTS).view(np.float32).reshape(4, 24, 256)
    alone = [quantize_rows(one, Quant.Q4_0, weights) for one, weights in zip(values, importance, strict=True)]
    assert np.array_equal(of_old.read_tensor(EXPERTS), np.concatenate(alone).reshape(-1))
    assert np.array_equal(of_old.read_tensor(EXPERTS), of_new.read_tensor(EXPERTS))
    assert np.array_equal(alone[3], quantize_rows(values[3], Quant.Q4_0))  # was never chosen: all columns alike


def test_an_old_file_of_another_number_of_experts(tmp_path: Path) -> None:
    base = read_gguf(write_experts(tmp_path / "m.gguf"))
    path = tmp_path / "imatrix.dat"
    path.write_bytes(old_importance(np.ones((3, 256))))
    with pytest.raises(UsageError, match=r"^--imatrix: blk\.0\.ffn_up_exps\.weight: expected 256 columns, found 768"):
        changed_source(base, Changes(quantize="Q4_0", imatrix=path))


@pytest.mark.parametrize(
    "name, matrices, problem",
    [
        (EXPERTS, 3, "expected 1 or 4 matrices, found 3"),
        (EXPERTS, 96, "expected 1 or 4 matrices, found 96"),
        ("blk.0.ffn_up.weight", 4, "expected 1 matrix, found 4"),
        ("output_norm.weight", 2, "expected 1 matrix, found 2"),
    ],
)
def test_importance_of_another_number_of_experts(tmp_path: Path, name: str, matrices: int, problem: str) -> None:
    base = read_gguf(write_experts(tmp_path / "m.gguf"))
    with pytest.raises(UsageError) as caught:
        QuantizedSource(base, "Q4_0", Importance({name: np.ones((matrices, 256), np.float32)}, ""))
    assert str(caught.value) == f"--imatrix: {name}: {problem}: of another model?"


def test_capitals_do_not_matter(tmp_path: Path) -> None:
    base = read_gguf(write_model(tmp_path / "m.gguf", quantization="F32"))
    source, record = changed_source(base, Changes(quantize="q4_0"))
    assert source.tensors["blk.0.ffn_up.weight"].ggml_type is Quant.Q4_0
    assert record == {"quantize": "Q4_0"}


def test_what_cannot_be_is_refused_in_a_line(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", quantization="F32")
    base = read_gguf(path)
    with pytest.raises(UsageError, match=f"--quantize: expected one of {', '.join(TYPES)}, found q4_k_m"):
        QuantizedSource(base, "q4_k_m")
    with pytest.raises(UsageError, match=r"--imatrix: expected tensors of the model, found none: of another model\?"):
        QuantizedSource(base, "Q4_0", Importance({"x": np.ones((1, 64), np.float32)}, ""))
    with pytest.raises(UsageError, match=r"--imatrix: blk\.0\.ffn_up\.weight: expected 64 columns, found 32"):
        QuantizedSource(base, "Q4_0", Importance({"blk.0.ffn_up.weight": np.ones((1, 32), np.float32)}, ""))
    with pytest.raises(UsageError, match="--imatrix: expected --quantize beside it, found none"):
        changed_source(base, Changes(imatrix=path))
    data = bytearray(path.read_bytes())
    offset = base.tensors["blk.0.ffn_up.weight"].offset
    data[offset : offset + 4] = np.float32("inf").tobytes()
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"blk\.0\.ffn_up\.weight: expected finite weights to quantize, found others"):
        QuantizedSource(read_gguf(path), "Q4_0").read_tensor("blk.0.ffn_up.weight")
