"""Small folders of Hugging Face's of models with recurrent state, and what `transformers` makes of them.

python -m rocmforge.tools.generate.folder_models tests/data/folder_logits.npz

writes the logits; it needs PyTorch and `transformers` (5.23.0 has been used), which nothing else here does.
"""

from __future__ import annotations

import json
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

Shapes = dict[str, tuple[int, ...]]

VOCABULARY: Final = 96
IDS: Final = tuple(int(one) for one in np.random.default_rng(5).integers(0, VOCABULARY, 12))
_HIDDEN: Final = 64
_BASE: Final = {
    **{"vocab_size": VOCABULARY, "hidden_size": _HIDDEN, "num_attention_heads": 4, "num_key_value_heads": 2},
    **{"max_position_embeddings": 128, "hidden_act": "silu", "rms_norm_eps": 1e-6, "tie_word_embeddings": False},
}
_DELTA: Final = {
    **{**_BASE, "num_hidden_layers": 4, "head_dim": 32, "linear_num_key_heads": 2, "linear_num_value_heads": 4},
    **{"linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_conv_kernel_dim": 4},
}
_EXPERTS: Final = {
    **{"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    **{"shared_expert_intermediate_size": 48},
}
_ROPE: Final = {
    "rope_parameters": {
        **{"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25},
        **{"mrope_section": [2, 1, 1], "mrope_interleaved": True},
    }
}
_GRANITE: Final = {
    **{**_BASE, "model_type": "granitemoehybrid", "num_hidden_layers": 4, "layer_types": ["mamba", "attention"] * 2},
    **{"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_expand": 2, "attention_multiplier": 0.2},
    **{"mamba_d_conv": 4, "mamba_conv_bias": True, "mamba_proj_bias": False},
}
CONFIGS: Final[Mapping[str, Mapping[str, Any]]] = {
    "qwen3_next": {
        **{**_DELTA, **_EXPERTS, "model_type": "qwen3_next", "intermediate_size": 96, "rope_theta": 1e4},
        **{"layer_types": ["linear_attention", "full_attention"] * 2, "norm_topk_prob": True},
    },
    "qwen3_5": {**_DELTA, **_ROPE, "model_type": "qwen3_5_text", "intermediate_size": 96},
    "qwen3_5_moe": {**_DELTA, **_ROPE, **_EXPERTS, "model_type": "qwen3_5_moe_text", "full_attention_interval": 2},
    "lfm2_moe": {
        **{**_BASE, **_EXPERTS, "model_type": "lfm2_moe", "num_hidden_layers": 4, "num_dense_layers": 1},
        **{"layer_types": ["conv", "full_attention"] * 2, "conv_L_cache": 3, "intermediate_size": 96},
        **{"tie_word_embeddings": True, "norm_eps": 1e-5, "rope_theta": 1e6, "routed_scaling_factor": 1.0},
    },
    "granite_mixture": {
        **{**_GRANITE, "intermediate_size": 32, "num_local_experts": 4, "num_experts_per_tok": 2, "mamba_n_groups": 2},
        **{"shared_intermediate_size": 48, "embedding_multiplier": 3.0, "residual_multiplier": 0.5},
        **{"logits_scaling": 2.0},
    },
    "granite": {
        **{**_GRANITE, "intermediate_size": 96, "shared_intermediate_size": 96, "num_local_experts": 0},
        **{"num_experts_per_tok": 0, "mamba_n_groups": 1, "tie_word_embeddings": True},
    },
    "granite_rotating": {
        **{**_GRANITE, "intermediate_size": 96, "shared_intermediate_size": 96, "num_local_experts": 0},
        **{"num_experts_per_tok": 0, "mamba_n_groups": 1, "layer_types": ["attention"] * 4, "rope_theta": 1e4},
        **{"position_embedding_type": "rope"},
    },
}
"""config.json by a name of the kind; published folders of Qwen3.5 have it below `text_config`."""


def shapes(kind: str) -> Shapes:
    """Return the shapes of a folder's tensors, by the names that published ones have."""
    config, hidden = CONFIGS[kind], _HIDDEN
    final = "embedding_norm" if kind == "lfm2_moe" else "norm"
    found: Shapes = {
        "model.embed_tokens.weight": (VOCABULARY, hidden),
        f"model.{final}.weight": (hidden,),
    }
    if not config["tie_word_embeddings"]:
        found["lm_head.weight"] = (VOCABULARY, hidden)
    of_kind = _lfm2 if kind == "lfm2_moe" else _granite if kind.startswith("granite") else _qwen
    for layer in range(config["num_hidden_layers"]):
        of_layer = of_kind(config, layer)
        found |= {f"model.layers.{layer}.{name}": shape for name, shape in of_layer.items()}
    return found


def _recurrent(config: Mapping[str, Any], layer: int) -> bool:
    if "layer_types" in config:
        return str(config["layer_types"][layer]) in ("linear_attention", "mamba", "conv")
    return bool((layer + 1) % config.get("full_attention_interval", 4))


def _attention(head: int, output: str = "o_proj", queries: int = 1) -> Shapes:
    rows = {"q_proj": 4 * head * queries, "k_proj": 2 * head, "v_proj": 2 * head}
    found = {f"self_attn.{name}.weight": (height, _HIDDEN) for name, height in rows.items()}
    return {**found, f"self_attn.{output}.weight": (_HIDDEN, 4 * head)}


def _experts(config: Mapping[str, Any], base: str, names: tuple[str, str, str]) -> Shapes:
    found: Shapes = {}
    for expert in range(config["num_experts"]):
        found |= _feed_forward(f"{base}.experts.{expert}", names, config["moe_intermediate_size"])
    return found


def _qwen(config: Mapping[str, Any], layer: int) -> Shapes:
    found: Shapes = dict.fromkeys(("input_layernorm.weight", "post_attention_layernorm.weight"), (_HIDDEN,))
    if not _recurrent(config, layer):
        found |= {**_attention(32, queries=2), "self_attn.q_norm.weight": (32,), "self_attn.k_norm.weight": (32,)}
    else:
        rows: dict[str, int] = {"in_proj_qkv": 128, "in_proj_z": 64, "in_proj_a": 4, "in_proj_b": 4}
        if config["model_type"] == "qwen3_next":
            rows = {"in_proj_qkvz": 192, "in_proj_ba": 8}
        found |= {f"linear_attn.{name}.weight": (height, _HIDDEN) for name, height in rows.items()}
        found |= {"linear_attn.A_log": (4,), "linear_attn.dt_bias": (4,), "linear_attn.norm.weight": (16,)}
        found |= {"linear_attn.conv1d.weight": (128, 1, 4), "linear_attn.out_proj.weight": (_HIDDEN, 64)}
    if "num_experts" not in config:
        return found | _feed_forward("mlp", ("gate_proj", "down_proj", "up_proj"), 96)
    found |= _experts(config, "mlp", ("gate_proj", "down_proj", "up_proj"))
    found |= _feed_forward("mlp.shared_expert", ("gate_proj", "down_proj", "up_proj"), 48)
    return found | {"mlp.gate.weight": (4, _HIDDEN), "mlp.shared_expert_gate.weight": (1, _HIDDEN)}


def _feed_forward(base: str, names: tuple[str, str, str], width: int) -> Shapes:
    """Return gate, down and up."""
    parts = ((width, _HIDDEN), (_HIDDEN, width), (width, _HIDDEN))
    return {f"{base}.{name}.weight": shape for name, shape in zip(names, parts, strict=True)}


def _lfm2(config: Mapping[str, Any], layer: int) -> Shapes:
    found: Shapes = {"operator_norm.weight": (_HIDDEN,), "ffn_norm.weight": (_HIDDEN,)}
    if _recurrent(config, layer):
        found |= {"conv.conv.weight": (_HIDDEN, 1, 3), "conv.in_proj.weight": (3 * _HIDDEN, _HIDDEN)}
        found["conv.out_proj.weight"] = (_HIDDEN, _HIDDEN)
    else:
        found |= {**_attention(16, "out_proj"), "self_attn.q_layernorm.weight": (16,)}
        found["self_attn.k_layernorm.weight"] = (16,)
    if layer < config["num_dense_layers"]:
        return found | _feed_forward("feed_forward", ("w1", "w2", "w3"), 96)
    found |= _experts(config, "feed_forward", ("w1", "w2", "w3"))
    return found | {"feed_forward.gate.weight": (4, _HIDDEN), "feed_forward.expert_bias": (4,)}


def _granite(config: Mapping[str, Any], layer: int) -> Shapes:
    found: Shapes = dict.fromkeys(("input_layernorm.weight", "post_attention_layernorm.weight"), (_HIDDEN,))
    keys = config["mamba_n_groups"] * config["mamba_d_state"]
    if _recurrent(config, layer):
        found |= {"mamba.in_proj.weight": (264 + 2 * keys, _HIDDEN), "mamba.out_proj.weight": (_HIDDEN, 128)}
        found |= {"mamba.conv1d.weight": (128 + 2 * keys, 1, 4), "mamba.conv1d.bias": (128 + 2 * keys,)}
        found |= {"mamba.A_log": (8,), "mamba.D": (8,), "mamba.dt_bias": (8,), "mamba.norm.weight": (128,)}
    else:
        found |= _attention(16)
    shared, experts = config["shared_intermediate_size"], config["num_local_experts"]
    found["shared_mlp.input_linear.weight"] = (2 * shared, _HIDDEN)
    found["shared_mlp.output_linear.weight"] = (_HIDDEN, shared)
    if experts:
        width = config["intermediate_size"]
        found["block_sparse_moe.input_linear.weight"] = (experts, 2 * width, _HIDDEN)
        found["block_sparse_moe.output_linear.weight"] = (experts, _HIDDEN, width)
        found["block_sparse_moe.router.layer.weight"] = (experts, _HIDDEN)
    return found


def weights(kind: str) -> dict[str, npt.NDArray[np.float32]]:
    """Return tensors by name, each of numbers that its name seeds: states neither stay nor are gone at once."""
    found = {}
    for name, shape in shapes(kind).items():
        random = np.random.default_rng(zlib.crc32(name.encode()))
        values = random.normal(0, 0.2 if len(shape) > 1 else 0.3, shape)
        if name.endswith("A_log"):
            values = np.log(random.uniform(0.1, 1.5, shape))
        elif "norm" in name and (kind.startswith(("granite", "lfm2")) or name.endswith("linear_attn.norm.weight")):
            values += 1
        found[name] = values.astype(np.float32)
    return found


def write_folder(path: Path, kind: str, changes: Mapping[str, Any] | None = None) -> Path:
    """Write config.json, with changes, and the weights."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps({**CONFIGS[kind], **(changes or {})}))
    save_file(weights(kind), path / "model.safetensors", {"format": "pt"})
    return path


@click.command()
@click.argument("output", type=click.Path(path_type=Path))
def main(output: Path) -> None:
    """Write what `transformers` makes of each folder: float32[vocabulary] of the last token, by kind."""
    import torch  # type: ignore[import-not-found]  # noqa: PLC0415 - needed here alone
    from transformers import AutoModelForCausalLM  # type: ignore[import-not-found]  # noqa: PLC0415

    found = {}
    for kind in CONFIGS:
        with tempfile.TemporaryDirectory() as folder:
            path = write_folder(Path(folder), kind)
            model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")
        with torch.no_grad():
            logits = model.eval()(torch.tensor([IDS])).logits[0, -1]
        found[kind] = logits.numpy()
        click.echo(f"{kind}: {float(logits.std()):.3f}")
    np.savez_compressed(output, **found)


if __name__ == "__main__":
    main()
