"""Folders of models with recurrent state, against the logits that `transformers` gives of the same weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from rocmforge.artifacts.errors import InputError
from rocmforge.compiler.changes import Changes, changed_source
from rocmforge.compiler.ggml_types import GgmlType
from rocmforge.compiler.hugging_face.folder import open_folder
from rocmforge.compiler.hugging_face.folder_tensor import FolderTensor
from rocmforge.compiler.hugging_face.rearranged import with_columns
from rocmforge.compiler.lora import LoraFile
from rocmforge.compiler.model_source import TensorInfo
from rocmforge.compiler.model_tensors import unused_tensors
from rocmforge.compiler.read_config import read_config
from rocmforge.tools.generate.architecture_oracle.meaning import Meaning
from rocmforge.tools.generate.folder_models import CONFIGS, IDS, weights, write_folder

LOGITS = Path(__file__).parents[3] / "data" / "folder_logits.npz"
ARCHITECTURE = {
    "qwen3_next": "qwen3next",
    "qwen3_5": "qwen35",
    "qwen3_5_moe": "qwen35moe",
    "lfm2_moe": "lfm2moe",
    "granite_mixture": "granitehybrid",
    "granite": "granitehybrid",
    "granite_rotating": "granite",
}


def logits(path: Path) -> Any:
    return np.asarray(Meaning.of(path, len(IDS)).logits(list(IDS)))


def written(path: Path, config: Mapping[str, Any], tensors: Mapping[str, Any]) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    save_file(dict(tensors), path / "model.safetensors")
    return path


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_folder_means_what_transformers_makes_of_it(tmp_path: Path, kind: str) -> None:
    """That is float32 where we are float64: 1e-12 of the squares."""
    path = write_folder(tmp_path / "m", kind)
    expected, found = np.load(LOGITS)[kind], logits(path)
    assert np.square(found - expected).sum() < 1e-10 * np.square(expected).sum()
    source = open_folder(path)
    config = read_config(source)
    assert config.architecture == ARCHITECTURE[kind]
    assert not unused_tensors(source, config)


@pytest.mark.parametrize("kind", ["qwen3_next", "qwen3_5", "granite_mixture"])
def test_rows_may_be_read_in_any_pieces(tmp_path: Path, kind: str) -> None:
    source = open_folder(write_folder(tmp_path / "m", kind))
    for name, tensor in source.tensors.items():
        whole = source.read_rows(name, 0, tensor.rows)
        cuts = [0, tensor.rows // 3, tensor.rows // 3 + 1, tensor.rows]
        parts = [source.read_rows(name, a, b - a) for a, b in pairwise(cuts) if b > a]
        assert np.array_equal(np.concatenate(parts), whole), name


@pytest.mark.parametrize(("kind", "base"), [("qwen3_5_moe", "mlp"), ("lfm2_moe", "feed_forward")])
def test_experts_may_be_in_one_tensor(tmp_path: Path, kind: str, base: str) -> None:
    """As newer folders have them: gates over ups, and downs."""
    apart = write_folder(tmp_path / "apart", kind)
    tensors = weights(kind)
    for layer in range(CONFIGS[kind].get("num_dense_layers", 0), 4):
        at = f"model.layers.{layer}.{base}.experts"
        gate, down, up = ("w1", "w2", "w3") if kind == "lfm2_moe" else ("gate_proj", "down_proj", "up_proj")
        experts = [[tensors.pop(f"{at}.{one}.{role}.weight") for role in (gate, down, up)] for one in range(4)]
        tensors[f"{at}.gate_up_proj"] = np.stack([np.concatenate([gates, ups]) for gates, _, ups in experts])
        tensors[f"{at}.down_proj"] = np.stack([downs for _, downs, _ in experts])
    together = written(tmp_path / "together", CONFIGS[kind], tensors)
    assert np.array_equal(logits(together), logits(apart))


def test_a_model_that_sees_and_drafts(tmp_path: Path) -> None:
    """Qwen3.5's published folders: its eyes and the block that drafts are passed over."""
    kind = "qwen3_5"
    tensors = {name.replace("model.", "model.language_model.", 1): one for name, one in weights(kind).items()}
    tensors |= {
        "model.visual.patch_embed.proj.bias": np.zeros(4, np.float32),
        "mtp.norm.weight": np.zeros(64, np.float32),
    }
    config = {"model_type": "qwen3_5", "text_config": CONFIGS[kind], "vision_config": {"hidden_size": 4}}
    inner = {name: value for name, value in CONFIGS[kind].items() if name != "model_type"}
    seeing = written(tmp_path / "seeing", config, tensors)
    assert np.array_equal(logits(seeing), logits(write_folder(tmp_path / "text", kind)))
    nameless = written(tmp_path / "nameless", config | {"text_config": inner}, tensors)
    assert open_folder(nameless).metadata["general.architecture"] == "qwen35"
    moe = open_folder(written(tmp_path / "moe", CONFIGS["qwen3_5_moe"], weights("qwen3_5_moe")))
    assert "qwen35moe.feed_forward_length" not in moe.metadata  # nor in files that llama.cpp makes of such folders


def test_layers_and_limits_in_newer_words(tmp_path: Path) -> None:
    kinds = ["linear_attention", "full_attention"] * 2
    newer = {"layer_types": kinds, "time_step_limit": [0.0, {"__float__": "Infinity"}]}
    path = write_folder(tmp_path / "newer", "granite_mixture", newer)
    assert np.array_equal(logits(path), logits(write_folder(tmp_path / "older", "granite_mixture")))


CASES: dict[str, tuple[str, dict[str, Any], str]] = {
    "heads": ("qwen3_5", {"linear_num_key_heads": 3}, "linear_num_value_heads: expected a multiple of 3, found 4"),
    "rows": ("qwen3_next", {"linear_value_head_dim": 32}, "in_proj_qkvz.weight: expected 320 rows, found 192"),
    "taps": ("qwen3_5", {"linear_value_head_dim": 32}, "conv1d.weight: expected 192 rows, found 128"),
    "gate": ("qwen3_5", {"attn_output_gate": False}, "attn_output_gate: expected True, found False, not supported"),
    "dense": ("qwen3_next", {"mlp_only_layers": [0]}, "mlp_only_layers: expected [], found [0], not supported"),
    "kinds": ("granite", {"layer_types": ["mamba"] * 3}, "layer_types: expected mamba or attention"),
    "no kinds": ("granite", {"layer_types": None}, "layer_types: expected the kind of each layer, found nothing"),
    "steps": ("granite", {"time_step_limit": [0.0, 1.0]}, "time_step_limit: expected none, or 0 and infinity"),
    "unrotated": (
        "granite_rotating",
        {"position_embedding_type": None},
        "position_embedding_type: expected rope where all layers have attention",
    ),
    "groups": ("granite_mixture", {"mamba_n_groups": 3}, "mamba.norm.weight: expected a multiple of 3 elements"),
    "choice": ("lfm2_moe", {"norm_topk_prob": False}, "norm_topk_prob: expected True, found False, not supported"),
    "head": ("lfm2_moe", {"tie_embedding": False}, "lm_head.weight: expected this tensor, found none"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_not_supported_is_refused_in_a_line(tmp_path: Path, case: str) -> None:
    kind, changes, problem = CASES[case]
    with pytest.raises(InputError) as caught:
        read_config(open_folder(write_folder(tmp_path / "m", kind, changes)))
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_columns_in_blocks_keep_their_blocks() -> None:
    """Of a quantized output: a head's columns are whole blocks, or the order is refused."""
    blocks = np.arange(4 * 18, dtype=np.uint8).reshape(1, -1)
    found = FolderTensor(TensorInfo("out", (1, 128), GgmlType.Q4_0), "out", lambda _first, _count: blocks)
    order = np.arange(128).reshape(2, 2, 32).swapaxes(0, 1).reshape(-1)
    turned = with_columns(Path("m"), found, order).read(0, 1).reshape(4, 18)
    assert np.array_equal(turned, blocks.reshape(4, 18)[[0, 2, 1, 3]])
    torn = np.arange(128).reshape(2, 4, 16).swapaxes(0, 1).reshape(-1)
    with pytest.raises(InputError, match="out: expected heads of whole blocks of 32 columns"):
        with_columns(Path("m"), found, torn)


MODULES: dict[str, tuple[str, ...]] = {
    "qwen3_5": (
        *(f"0.linear_attn.{name}" for name in ("in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "out_proj")),
        *("3.self_attn.q_proj", "3.self_attn.k_proj", "3.mlp.up_proj"),
    ),
    "qwen3_next": ("0.linear_attn.in_proj_qkvz", "0.linear_attn.in_proj_ba", "2.linear_attn.out_proj"),
    "qwen3_5_moe": (*(f"1.mlp.experts.{expert}.down_proj" for expert in (0, 2)), "1.mlp.shared_expert.gate_proj"),
    "granite_mixture": ("0.shared_mlp.input_linear", "0.mamba.in_proj", "1.self_attn.q_proj", "1.self_attn.k_proj"),
    "lfm2_moe": (*(f"2.feed_forward.experts.{expert}.w1" for expert in range(4)), "0.conv.in_proj"),
}


@pytest.mark.parametrize("kind", MODULES)
def test_an_adapter_is_merged_as_into_the_folders_own_weights(tmp_path: Path, kind: str) -> None:
    """Rows and columns come to where the model has them: B A added to the folder's matrices gives the same model."""
    random, tensors = np.random.default_rng(7), weights(kind)
    adapter: dict[str, Any] = {}
    base = open_folder(write_folder(tmp_path / "base", kind))
    for module in MODULES[kind]:
        name = f"model.layers.{module}.weight"
        rows, columns = tensors[name].shape
        a, b = (random.normal(0, 0.3, shape).astype(np.float32) for shape in ((3, columns), (rows, 3)))
        stored = f"base_model.model.model.layers.{module}.lora_"
        adapter |= {f"{stored}A.weight": a, f"{stored}B.weight": b}
        tensors[name] = tensors[name] + 2 * (b.astype(np.float64) @ a).astype(np.float32)
    peft = tmp_path / "adapter"
    peft.mkdir()
    (peft / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 3, "lora_alpha": 6}))
    save_file(adapter, peft / "adapter_model.safetensors")
    found, _ = changed_source(base, Changes((LoraFile(peft),)))
    expected = open_folder(written(tmp_path / "merged", CONFIGS[kind], tensors))
    changed = 0
    for name in base.tensors:
        ours, theirs, before = (one.read_tensor(name).view(np.float32) for one in (found, expected, base))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
        changed += not np.array_equal(before, theirs)
    assert changed >= 2
