"""Folders of each kind of model that has a row: names as published ones have them, all of them read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rocmforge.artifacts.errors import InputError
from rocmforge.compiler.architectures import ARCHITECTURES, build_graph
from rocmforge.compiler.hugging_face.folder import HuggingFaceFolder, open_folder
from rocmforge.compiler.model_tensors import unused_tensors, weights_by_role
from rocmforge.compiler.models.hugging_face import FOLDER_ROWS
from rocmforge.compiler.read_config import read_config
from rocmforge.tests.support.hugging_face import write_weights

# h: hidden, i: inner, q: queries, k: keys, d: a head, v: vocabulary; 4 heads of 16 over 2.
SIZES = {"h": 64, "i": 128, "q": 64, "k": 32, "d": 16, "v": 320, "i2": 256, "qkv": 128, "e": 32, "n": 4, "1": 1}
SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "vocab_size": 320,
}
QKV = {"self_attn.q_proj": "q h", "self_attn.k_proj": "k h", "self_attn.v_proj": "k h"}
ATTENTION = {**QKV, "self_attn.o_proj": "h q"}
MLP = {"mlp.gate_proj": "i h", "mlp.up_proj": "i h", "mlp.down_proj": "h i"}
UP_DOWN = {"mlp.up_proj": "i h", "mlp.down_proj": "h i"}
MOE = {"gate_proj": "e h", "up_proj": "e h", "down_proj": "h e"}
NORMS = {"input_layernorm": "h", "post_attention_layernorm": "h"}
POST_NORMS = {"post_attention_layernorm": "h", "post_feedforward_layernorm": "h"}
FOUR_NORMS = {**NORMS, "pre_feedforward_layernorm": "h", "post_feedforward_layernorm": "h"}
OUTER = {"model.embed_tokens": "v h", "model.norm": "h", "lm_head": "v h"}
LLAMA = {**NORMS, **ATTENTION, **MLP}
ROWS_NORMS = {"self_attn.q_norm": "q", "self_attn.k_norm": "k"}
HEAD_NORMS = {"self_attn.q_norm": "d", "self_attn.k_norm": "d"}
FUSED = {"self_attn.qkv_proj": "qkv h", "self_attn.o_proj": "h q", "mlp.gate_up_proj": "i2 h", "mlp.down_proj": "h i"}
EXPERTS = {f"mlp.experts.{number}.{name}": shape for number in range(4) for name, shape in MOE.items()}
MIXTRAL = {
    f"block_sparse_moe.experts.{number}.{name}": shape
    for number in range(4)
    for name, shape in {"w1": "i h", "w2": "h i", "w3": "i h"}.items()
}
SHARED = {f"mlp.shared_expert.{name}": shape for name, shape in MOE.items()}
CHOICE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
PHI = {**QKV, "self_attn.dense": "h q", "mlp.fc1": "i h", "mlp.fc2": "h i", "input_layernorm": "h"}

# By model_type: tensors of a layer, of which those in the set have biases, and what config.json has beside the sizes.
FAMILIES: dict[str, tuple[Mapping[str, str], set[str], dict[str, Any]]] = {
    "llama": (LLAMA, set(), {}),
    "mistral": (LLAMA, set(), {}),
    "qwen2": (LLAMA, set(QKV), {}),
    "qwen3": ({**LLAMA, **HEAD_NORMS}, set(), {}),
    "qwen2_vl": (LLAMA, set(QKV), {"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}),
    "qwen3_vl_text": ({**LLAMA, **HEAD_NORMS}, set(), {}),
    "seed_oss": (LLAMA, set(QKV), {}),
    "ernie4_5": (LLAMA, set(), {}),
    "smollm3": (LLAMA, set(), {"no_rope_layer_interval": 4}),
    "arcee": ({**NORMS, **ATTENTION, **UP_DOWN}, set(), {"hidden_act": "relu2"}),
    "granite": (LLAMA, set(), {"attention_multiplier": 0.1, "logits_scaling": 8.0}),
    "phi3": ({**NORMS, **FUSED}, set(), {}),
    "glm4": (
        {
            **NORMS,
            **ATTENTION,
            "post_self_attn_layernorm": "h",
            "post_mlp_layernorm": "h",
            "mlp.gate_up_proj": "i2 h",
            "mlp.down_proj": "h i",
        },
        set(QKV),
        {},
    ),
    "olmo2": ({**POST_NORMS, **ATTENTION, **MLP, **ROWS_NORMS}, set(), {}),
    "olmo3": ({**POST_NORMS, **ATTENTION, **MLP, **ROWS_NORMS}, set(), {"sliding_window": 8}),
    "exaone4": ({**POST_NORMS, **ATTENTION, **MLP, **HEAD_NORMS}, set(), {}),
    "gemma": (LLAMA, set(), {"hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh"}),
    "gemma2": ({**FOUR_NORMS, **ATTENTION, **MLP}, set(), {"hidden_activation": "gelu_pytorch_tanh"}),
    "gemma3_text": (
        {**FOUR_NORMS, **ATTENTION, **MLP, **HEAD_NORMS},
        set(),
        {"hidden_activation": "gelu_pytorch_tanh"},
    ),
    "olmo": ({**ATTENTION, **MLP}, set(), {"clip_qkv": 8.0}),
    "nemotron": ({**NORMS, **ATTENTION, **UP_DOWN}, set(NORMS), {"hidden_act": "relu2"}),
    "starcoder2": (
        {**NORMS, **ATTENTION, "mlp.c_fc": "i h", "mlp.c_proj": "h i"},
        {*NORMS, *ATTENTION, "mlp.c_fc", "mlp.c_proj"},
        {"hidden_act": "gelu_pytorch_tanh"},
    ),
    "mixtral": (
        {**NORMS, **ATTENTION, **MIXTRAL, "block_sparse_moe.gate": "n h"},
        set(),
        {"num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "qwen2_moe": (
        {**NORMS, **ATTENTION, **EXPERTS, **SHARED, "mlp.gate": "n h", "mlp.shared_expert_gate": "1 h"},
        set(QKV),
        {**CHOICE, "norm_topk_prob": False},
    ),
    "qwen3_moe": (
        {**NORMS, **ATTENTION, **HEAD_NORMS, **EXPERTS, "mlp.gate": "n h"},
        set(),
        {**CHOICE, "norm_topk_prob": True},
    ),
    "olmoe": (
        {**NORMS, **ATTENTION, "self_attn.q_norm": "q", "self_attn.k_norm": "k", **EXPERTS, "mlp.gate": "n h"},
        set(),
        CHOICE,
    ),
    "phi": (PHI, set(PHI), {"hidden_act": "gelu_new"}),
    "cohere": ({"input_layernorm": "h", **ATTENTION, **MLP}, set(), {"logit_scale": 0.0625}),
    "cohere2": ({"input_layernorm": "h", **ATTENTION, **MLP}, set(), {"logit_scale": 0.25, "sliding_window": 8}),
}
FINAL = {"nemotron": ("model.norm", True), "starcoder2": ("model.norm", True), "phi": ("model.final_layernorm", True)}


def write(folder: Path, kind: str, changes: Mapping[str, Any] | None = None, prefix: str = "model.") -> Path:
    """Write a small folder of a kind of model, with weights of chance."""
    layer, biased, further = FAMILIES[kind]
    folder.mkdir(exist_ok=True)
    config = SMALL | {"model_type": kind} | further | dict(changes or {})
    (folder / "config.json").write_text(json.dumps(config))
    final, has_bias = FINAL.get(kind, ("model.norm", False))
    named = {"model.embed_tokens": "v h"} | ({} if kind == "olmo" else {final: "h"})
    tied = config.get("tie_word_embeddings", FOLDER_ROWS[kind].defaults.get("tie_word_embeddings", False))
    if not tied:
        named["lm_head"] = "v h"
    biases = {final} if has_bias else set()
    if kind == "phi":
        biases.add("lm_head")
    for number in range(config["num_hidden_layers"]):
        named |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
        biases |= {f"model.layers.{number}.{name}" for name in biased}
    random, tensors = np.random.default_rng(0), {}
    for name, text in named.items():
        shape = tuple(SIZES[one] for one in text.split())
        stored = prefix + name.removeprefix("model.") if name.startswith("model.") else name
        for ending, dims in (("weight", shape), *((("bias", shape[:1]),) if name in biases else ())):
            tensors[f"{stored}.{ending}"] = ("F32", dims, random.normal(0, 0.1, dims).astype(np.float32).tobytes())
    write_weights(folder, tensors)
    return folder


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_folder_has_all_that_its_graph_reads_and_nothing_else(tmp_path: Path, kind: str) -> None:
    folder = open_folder(write(tmp_path / kind, kind))
    config = read_config(folder)
    assert config.architecture == FOLDER_ROWS[kind].architecture
    build_graph(config, weights_by_role(folder, config))
    assert not unused_tensors(folder, config)
    assert (config.hidden_size, config.intermediate_size, config.num_layers) == (64, 128, 2)
    assert (config.num_heads, config.num_kv_heads, config.head_dim) == (4, 2, 16)


def test_each_row_is_of_an_architecture_and_has_a_folder_here() -> None:
    elsewhere = {"gpt-oss", "lfm2", "deepseek2"}  # test_quantized.py, test_forms.py
    elsewhere |= {"lfm2moe", "qwen3next", "qwen35", "qwen35moe", "granitehybrid"}  # test_recurrent.py
    rows = {row.architecture for row in FOLDER_ROWS.values()} - elsewhere
    assert rows <= set(ARCHITECTURES)
    assert {FOLDER_ROWS[kind].architecture for kind in FAMILIES} == rows


def metadata(folder: HuggingFaceFolder) -> dict[str, object]:
    prefix = f"{folder.metadata['general.architecture']}."
    return {key.removeprefix(prefix): value for key, value in folder.metadata.items()}


def opened(tmp_path: Path, kind: str, **changes: Any) -> dict[str, object]:
    return metadata(open_folder(write(tmp_path / "m", kind, changes)))


def test_what_some_families_say_by_keys_of_their_own(tmp_path: Path) -> None:
    granite = opened(tmp_path, "granite", embedding_multiplier=12.0, residual_multiplier=0.22)
    names = ("attention.scale", "embedding_scale", "residual_scale", "logit_scale")
    assert [granite[name] for name in names] == [0.1, 12.0, 0.22, 8.0]
    gemma = opened(tmp_path, "gemma2", attn_logit_softcapping=40.0, final_logit_softcapping=20.0, sliding_window=16)
    assert (gemma["attn_logit_softcapping"], gemma["final_logit_softcapping"]) == (40.0, 20.0)
    assert gemma["attention.sliding_window"] == 16
    assert opened(tmp_path, "olmo")["attention.clamp_kqv"] == 8.0
    assert opened(tmp_path, "cohere2")["logit_scale"] == 0.25
    assert opened(tmp_path, "nemotron", norm_eps=0.5)["attention.layer_norm_epsilon"] == 0.5
    assert opened(tmp_path, "nemotron")["rope.dimension_count"] == 8  # half of a head rotates
    assert opened(tmp_path, "smollm3")["rope.freq_base"] == 2e6


def test_what_scores_of_gemma_are_scaled_by(tmp_path: Path) -> None:
    """What the folder says, whatever the number of layers that llama.cpp knows 27B by."""
    for kind, scalar in (("gemma2", 32), ("gemma3_text", 64), ("gemma2", 16)):
        folder = write(tmp_path / "m", kind, {"query_pre_attn_scalar": scalar})
        assert read_config(open_folder(folder)).attention_scale == scalar**-0.5
    assert read_config(open_folder(write(tmp_path / "m", "gemma2"))).attention_scale == 1 / 16


def test_softcaps_that_are_off(tmp_path: Path) -> None:
    """Null is none, as in `transformers`; a folder without the key has Gemma's usual."""
    usual = read_config(open_folder(write(tmp_path / "m", "gemma2")))
    assert (usual.attention_softcap, usual.logit_softcap) == (50.0, 30.0)
    off = {"attn_logit_softcapping": None, "final_logit_softcapping": None}
    config = read_config(open_folder(write(tmp_path / "m", "gemma2", off)))
    assert (config.attention_softcap, config.logit_softcap) == (0.0, 0.0)


def test_the_context_of_published_gemma_3(tmp_path: Path) -> None:
    """Their config.json says less than the sizes: `transformers` knows the rest."""
    folder = write(tmp_path / "m", "gemma3_text")
    said = json.loads((folder / "config.json").read_text())
    del said["max_position_embeddings"]
    (folder / "config.json").write_text(json.dumps(said))
    assert read_config(open_folder(folder)).max_seq_len == 131072


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen3_vl_text"])
def test_sections_of_rotation_that_pictures_need(tmp_path: Path, kind: str) -> None:
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "mrope_interleaved": True}
    for place in ("rope_scaling", "rope_parameters"):
        config = read_config(open_folder(write(tmp_path / "m", kind, {"rope_scaling": None, place: rope})))
        assert config.rope_sections == (2, 3, 3, 0)


def test_norms_that_lack_a_one(tmp_path: Path) -> None:
    folder = open_folder(write(tmp_path / "m", "gemma2"))
    part = folder.parts["model.safetensors"]
    for name, ours in (
        ("model.layers.1.pre_feedforward_layernorm.weight", "blk.1.ffn_norm.weight"),
        ("model.norm.weight", "output_norm.weight"),
    ):
        stored = part.read_rows(name, 0, 1).view(np.float32).reshape(-1)
        assert np.array_equal(folder.read_tensor(ours).view(np.float32), stored + np.float32(1))
    kept = part.read_rows("model.embed_tokens.weight", 0, 320).view(np.float32)
    assert np.array_equal(folder.read_tensor("token_embd.weight").view(np.float32), kept.reshape(-1))


def test_which_layers_have_a_window(tmp_path: Path) -> None:
    kinds = ["sliding_attention", "full_attention"]
    found = opened(tmp_path, "gemma3_text", sliding_window=16, layer_types=kinds)
    assert np.array_equal(np.asarray(found["attention.sliding_window_pattern"]), [True, False])
    assert (
        opened(tmp_path, "gemma3_text", sliding_window=16, sliding_window_pattern=3)["attention.sliding_window_pattern"]
        == 3
    )
    found = opened(tmp_path, "exaone4", sliding_window=16, sliding_window_pattern="LG")
    assert np.array_equal(np.asarray(found["attention.sliding_window_pattern"]), [True, False])
    config = read_config(open_folder(write(tmp_path / "o", "olmo3", {"layer_types": kinds})))
    assert [config.layer(number).window for number in range(2)] == [8, 0]


def test_two_bases_of_rotation(tmp_path: Path) -> None:
    old = opened(tmp_path, "gemma3_text", rope_theta=5e5, rope_local_base_freq=2e4)
    assert (old["rope.freq_base"], old["rope.freq_base_swa"]) == (5e5, 2e4)
    both = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
    }
    new = opened(tmp_path, "gemma3_text", rope_parameters=both)
    assert (new["rope.freq_base"], new["rope.freq_base_swa"], new["rope.scaling.factor"]) == (5e5, 2e4, 8.0)


def test_longrope(tmp_path: Path) -> None:
    scaling = {"type": "longrope", "long_factor": [float(i) for i in range(1, 9)], "short_factor": [1.0] * 8}
    folder = open_folder(
        write(tmp_path / "m", "phi3", {"rope_scaling": scaling, "original_max_position_embeddings": 64})
    )
    found = metadata(folder)
    assert folder.read_tensor("rope_factors_long.weight").view(np.float32).tolist() == list(range(1, 9))
    assert found["rope.scaling.original_context_length"] == 64
    assert found["rope.scaling.attn_factor"] == pytest.approx(math.sqrt(1 + math.log(4) / math.log(64)))
    assert read_config(folder).rope_scaling.kind == "longrope"


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_the_text_of_a_model_that_sees(tmp_path: Path, prefix: str) -> None:
    """Its configuration is in another, its names have a prefix, and the eyes are passed over."""
    folder = write(tmp_path / "m", "gemma3_text", prefix=prefix)
    text = json.loads((folder / "config.json").read_text())
    outer = {"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 8}}
    (folder / "config.json").write_text(json.dumps(outer))
    assert read_config(open_folder(folder)).architecture == "gemma3"
    del outer["text_config"]["model_type"]
    (folder / "config.json").write_text(json.dumps(outer))
    assert read_config(open_folder(folder)).architecture == "gemma3"


CASES: dict[str, tuple[str, dict[str, Any], str]] = {
    "interval": ("smollm3", {"no_rope_layer_interval": 3}, "no_rope_layer_interval: expected 4, found 3"),
    "activation": (
        "gemma",
        {"hidden_act": "silu"},
        "hidden_act: expected gelu_pytorch_tanh or gelu_new or",
    ),
    "long factors": (
        "phi3",
        {"rope_scaling": {"type": "longrope", "long_factor": [1.0] * 7, "short_factor": [1.0] * 8}},
        "rope_scaling.long_factor: expected 8 numbers, found 7",
    ),
    "no factors": ("phi3", {"rope_scaling": {"type": "su"}}, "rope_scaling.long_factor: expected an array of numbers"),
    "a factor": (
        "phi3",
        {"rope_scaling": {"type": "su", "long_factor": [0.0] * 8}},
        "rope_scaling.long_factor.0: expected a number from 1e-06",
    ),
    "sections": ("llama", {"rope_scaling": {"type": "mrope"}}, "rope_scaling.rope_type: expected default, linear"),
    "window": ("gemma2", {"sliding_window": "x"}, "sliding_window: expected an integer from 1"),
    "pattern": ("gemma2", {"sliding_window": 8, "sliding_window_pattern": 1.5}, "sliding_window_pattern: expected an"),
    "layers": ("olmo3", {"layer_types": ["sliding_attention"]}, "layer_types: expected for each of 2 layers"),
    "both ways": ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention: expected False"),
    "scale": ("gemma2", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar: expected a number from 1"),
    "both ways, older": (
        "gemma2",
        {"use_bidirectional_attention": True},
        "use_bidirectional_attention: expected False",
    ),
    "layers that rotate": ("smollm3", {"no_rope_layers": [0, 1]}, "no_rope_layers: expected a 0 in every fourth place"),
    "divisors": (
        "qwen3",
        {
            "rope_scaling": {
                **{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
                "original_max_position_embeddings": 64,
            }
        },
        "rope_scaling.rope_type: expected default, linear or yarn in a qwen3, found llama3, not supported",
    ),
    "two of divisors": (
        "smollm3",
        {"rope_parameters": {"rope_type": "longrope"}},
        "rope_parameters.rope_type: expected default, linear or yarn in a smollm3, found longrope, not supported",
    ),
    "more sections": (
        "qwen3_vl_text",
        {"rope_scaling": {"mrope_section": [9, 9, 9]}},
        "rope_scaling.mrope_section: expected 4 numbers of pairs, 1 to 16 in all",
    ),
    "text": ("gemma3_text", {"text_config": 3}, "text_config: expected an object, found 3"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_family_does_not_have_is_refused_in_a_line(tmp_path: Path, case: str) -> None:
    kind, changes, problem = CASES[case]
    with pytest.raises(InputError) as caught:
        read_config(open_folder(write(tmp_path / "m", kind, changes)))
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)
