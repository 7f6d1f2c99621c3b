"""What files say of layers with recurrent state, and what is refused of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rocmforge.artifacts.errors import InputError
from rocmforge.compiler.gguf_file import GgufFile
from rocmforge.compiler.gguf_reader import read_gguf
from rocmforge.compiler.model_config import ModelConfig, Recurrence
from rocmforge.compiler.model_tensors import check_tensors, weight_tensors
from rocmforge.compiler.models import hybrid_rows
from rocmforge.compiler.read_config import read_config
from rocmforge.compiler.weights import read_floats
from rocmforge.tools.generate.architecture_models import write_architecture
from rocmforge.tools.generate.architecture_oracle.meaning import Meaning

IDS = [3, 70, 11, 11, 42, 5]


def read(folder: Path, name: str, num_layers: int | None = None) -> GgufFile:
    return read_gguf(write_architecture(folder / "model.gguf", name, num_layers=num_layers))


def changed(source: GgufFile, values: Mapping[str, object]) -> GgufFile:
    metadata = {**source.metadata, **values}
    return replace(source, metadata={key: value for key, value in metadata.items() if value is not None})


def layers(config: ModelConfig) -> list[tuple[int, bool, int]]:
    """Return of each layer its heads, whether it has state, and the size of its feed-forward."""
    found = [config.layer(number) for number in range(config.num_layers)]
    return [(layer.num_kv_heads, layer.recurrent, layer.intermediate_size) for layer in found]


def test_state_of_heads_where_there_are_none(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"kimi-linear\.attention\.head_count: expected heads of layers with recurrent"
    ):
        read_config(changed(read(tmp_path, "kimi-linear"), {"kimi-linear.attention.head_count": 0}))


@pytest.mark.parametrize(
    "name, expected",
    [
        ("lfm2", [(0, True, 96), (2, False, 96)] * 2),
        ("qwen35", [(0, True, 96), (2, False, 96)] * 2),
        ("falcon-h1", [(2, True, 96)] * 4),
        ("mamba", [(0, True, 0)] * 4),
        ("nemotron_h", [(0, True, 0), (2, False, 0), (0, True, 0), (0, False, 96)]),
    ],
)
def test_which_layers_have_what(name: str, expected: list[tuple[int, bool, int]], tmp_path: Path) -> None:
    assert layers(read_config(read(tmp_path, name))) == expected


def test_a_list_of_layers_goes_before_an_interval(tmp_path: Path) -> None:
    source = read(tmp_path, "qwen35", num_layers=2)
    listed = changed(source, {"qwen35.attention.recurrent_layers": np.array([1, 0], np.uint32)})
    assert read_config(listed) == read_config(source)
    # Where the file says neither, all but each fourth.
    neither = changed(source, {"qwen35.full_attention_interval": None})
    with pytest.raises(InputError, match=r"blk\.1\.attn_gate\.weight: expected this tensor"):
        read_config(neither)


def test_lightning_attention(tmp_path: Path) -> None:
    """Every eighth layer attends where the file does not say which; heads keep what their slopes and the layer say."""
    source = read(tmp_path, "minimax-01")
    kept = [read_floats(source, weight_tensors(source, read_config(source))[f"layers.{n}.ssm_a"]) for n in (0, 2)]
    rates = np.array([1 / 4, 1 / 16, 1 / 64, 1 / 256])  # of four heads, of the first layer of four and of the third
    np.testing.assert_allclose(kept, [-rates * 1.00001, -rates * (1 / 3 + 1e-5)], rtol=1e-6)
    neither = changed(source, {"minimax-01.full_attention_interval": None, "minimax-01.residual_scale": 2.0})
    with pytest.raises(InputError, match=r"blk\.1\.attn_norm_2\.weight: expected this tensor"):
        check_tensors(neither, read_config(neither))
    for scale in (-1.0, 1e-4):
        with pytest.raises(InputError, match=r"minimax-01\.residual_scale: expected 0\.001 to 1000, found"):
            read_config(changed(source, {"minimax-01.residual_scale": scale}))


def test_sizes(tmp_path: Path) -> None:
    found = {row.name: read_config(read(tmp_path, row.name)).recurrence for row in hybrid_rows.ARCHITECTURES}
    assert found["lfm2"] == Recurrence("short_conv", 3, 64)
    assert found["mamba"] == Recurrence("mamba", 4, 128, 128, 16, rank=8)
    assert found["jamba"] == Recurrence("mamba", 4, 128, 128, 16, rank=8, normed=True)
    assert found["plamo2"] == Recurrence("plamo2", 4, 128, 4, 16, rank=64, normed=True)
    assert found["nemotron_h"] == Recurrence("mamba2", 4, 128, 4, 16, 2)
    assert found["qwen3next"] == Recurrence("delta", 4, 64, 4, 16, 2)
    assert found["qwen35moe"] == Recurrence("delta", 4, 64, 4, 16, 2, mapping="modulo")


@pytest.mark.parametrize(
    "name, key, value, problem",
    [
        ("lfm2", "shortconv.l_cache", 1, "expected 2 to 8, found 1"),
        ("lfm2", "attention.head_count_kv", np.array([2, 2, 2, 2], np.int32), "expected layers with recurrent state"),
        ("lfm2", "attention.head_count_kv", np.array([0, 3, 0, 2], np.int32), "expected a divisor of the 4 heads"),
        ("lfm2", "attention.head_count_kv", np.array([0, 2], np.int32), "expected a value for each of 4 layers"),
        ("qwen35", "full_attention_interval", 0, "expected 1 to 1024, found 0"),
        ("qwen35", "attention.recurrent_layers", np.array([1, 0], np.uint32), "expected for each of 4 layers 0 or 1"),
        ("qwen35", "ssm.group_count", 3, "expected a divisor of 4, found 3"),
        ("qwen35", "ssm.group_count", 5, "expected 1 to 4, found 5"),
        ("mamba2", "ssm.time_step_rank", 3, "expected a divisor of 128, found 3"),
        ("mamba2", "ssm.state_size", 512, "expected 1 to 256, found 512"),
        ("mamba2", "ssm.conv_kernel", 9, "expected 2 to 8, found 9"),
        ("nemotron_h", "attention.layer_norm_epsilon", None, None),
    ],
)
def test_what_cannot_be(name: str, key: str, value: object, problem: str | None, tmp_path: Path) -> None:
    source = changed(read(tmp_path, name), {f"{name}.{key}": value})
    if problem is None:  # it has another epsilon
        assert read_config(source).norm_epsilon == np.float32(1e-5)
        return
    with pytest.raises(InputError) as raised:
        read_config(source)
    assert f"{name}.{key}: {problem}" in str(raised.value)


def test_an_epsilon_of_another_name(tmp_path: Path) -> None:
    source = read(tmp_path, "nemotron_h")
    keys = {"nemotron_h.attention.layer_norm_rms_epsilon": None, "nemotron_h.attention.layer_norm_epsilon": 1e-3}
    assert read_config(changed(source, keys)).norm_epsilon == 1e-3


def test_a_step_that_is_missing(tmp_path: Path) -> None:
    source = read(tmp_path, "mamba")
    tensors = {name: tensor for name, tensor in source.tensors.items() if name != "blk.0.ssm_dt.weight"}
    with pytest.raises(InputError, match=r"blk\.0\.ssm_dt\.weight: expected this tensor"):
        read_config(replace(source, tensors=tensors))


def test_queries_and_gates_stand_head_by_head(tmp_path: Path) -> None:
    source = read(tmp_path, "qwen35")
    weights = weight_tensors(source, read_config(source))
    stored = source.read_tensor("blk.1.attn_q.weight").view(np.float32).reshape(4, 2, 16, 64)
    for index, role in enumerate(("attention_q", "attention_gate")):
        rows = weights[f"layers.1.{role}"].read(source).view(np.float32)
        assert np.array_equal(rows.reshape(4, 16, 64), stored[:, index])


def test_blocks_that_draft(tmp_path: Path) -> None:
    """The last block has attention whatever the interval says, and is left out."""
    path = write_architecture(tmp_path / "model.gguf", "qwen35", num_layers=6, keys={"nextn_predict_layers": 2})
    source = read_gguf(path)
    config = read_config(source)
    assert (config.num_layers, config.draft_layers, len(layers(config))) == (4, 2, 4)
    tensors = {name: one for name, one in source.tensors.items() if not name.startswith(("blk.4.", "blk.5."))}
    plain = changed(replace(source, tensors=tensors), {"qwen35.block_count": 4, "qwen35.nextn_predict_layers": None})
    expected = Meaning.with_config(plain, read_config(plain), 8).logits(IDS)
    assert np.array_equal(Meaning.of(path, 8).logits(IDS), expected)
