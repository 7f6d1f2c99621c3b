"""weights.bin: the table of rotary positions to the last place, and every tensor where its entry says."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from rocmforge.artifacts.layout import TENSOR_ALIGNMENT
from rocmforge.compiler import weights as weights_module
from rocmforge.compiler.gguf_file import GgufFile
from rocmforge.compiler.gguf_reader import read_gguf
from rocmforge.compiler.model_config import ModelConfig
from rocmforge.compiler.model_tensors import WeightTensor
from rocmforge.compiler.packing import pack_rows
from rocmforge.compiler.plan import PackedTensor
from rocmforge.compiler.position_tables import RopeScaling
from rocmforge.compiler.read_config import read_config
from rocmforge.compiler.weights import FileSink, read_floats, rope_table, write_weights
from rocmforge.tests.oracles.graph_interpreter import BASE
from rocmforge.tools.generate.fixtures import write_model
from rocmforge.tools.generate.gguf_writing import finish

# 2 pi to 45 digits: reduced by it, an angle of 2^24 radians still has 35 right digits.
TWO_PI = Fraction("6.283185307179586476925286766559005768394338798")


def exact_table(frequencies: npt.NDArray[np.float32], positions: list[int]) -> npt.NDArray[np.float64]:
    """Cosines, then sines: angles are reduced exactly, in rational numbers, before libm sees them.

    Returns:
        float64[len(positions), 2 * len(frequencies)].
    """
    rows = []
    for position in positions:
        angles = [float(Fraction(float(f)) * position % TWO_PI) for f in frequencies]
        rows.append([math.cos(angle) for angle in angles] + [math.sin(angle) for angle in angles])
    return np.array(rows)


def assert_within_one_ulp(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float64]) -> None:
    """Of float32, at the value itself; where an angle is close to a multiple of pi / 2, of a float64 near 1.

    There the reduced angle, a float64 of a turn, is off by up to 2^-53 turns for each of the position's
    `turns`, times 2 pi: for less than 2^15 turns 2^-53 * 2^15 * 2 pi < 2^-35.
    """
    error = np.abs(found.astype(np.float64) - expected)
    assert (error <= np.spacing(np.abs(expected).astype(np.float32)).astype(np.float64) + 2.0**-35).all(), error.max()


CONFIGS = {
    "theta-10000": BASE,
    "theta-500000-head-128": replace(BASE, rope_theta=500000.0, rope_dim=128, head_dim=128),
    "linear": replace(BASE, rope_scaling=RopeScaling("linear", 4.0)),
    "factors": replace(BASE, rope_theta=500000.0, rope_scaling=RopeScaling("factors", 1.0)),
    "one-pair": replace(BASE, rope_dim=2),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_rope_table_against_exactly_reduced_angles(config: ModelConfig) -> None:
    factors = None
    expected_factor = np.ones(config.rope_dim // 2)
    if (
        config.rope_scaling.kind == "factors"
    ):  # as Llama 3.1 has it: high frequencies as they are, low ones divided by 8
        factors = np.geomspace(1, 8, config.rope_dim // 2).astype(np.float32)
        expected_factor = factors.astype(np.float64)
    length = 32768
    table = rope_table(config, factors, length)
    assert table.shape == (length, config.rope_dim)
    assert table.dtype == np.float32
    positions = [0, 1, 2, 3, 7, 100, 255, 256, 4095, 10007, 20011, 32767]
    pairs = np.arange(config.rope_dim // 2)
    frequencies = config.rope_theta ** (-2 * pairs / config.rope_dim) / config.rope_scaling.factor / expected_factor
    # The frequencies are float32, as in llama.cpp and in the reference: the angle is theirs, exactly.
    assert_within_one_ulp(table[positions], exact_table(frequencies.astype(np.float32), positions))
    assert (np.abs(table[:, : len(pairs)].astype(np.float64) ** 2 + table[:, len(pairs) :].astype(np.float64) ** 2 - 1)
            < 2.0**-22).all()  # fmt: skip
    assert table[0].tolist() == [1.0] * len(pairs) + [0.0] * len(pairs)


def test_rope_table_is_made_of_exact_operations_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No sine of a library, whose last bits differ between machines; and rows do not depend on the length."""
    expected = rope_table(BASE, None, 64)
    for name in ("sin", "cos", "tan", "exp"):
        monkeypatch.setattr(np, name, None)
    assert np.array_equal(rope_table(BASE, None, 64), expected)
    assert np.array_equal(rope_table(BASE, None, 17), expected[:17])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[GgufFile, ModelConfig]:
    path = write_model(tmp_path_factory.mktemp("weights") / "m.gguf", "qwen2", "Q4_0", rope_factors=False)
    gguf_file = read_gguf(path)
    return gguf_file, read_config(gguf_file)


TENSORS = (
    PackedTensor("a", "f32", ("layers.0.attention_q_bias", "layers.0.attention_k_bias"), (96,)),
    PackedTensor("b", "rows16_q4_0", ("layers.0.attention_q", "layers.0.attention_k"), (96, 64)),
    PackedTensor("c", "rope_table", ("rope_table",), (256, 16)),
    PackedTensor("d", "rows16_pairs_q4_0", ("layers.1.ffn_gate", "layers.1.ffn_up"), (256, 64)),
    PackedTensor("e", "rows16_q4_0", ("token_embedding",), (320, 64)),
)


def test_weights_lie_where_their_entries_say(
    model: tuple[GgufFile, ModelConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gguf_file, config = model
    contents = []
    for rows_at_once in (weights_module.ROWS_AT_ONCE, 64):  # in one piece, and in several
        monkeypatch.setattr(weights_module, "ROWS_AT_ONCE", rows_at_once)
        told: list[int] = []
        with FileSink(tmp_path / "weights.bin") as sink:
            entries = write_weights(TENSORS, gguf_file, config, 100, sink, told.append)
        data = (tmp_path / "weights.bin").read_bytes()
        assert sink.sha256 == hashlib.sha256(data).hexdigest()
        assert told == sorted(told)
        assert told[-1] == sink.position == len(data)
        contents.append(data)
    assert contents[0] == contents[1]
    by_name = {entry.name: entry for entry in entries}
    assert [entry.offset % TENSOR_ALIGNMENT for entry in entries] == [0] * 5
    # The rope table has as many rows as the context that was chosen.
    assert by_name["c"].shape == (100, 16)

    def stored(name: str) -> npt.NDArray[np.uint8]:
        entry = by_name[name]
        return np.frombuffer(data, np.uint8, entry.n_bytes, entry.offset)

    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(gguf_file.path).tensors}
    biases = np.concatenate([tensors["blk.0.attn_q.bias"], tensors["blk.0.attn_k.bias"]])
    assert np.array_equal(stored("a").view(np.float32), biases)
    stacked = np.concatenate([tensors["blk.0.attn_q.weight"], tensors["blk.0.attn_k.weight"]])
    assert np.array_equal(stored("b"), pack_rows(stacked, "Q4_0", 64).ravel())
    assert np.array_equal(stored("c").view(np.float32).reshape(100, 16), rope_table(config, None, 100))
    halves = stored("d").reshape(-1, 2, 2, pack_rows(stacked, "Q4_0", 64).shape[1])
    for index, name in enumerate(("blk.1.ffn_gate.weight", "blk.1.ffn_up.weight")):
        assert np.array_equal(halves[:, index].reshape(8, -1), pack_rows(tensors[name], "Q4_0", 64))
    assert np.array_equal(stored("e"), pack_rows(tensors["token_embd.weight"], "Q4_0", 64).ravel())


def test_llama_3_factors_reach_the_table(tmp_path: Path) -> None:
    gguf_file = read_gguf(write_model(tmp_path / "m.gguf", rope_factors=True))
    config = read_config(gguf_file)
    tensor = PackedTensor("rope", "rope_table", ("rope_table",), (256, 16))
    with FileSink(tmp_path / "weights.bin") as sink:
        write_weights((tensor,), gguf_file, config, 50, sink, lambda _done: None)
    table = np.fromfile(tmp_path / "weights.bin", np.float32).reshape(50, 16)
    (factors,) = (t.data for t in gguf.GGUFReader(gguf_file.path).tensors if t.name == "rope_freqs.weight")
    frequencies = 10000.0 ** (-2 * np.arange(8) / 16) / factors.astype(np.float64)
    assert_within_one_ulp(table, exact_table(frequencies.astype(np.float32), list(range(50))))


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_vectors_of_any_float_type_become_float32_exactly(kind: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 1 << 16, 64).astype(np.uint16)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    if kind == "F32":
        expected = (values.astype(np.float32) - 7) / 3
        writer.add_tensor("x", expected)
    elif kind == "F16":
        expected = values.view(np.float16).astype(np.float32)
        writer.add_tensor("x", values.view(np.float16))
    else:
        expected = np.array([gguf.quants.dequantize(values.view(np.uint8), gguf.GGMLQuantizationType.BF16)])[0]
        writer.add_tensor("x", values.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
    finish(writer)
    gguf_file = read_gguf(tmp_path / "m.gguf")
    found = read_floats(gguf_file, WeightTensor(gguf_file.tensors["x"], gguf_file.tensors["x"].shape))
    assert found.dtype == np.float32
    assert np.array_equal(found, expected, equal_nan=True)


@pytest.mark.parametrize("first,count", [(0, 12), (0, 1), (4, 5), (5, 1), (11, 1)])
def test_rows_that_stand_several_times(model: tuple[GgufFile, ModelConfig], first: int, count: int) -> None:
    """A gate of four values, each of three heads: rows 2 to 5 of a tensor, three times."""
    gguf_file, _ = model
    tensor = gguf_file.tensors["blk.0.attn_k.weight"]
    weight = WeightTensor(tensor, (12, 64), 2, repeat=3)
    stored = gguf_file.read_rows(tensor.name, 2, 4)
    expected = np.stack([stored[row // 3] for row in range(12)])
    assert np.array_equal(weight.read_rows(gguf_file, first, count), expected[first : first + count])
    assert np.array_equal(weight.read(gguf_file), expected)
