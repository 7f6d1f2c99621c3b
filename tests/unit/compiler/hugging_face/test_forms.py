"""Folders of models with short convolutions or latent attention, against the GGUF file of the same weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from rocmforge.artifacts.errors import InputError
from rocmforge.compiler.hugging_face.folder import open_folder
from rocmforge.compiler.read_config import read_config
from rocmforge.tests.support.hugging_face import write_weights
from rocmforge.tools.generate.architecture_models import write_architecture
from rocmforge.tools.generate.architecture_oracle.meaning import Meaning

IDS = [int(one) for one in np.random.default_rng(5).integers(0, 96, 12)]
EPSILON = float(np.float32(1e-5))  # as a GGUF file has it
SMALL = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 96}
LFM2 = {
    **{"attn_norm": "operator_norm", "ffn_norm": "ffn_norm", "shortconv.conv": "conv.conv"},
    **{"shortconv.in_proj": "conv.in_proj", "shortconv.out_proj": "conv.out_proj"},
    **{"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj"},
    **{"attn_q_norm": "self_attn.q_layernorm", "attn_k_norm": "self_attn.k_layernorm"},
    **{"attn_output": "self_attn.out_proj"},
    **{"ffn_gate": "feed_forward.w1", "ffn_down": "feed_forward.w2", "ffn_up": "feed_forward.w3"},
}
DEEPSEEK = {
    **{"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_output": "self_attn.o_proj"},
    **{"attn_q_a": "self_attn.q_a_proj", "attn_q_a_norm": "self_attn.q_a_layernorm", "attn_q_b": "self_attn.q_b_proj"},
    **{"attn_q": "self_attn.q_proj", "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa"},
    **{"attn_kv_a_norm": "self_attn.kv_a_layernorm", "attn_kv_b": "self_attn.kv_b_proj"},
    **{"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "ffn_gate_inp": "mlp.gate"},
    **{f"ffn_{role}_shexp": f"mlp.shared_experts.{role}_proj" for role in ("gate", "up", "down")},
}
OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LATENT = {
    **SMALL,
    **{"intermediate_size": 96, "kv_lora_rank": 24, "qk_rope_head_dim": 6, "qk_nope_head_dim": 10, "v_head_dim": 12},
    **{"n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_shared_experts": 2},
    **{"first_k_dense_replace": 1, "routed_scaling_factor": 1.5, "rms_norm_eps": EPSILON},
    **{"num_key_value_heads": 4, "max_position_embeddings": 64, "q_lora_rank": 40, "rope_theta": 10000.0},
}
V2 = {**LATENT, "model_type": "deepseek_v2", "q_lora_rank": None, "topk_method": "greedy", "n_group": None}
V3 = {**LATENT, "model_type": "deepseek_v3", "norm_topk_prob": True, "scoring_func": "sigmoid", "n_group": 1}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "mscale": 0.7, "mscale_all_dim": 0.7}
CONFIGS: dict[str, dict[str, Any]] = {
    "lfm2": {
        **SMALL,
        **{"model_type": "lfm2", "num_key_value_heads": 2, "conv_L_cache": 3, "norm_eps": EPSILON, "rope_theta": 1e4},
        **{"block_ff_dim": 96, "block_auto_adjust_ff_dim": False, "max_position_embeddings": 64},
        **{"tie_word_embeddings": False, "layer_types": ["conv", "full_attention"] * 2},
    },
    "deepseek_v2": V2,
    "deepseek_v3": V3,
}
"""By `model_type`: what config.json says of our own generator's model of the architecture."""
NAMES: Mapping[str, tuple[str, Mapping[str, str], Mapping[str, str]]] = {
    "lfm2": ("lfm2", LFM2, {**OUTER, "token_embd_norm": "model.embedding_norm"}),
    "deepseek_v2": ("deepseek2", DEEPSEEK, OUTER),
    "deepseek_v3": ("deepseek2", DEEPSEEK, OUTER),
}
"""The architecture, and the folder's names of tensors by GGUF's."""
NOT_SAID = ("sliding_window", "temperature", "expert_shared_feed_forward_length", "key_length", "value_length")
"""Keys that a folder has no word for: the GGUF file does without them, or says them by others."""


def rewritten(
    source: Path, goal: Path, change: Callable[[dict[str, Any]], None], values: Mapping[str, Any]
) -> dict[str, Any]:
    """Write a GGUF file with other tensors, and other values of its keys; returns the tensors."""
    reader = gguf.GGUFReader(source)
    tensors = {one.name: np.array(one.data, np.float32) for one in reader.tensors}
    change(tensors)
    writer = gguf.GGUFWriter(goal, reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        if not key.startswith(("GGUF.", "general.architecture")) and ("_mla" in key or not named(key, NOT_SAID)):
            of = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, values.get(key, field.contents()), field.types[0], of)
    if "deepseek2.attention.key_length_mla" in reader.fields:  # what is cached, as the generator's file says
        writer.add_key_length(30)
        writer.add_value_length(24)
    for name, data in tensors.items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


def named(key: str, parts: tuple[str, ...]) -> bool:
    return any(part in key for part in parts)


def expanded(tensors: dict[str, Any]) -> None:
    """Join what makes keys, the other way round, and values of the latent, as folders have them: head by head."""
    for name in [name for name in tensors if name.endswith("attn_k_b.weight")]:
        keys = tensors.pop(name).swapaxes(1, 2)
        values = tensors.pop(name.replace("_k_b", "_v_b"))
        joined = np.concatenate([keys, values], axis=1)
        tensors[name.replace("_k_b", "_kv_b")] = np.ascontiguousarray(joined.reshape(-1, joined.shape[-1]))


def write_folder(folder: Path, kind: str, tensors: Mapping[str, Any], changes: Mapping[str, Any]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIGS[kind] | dict(changes)))
    _, of_layers, outer = NAMES[kind]
    stored: dict[str, Any] = {}
    for name, values in tensors.items():
        parts = name.split(".")
        middle, prefix = ".".join(parts[2:-1]), f"model.layers.{parts[1]}."
        if parts[0] != "blk":
            stored[f"{outer[parts[0]]}.weight"] = values
        elif middle == "exp_probs_b":
            stored[f"{prefix}mlp.gate.e_score_correction_bias"] = values
        elif middle.endswith("_exps"):
            role = middle.removeprefix("ffn_").removesuffix("_exps")
            stored |= {f"{prefix}mlp.experts.{i}.{role}_proj.weight": one for i, one in enumerate(values)}
        else:
            stored[f"{prefix}{of_layers[middle]}.weight"] = values[:, None] if middle == "shortconv.conv" else values
    write_weights(folder, {name: ("F32", one.shape, one.tobytes()) for name, one in stored.items()})
    return folder


def unlike_v3(tensors: dict[str, Any]) -> None:
    expanded(tensors)
    for name in [name for name in tensors if "exp_probs_b" in name]:
        del tensors[name]


CHANGES: Mapping[str, Callable[[dict[str, Any]], None]] = {
    "lfm2": lambda _: None,
    "deepseek_v2": unlike_v3,
    "deepseek_v3": expanded,
}
SOFTMAX = {"deepseek2.expert_gating_func": 1, "deepseek2.expert_weights_norm": False}


def both(tmp_path: Path, kind: str, **changes: Any) -> tuple[Path, Path]:
    """Write a model as a GGUF file and as a folder."""
    keys = {"attention.q_lora_rank": 0} if kind == "deepseek_v2" else None
    made = write_architecture(tmp_path / "made.gguf", NAMES[kind][0], keys=keys)
    values = SOFTMAX if kind == "deepseek_v2" else {}
    tensors = rewritten(made, tmp_path / "model.gguf", CHANGES[kind], values)
    return tmp_path / "model.gguf", write_folder(tmp_path / "folder", kind, tensors, changes)


def logits(path: Path) -> Any:
    return Meaning.of(path, len(IDS)).logits(IDS)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_folder_means_what_the_file_of_its_weights_does(tmp_path: Path, kind: str) -> None:
    file, folder = both(tmp_path, kind)
    expected = logits(file)
    assert np.abs(expected).max() > 1e-2
    assert np.array_equal(logits(folder), expected)


def test_yarn_of_latent_attention(tmp_path: Path) -> None:
    _, folder = both(tmp_path, "deepseek_v3", rope_scaling=YARN)
    opened = open_folder(folder)
    assert opened.metadata["deepseek2.rope.scaling.yarn_log_multiplier"] == pytest.approx(0.07)
    grown = read_config(opened).attention_scale * 16**0.5
    assert grown == pytest.approx((1 + 0.07 * np.log(4.0)) ** 2)  # as DeepSeek scales its scores
    with pytest.raises(InputError, match=r"rope_scaling\.mscale: expected mscale_all_dim, 0\.7, found another"):
        open_folder(write_again(folder, rope_scaling=YARN | {"mscale": 1.0}))


def write_again(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def test_blocks_that_draft_tokens_are_passed_over(tmp_path: Path) -> None:
    _, folder = both(tmp_path, "deepseek_v3")
    with pytest.raises(InputError, match=r"layers\.3\..*expected a tensor of a deepseek2 model"):
        open_folder(write_again(folder, num_hidden_layers=3))
    assert read_config(open_folder(write_again(folder, num_nextn_predict_layers=1))).num_layers == 3


def test_lfm2_says_its_layers_and_widths_in_two_ways(tmp_path: Path) -> None:
    _, folder = both(tmp_path, "lfm2")
    before = read_config(open_folder(folder))
    adjusted = {"block_ff_dim": 120, "block_auto_adjust_ff_dim": True, "block_multiple_of": 32}
    again = write_again(folder, layer_types=None, full_attn_idxs=[1, 3], **adjusted)
    assert read_config(open_folder(again)) == before  # two thirds of 120, a multiple of 32
    wide = open_folder(write_again(folder, block_ffn_dim_multiplier=1.5))
    assert wide.metadata["lfm2.feed_forward_length"] == 128


CASES: dict[str, tuple[str, dict[str, Any], str]] = {
    "kinds": ("lfm2", {"layer_types": ["conv"] * 3}, "layer_types: expected conv or full_attention for each of 4"),
    "no kinds": ("lfm2", {"layer_types": None}, "layer_types: expected the kind of each layer, found nothing"),
    "bias": ("lfm2", {"conv_bias": True}, "conv_bias: expected False, found True, not supported"),
    "scoring": ("deepseek_v3", {"scoring_func": "tanh"}, "scoring_func: expected softmax or sigmoid, found tanh"),
    "groups": (
        "deepseek_v2",
        {"n_group": 4, "topk_group": 2, "topk_method": "group_limited_greedy"},
        "topk_method: expected noaux_tc with 4 groups",
    ),
    "groups used": ("deepseek_v3", {"n_group": 4, "topk_group": 5}, "topk_group: expected an integer from 1 to 4"),
    "rank": ("deepseek_v3", {"kv_lora_rank": 0}, "kv_lora_rank: expected an integer from 1"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_not_supported_is_refused_in_a_line(tmp_path: Path, case: str) -> None:
    kind, changes, problem = CASES[case]
    _, folder = both(tmp_path, kind, **changes)
    with pytest.raises(InputError) as caught:
        read_config(open_folder(folder))
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)
