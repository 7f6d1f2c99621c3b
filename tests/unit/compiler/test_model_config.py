"""Metadata and tensors to hyperparameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from rocmforge.artifacts.errors import GgufError
from rocmforge.compiler import read_config as read_config_module
from rocmforge.compiler.architectures import ARCHITECTURES
from rocmforge.compiler.ggml_types import GgmlType as Quant
from rocmforge.compiler.gguf_file import GgufFile, PlacedTensor
from rocmforge.compiler.gguf_reader import read_gguf
from rocmforge.compiler.model_config import ModelConfig
from rocmforge.compiler.model_tensors import MATRIX_TYPES, unused_tensors, weight_tensors
from rocmforge.compiler.position_tables import RopeScaling
from rocmforge.compiler.read_config import read_config
from rocmforge.tests.oracles.reference import ReferenceModel
from rocmforge.tools.generate.fixtures import QUANTIZATIONS, write_model


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> GgufFile:
    return read_gguf(write_model(tmp_path_factory.mktemp("llama") / "model.gguf", rope_factors=True))


def with_metadata(gguf_file: GgufFile, values: Mapping[str, object]) -> GgufFile:
    """Return the file with other metadata; None removes a key."""
    merged = {k: v for k, v in ({**gguf_file.metadata, **values}).items() if v is not None}
    return replace(gguf_file, metadata=MappingProxyType(merged))


def with_tensors(gguf_file: GgufFile, change: Callable[[dict[str, PlacedTensor]], object]) -> GgufFile:
    tensors = dict(gguf_file.tensors)
    change(tensors)
    return replace(gguf_file, tensors=MappingProxyType(tensors))


def refusal(gguf_file: GgufFile) -> str:
    with pytest.raises(GgufError) as caught:
        read_config(gguf_file)
    return str(caught.value).removeprefix(f"{gguf_file.path}: ")


def test_smollm2(smollm2_gguf: Path) -> None:
    gguf_file = read_gguf(smollm2_gguf)
    config = read_config(gguf_file)
    assert config == ModelConfig(
        architecture="llama",
        name="Smollm2 135M 8k Lc100K Mix1 Ep2",
        hidden_size=576,
        intermediate_size=1536,
        num_layers=30,
        num_heads=9,
        num_kv_heads=3,
        head_dim=64,
        vocab_size=49152,
        max_seq_len=8192,
        rope_theta=100000.0,
        norm_epsilon=float(np.float32(1e-5)),
        rope_style="interleaved",
        rope_dim=64,
        rope_scaling=RopeScaling(),
        tie_word_embeddings=True,
    )
    assert unused_tensors(gguf_file, config) == ()
    assert len(weight_tensors(gguf_file, config)) == len(gguf_file.tensors) == 272


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_every_architecture_and_quantization(tmp_path: Path, architecture: str, quantization: str) -> None:
    path = write_model(tmp_path / "model.gguf", architecture, quantization, tie=False)
    gguf_file = read_gguf(path)
    config = read_config(gguf_file)
    weights = weight_tensors(gguf_file, config)
    assert ("layers.0.attention_q_bias" in weights) == (architecture == "qwen2")
    assert ("layers.0.attention_q_norm" in weights) == (architecture == "qwen3")
    assert config.rope_style == ("interleaved" if architecture == "llama" else "half")
    assert not config.tie_word_embeddings
    assert weights["layers.1.attention_q"].ggml_type.name == quantization
    assert weights["output"].shape == (config.vocab_size, config.hidden_size)
    assert unused_tensors(gguf_file, config) == ()
    assert np.isfinite(ReferenceModel(path).forward([1, 40, 300])).all()


def test_fixtures_are_deterministic(tmp_path: Path) -> None:
    first = write_model(tmp_path / "a.gguf", "qwen3", "Q4_K", seed=3).read_bytes()
    assert write_model(tmp_path / "b.gguf", "qwen3", "Q4_K", seed=3).read_bytes() == first
    assert write_model(tmp_path / "c.gguf", "qwen3", "Q4_K", seed=4).read_bytes() != first


def test_head_dim_of_its_own(tmp_path: Path) -> None:
    gguf_file = read_gguf(write_model(tmp_path / "model.gguf", "qwen3", "F32", num_heads=3, head_dim=32))
    config = read_config(replace_kv_heads(gguf_file))
    assert (config.num_heads, config.head_dim, config.hidden_size) == (3, 32, 64)


def replace_kv_heads(gguf_file: GgufFile) -> GgufFile:
    """Let 3 heads share one key head: the fixture's tensors for 2 are cut in half."""
    halves = {
        name: replace(info, shape=(info.shape[0] // 2, *info.shape[1:]))
        for name, info in gguf_file.tensors.items()
        if ".attn_k.w" in name or ".attn_v.w" in name
    }
    return with_metadata(
        with_tensors(gguf_file, lambda tensors: tensors.update(halves)), {"qwen3.attention.head_count_kv": 1}
    )


def test_llama_biases_are_found_by_their_tensors(tmp_path: Path) -> None:
    gguf_file = read_gguf(write_model(tmp_path / "model.gguf", bias=True))
    assert "layers.0.attention_q_bias" in weight_tensors(gguf_file, read_config(gguf_file))
    partly = with_tensors(gguf_file, lambda tensors: tensors.pop("blk.0.attn_q.bias"))
    found = weight_tensors(partly, read_config(partly))
    assert ("layers.0.attention_q_bias" in found, "layers.0.attention_k_bias" in found) == (False, True)


@pytest.mark.parametrize(
    "values,expected",
    [
        ({}, RopeScaling()),
        ({"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4.0}, RopeScaling()),
        ({"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}, RopeScaling("linear", 4.0)),
        ({"llama.rope.scaling.factor": 4.0}, RopeScaling("linear", 4.0)),
        ({"llama.rope.scale_linear": 2.0}, RopeScaling("linear", 2.0)),
    ],
)
def test_rope_scaling(llama: GgufFile, values: dict[str, object], expected: RopeScaling) -> None:
    plain = with_tensors(llama, lambda tensors: tensors.pop("rope_freqs.weight"))
    assert read_config(with_metadata(plain, values)).rope_scaling == expected


@pytest.mark.parametrize(
    "values, expected",
    [
        ((3, 3, 2, 0), ""),
        ((8, 8, 0, 0), ""),
        ((3, 3, 2), "expected 4 numbers of pairs, 1 to 16 in all, found 3, 3, 2"),
        ((3, -3, 2, 0), "expected 4 numbers of pairs, 1 to 16 in all, found 3, -3, 2, 0"),
        ((0, 0, 0, 0), "expected 4 numbers of pairs, 1 to 16 in all, found 0, 0, 0, 0"),
        ((8, 8, 1, 0), "expected 4 numbers of pairs, 1 to 16 in all, found 8, 8, 1, 0"),
    ],
)
def test_sections(llama: GgufFile, monkeypatch: pytest.MonkeyPatch, values: tuple[int, ...], expected: str) -> None:
    """Of any architecture whose rotation has some; of others nobody reads the key."""
    given = with_metadata(llama, {"llama.rope.dimension_sections": np.array(values, np.int32)})
    assert read_config(given).rope_sections == (0, 0, 0, 0)
    row = ARCHITECTURES["llama"]
    keys = {**row.keys, "rope_sections": "rope.dimension_sections"}
    rows = {"llama": replace(row, keys=keys, sections="interleaved")}
    monkeypatch.setattr(read_config_module, "ARCHITECTURES", rows)
    if expected:
        assert refusal(given) == f"llama.rope.dimension_sections: {expected}"
    else:
        assert (read_config(given).rope_sections, read_config(given).sections_interleaved) == (values, True)
        assert read_config(llama).rope_sections == (0, 0, 0, 0)


def test_inverse_frequencies(llama: GgufFile) -> None:
    config = read_config(llama)
    assert config.rope_scaling == RopeScaling("factors", 1.0)
    factors = llama.read_tensor("rope_freqs.weight").view(np.float32)
    expected = 10000.0 ** (-2 * np.arange(8) / 16)
    assert config.inverse_frequencies(None).dtype == np.float32
    np.testing.assert_allclose(config.inverse_frequencies(None), expected, rtol=1e-6)
    np.testing.assert_allclose(config.inverse_frequencies(factors), expected / factors, rtol=1e-6)
    linear = replace(config, rope_scaling=RopeScaling("linear", 4.0))
    np.testing.assert_allclose(linear.inverse_frequencies(None), expected / 4, rtol=1e-6)
    partly = replace(config, rope_dim=8)  # half of each head
    np.testing.assert_allclose(partly.inverse_frequencies(None), 10000.0 ** (-2 * np.arange(4) / 8), rtol=1e-6)


@pytest.mark.parametrize(
    "key,value,problem",
    [
        ("general.architecture", "kimi-k3", "kimi-k3 has attention over the outputs of earlier layers, which is not"),
        ("general.architecture", "xlstm", f"expected one of the {len(ARCHITECTURES)} architectures of docs/archi"),
        ("general.architecture", None, "expected a string, found nothing"),
        ("llama.attention.causal", False, "expected causal attention"),
        ("llama.rope.scaling.type", "odd", "expected none, linear, yarn or longrope, found odd, which is not"),
        ("llama.attention.layer_norm_rms_epsilon", None, "expected a finite number, found nothing"),
        ("llama.attention.layer_norm_rms_epsilon", 0.0, "expected 1e-12 to 1, found 0.0"),
        ("llama.attention.value_length", 1, "expected 2 to 1024, found 1"),
        ("llama.attention.key_length", 1025, "expected 2 to 1024, found 1025"),
        ("llama.rope.dimension_count", 7, "expected an even number, found 7"),
        ("llama.rope.dimension_count", 18, "expected 2 to 16, found 18"),
        ("llama.rope.freq_base", 0.0, "expected 1 to"),
    ],
)  # fmt: skip
def test_unsupported_metadata(llama: GgufFile, key: str, value: object, problem: str) -> None:
    assert refusal(with_metadata(llama, {key: value})).startswith(f"{key}: {problem}")


@pytest.mark.parametrize(
    "key, value, problem",
    [
        ("attention.value_length", 32, "blk.0.attn_v.weight: expected shape [64, 64], found [32, 64]"),
        ("attention.value_length", 8, "blk.0.attn_v.weight: expected shape [16, 64], found [32, 64]"),
        ("attention.key_length", 18, "blk.0.attn_q.weight: expected shape [72, 64], found [64, 64]"),
        ("attention.key_length", 15, "llama.rope.dimension_count: expected 2 to 15, found 16"),
        ("attention.head_count", 8, "llama.rope.dimension_count: expected 2 to 8, found 16"),
    ],
)
def test_heads_of_any_size_that_tensors_have(llama: GgufFile, key: str, value: int, problem: str) -> None:
    assert refusal(with_metadata(llama, {f"llama.{key}": value})) == problem


@pytest.mark.parametrize(
    "key,value,problem",
    [
        ("llama.block_count", 10**9, "expected 1 to 1024, found 1000000000"),
        ("llama.block_count", 0, "expected 1 to 1024, found 0"),
        ("llama.embedding_length", 2**31, "expected 1 to 131072, found 2147483648"),
        ("llama.feed_forward_length", 0, "expected 1 to 1048576, found 0"),
        ("llama.context_length", 2**32, "expected 1 to 16777216, found 4294967296"),
        ("llama.attention.head_count", 0, "expected 1 to 1024, found 0"),
        ("llama.attention.head_count_kv", 3, "expected a divisor of the 4 heads, found 3"),
    ],
)
def test_out_of_bounds_F20(llama: GgufFile, key: str, value: int, problem: str) -> None:
    assert refusal(with_metadata(llama, {key: value})) == f"{key}: {problem}"


def test_more_layers_than_tensors_F20(llama: GgufFile) -> None:
    message = refusal(with_metadata(llama, {"llama.block_count": 3}))
    assert message == "blk.2.attn_norm.weight: expected this tensor, found none of that name"


def test_a_wrong_shape(llama: GgufFile) -> None:
    message = refusal(with_metadata(llama, {"llama.feed_forward_length": 256}))
    assert message == "blk.0.ffn_gate.weight: expected shape [256, 64], found [128, 64]"


def test_a_missing_embedding(llama: GgufFile) -> None:
    without = with_tensors(llama, lambda tensors: tensors.pop("token_embd.weight"))
    assert refusal(without).startswith("token_embd.weight: expected this tensor")


def test_what_a_file_may_leave_out(llama: GgufFile) -> None:
    """Rotary positions turn whole heads, by llama.cpp's base."""
    config = read_config(with_metadata(llama, {"llama.rope.freq_base": None, "llama.rope.dimension_count": None}))
    assert (config.rope_theta, config.rope_dim, config.head_dim) == (10000.0, 16, 16)


def test_the_largest_vocabulary(llama: GgufFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read_config_module, "MAX_VOCAB_SIZE", 320)
    assert read_config(llama).vocab_size == 320
    monkeypatch.setattr(read_config_module, "MAX_VOCAB_SIZE", 319)
    assert refusal(llama) == "token_embd.weight: expected at most 319 rows, found 320"


def test_what_is_no_mixture_and_no_shard(llama: GgufFile) -> None:
    read_config(with_metadata(llama, {"llama.expert_count": 0, "split.count": 1, "llama.attention.causal": True}))


@pytest.mark.parametrize(
    "name,quant,known",
    [
        ("blk.1.ffn_up.weight", Quant.Q8_K, ", ".join(kind.name for kind in MATRIX_TYPES)),
        ("blk.1.ffn_norm.weight", Quant.Q8_0, "F32, F16, BF16"),
        ("rope_freqs.weight", Quant.F16, "F32"),
    ],
)
def test_an_unsupported_type(llama: GgufFile, name: str, quant: Quant, known: str) -> None:
    changed = replace(llama.tensors[name], ggml_type=quant)
    message = refusal(with_tensors(llama, lambda tensors: tensors.update({name: changed})))
    assert message == f"{name}: expected a type of {known}, found {quant.name}"


def test_unused_tensors_are_listed_and_meaningful_ones_refused(llama: GgufFile) -> None:
    extra = llama.tensors["output_norm.weight"]
    odd = with_tensors(llama, lambda tensors: tensors.update({"odd.weight": replace(extra, name="odd.weight")}))
    assert unused_tensors(odd, read_config(odd)) == ("odd.weight",)
    bias = with_tensors(llama, lambda tensors: tensors.update({"blk.0.odd.bias": extra}))
    assert refusal(bias).startswith("blk.0.odd.bias: expected no such tensor in a llama model")


def test_rope_factors_are_positive(llama: GgufFile, tmp_path: Path) -> None:
    raw = bytearray(llama.path.read_bytes())
    offset = llama.tensors["rope_freqs.weight"].offset
    raw[offset : offset + 4] = bytes(4)
    path = tmp_path / "model.gguf"
    path.write_bytes(raw)
    assert refusal(read_gguf(path)) == "rope_freqs.weight: expected finite divisors other than 0, found others"
