"""A small model of each architecture that compiles, with random weights: every tensor that its row knows.

python -m rocmforge.tools.generate.architecture_models phi2 phi2.gguf [--whole]
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import click
import gguf
import numpy as np
import numpy.typing as npt

from rocmforge.compiler.architectures import ARCHITECTURES
from rocmforge.compiler.model_config import ModelConfig
from rocmforge.compiler.models.architecture import MADE, Architecture
from rocmforge.compiler.position_tables import RopeScaling
from rocmforge.tools.generate import latent_models as latent
from rocmforge.tools.generate.expert_models import (
    CHOICE_BIASED,
    DENSE_TOO,
    SHARED_GATED,
    add_expert_keys,
    with_experts,
)
from rocmforge.tools.generate.gguf_writing import finish
from rocmforge.tools.generate.recurrent_models import (
    WITH_SECTIONS,
    add_recurrence_keys,
    is_biased,
    numbers_by_layer,
    recurrence_values,
    stored_shapes,
    with_recurrence,
)

WINDOW = 8
_SIZES = ModelConfig(
    architecture="llama",
    name="architecture",
    hidden_size=64,
    intermediate_size=96,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    vocab_size=96,
    max_seq_len=64,
    rope_theta=10000.0,
    norm_epsilon=1e-5,
    rope_style="half",
    rope_dim=16,
    rope_scaling=RopeScaling("factors"),
    tie_word_embeddings=False,
)
_NUMBERS: Mapping[str, float] = {
    "norm_epsilon": 1e-5,
    "rope_theta": 10000.0,
    "attention_scale": 0.2,
    "attention_softcap": 20.0,
    "embedding_scale": 3.0,
    "logit_scale": 0.5,
    "logit_softcap": 15.0,
    "max_alibi_bias": 8.0,
    "qkv_clamp": 1.5,
    "residual_scale": 0.7,
    "rope_theta_windowed": 5000.0,
    "temperature_scale": 0.1,
}
"""What is not a size."""
_ROPE_FACTORS = ("rope_factors", "rope_factors_long", "rope_factors_short")
_LAYERS = {"baichuan": 40, "exaone4": 64, "hrm_text": 2, "smallthinker": 5}
"""How many a model has where four do not show what is special."""
_HIGH, _LOW = 2, 2  # cycles of HRM


_INDEXED = ("deepseek32", "glm-dsa", "minimax-m3")
"""Models with an indexer, which chooses all positions here."""

# What published files have, and llama.cpp asks for, in a model that is not `whole`.
_FUSED = {
    "attn_qkv": (
        "bloom",
        "cogvlm",
        "falcon",
        "gpt2",
        "gptneox",
        "jais",
        "mpt",
        "openelm",
        "plamo2",
        "plamo3",
        "qwen",
        "starcoder",
    ),
    "attn_q": latent.NAMES,
    "attn_q_b": latent.NAMES,
    "attn_kv_a_mqa": latent.NAMES,
    "ffn_up": ("chatglm", "glm4", "phi3", "plamo2", "plamo3"),
    "ffn_gate_up_exps": (),
}
_BIASED = (
    "bloom",
    "codeshell",
    "gpt2",
    "gptneox",
    "jais",
    "jais2",
    "mpt",
    "nemotron",
    "phi2",
    "starcoder",
    "starcoder2",
)
_BIASED_NORMS = ("falcon", "orion", "pockettts", "stablelm")
_TIED = ("cohere2", "gemma", "gemma2", "openelm", "pockettts")
_KINDS = {
    str: gguf.GGUFValueType.STRING,
    bool: gguf.GGUFValueType.BOOL,
    int: gguf.GGUFValueType.UINT32,
    float: gguf.GGUFValueType.FLOAT32,
}


def write_architecture(
    path: Path,
    name: str,
    whole: bool = False,
    seed: int = 0,
    num_layers: int | None = None,
    keys: Mapping[str, str | bool | int | float] | None = None,
    tensors: Mapping[str, tuple[int, ...] | None] | None = None,
    experts: bool = False,
    sizes: Mapping[str, int] | None = None,
) -> Path:
    """Write a model of an architecture, the same bytes for the same arguments.

    Args:
        path: where to.
        name: one of `ARCHITECTURES`.
        whole: fused tensors stand for several, each tensor has a bias, and each matrix a scale.
        seed: of all weights.
        num_layers: default: as many as show what the architecture has.
        keys: see `architecture_cases.Case`, as `tensors` and `experts`.
        sizes: fields of `ModelConfig` that are not as usual.

    Returns:
        `path`.
    """
    row, random = ARCHITECTURES[name], np.random.default_rng(seed)
    usual = {"architecture": name, "num_layers": num_layers or _LAYERS.get(name, 4)}
    config = replace(_SIZES, **{**usual, **(sizes or {})})  # type: ignore[arg-type]
    if name == "mpt":
        config = replace(config, num_kv_heads=config.num_heads)  # its norms know no groups
    if name == "arctic":
        config = replace(config, intermediate_size=config.hidden_size)
    if row.mixture is not None and (experts or name not in DENSE_TOO):
        config = with_experts(config)
    if name in latent.NAMES:
        config = latent.sized(config, keys or {})
    config = with_recurrence(row, config)
    writer = gguf.GGUFWriter(path, name)
    _add_keys(writer, row, config)
    keys = {**latent.keys(config, keys or {}), **(keys or {})} if config.kv_rank else keys or {}
    for key, value in keys.items():
        writer.add_key_value(f"{name}.{key}", value, _KINDS[type(value)])
    add_tokens(writer, config.vocab_size)
    shapes = stored_shapes(row, config, _tensors(row, config, whole, latent.is_expanded(name, keys)))
    for tensor, shape in {**shapes, **(tensors or {})}.items():
        if shape is not None:
            values = recurrence_values(random, tensor, shape) if row.mixer is not None else None
            writer.add_tensor(tensor, _values(random, tensor, shape) if values is None else values)
    finish(writer)
    return path


def _add_keys(writer: gguf.GGUFWriter, row: Architecture, config: ModelConfig) -> None:
    sizes = {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size * (2 if row.name == "qwen" else 1),
        "num_layers": config.num_layers,
        "num_heads": config.num_heads,
        "num_kv_heads": config.num_kv_heads,
        "key_length": config.head_dim,
        "value_length": config.value_dim or config.head_dim,
        "kv_rank": config.kv_rank,
        "query_rank": config.query_rank,
        "max_seq_len": config.max_seq_len,
        "rope_dim": config.rope_dim,
        "window": WINDOW,
        "stack": config.num_layers // 2,
        "high_cycles": _HIGH,
        "low_cycles": _LOW,
    }
    if row.name == "hrm_text":
        sizes["num_layers"] *= _HIGH * (_LOW + 1) // 2
    for hyperparameter, value in sizes.items():
        of_latent = config.kv_rank and hyperparameter in latent.HYPERPARAMETERS
        if hyperparameter in row.keys and not of_latent and hyperparameter not in numbers_by_layer(row, config):
            writer.add_uint32(row.key(hyperparameter), value)
    for hyperparameter, number in _NUMBERS.items():
        if hyperparameter in row.keys:
            writer.add_float32(row.key(hyperparameter), number)
    if row.name in ("paddleocr", "qwen2vl", *WITH_SECTIONS, "qwen3tts", "qwen3vl"):
        writer.add_array(f"{row.name}.rope.dimension_sections", [3, 3, 2, 0])
    if row.name in _INDEXED:
        writer.add_uint32(f"{row.name}.attention.indexer.top_k", config.max_seq_len)
    if row.name == "apertus":
        for key, first in (("alpha_n", 0.6), ("alpha_p", 0.9), ("beta", 0.5), ("eps", -1e-6)):
            writer.add_array(f"xielu.{key}", [first * (1 + 0.25 * layer) for layer in range(config.num_layers)])
    add_recurrence_keys(writer, row, config)
    if config.experts is not None:
        add_expert_keys(writer, row, config.experts, config.num_layers)
    if "parallel" in row.keys:
        writer.add_bool(row.key("parallel"), True)
    if row.windows is not None and not row.windows.pattern:
        writer.add_array(row.key("window_pattern"), [number % 2 == 1 for number in range(config.num_layers)])


def add_tokens(writer: gguf.GGUFWriter, size: int) -> None:
    """Add a vocabulary of so many tokens, each a character but the last."""
    first = (32, 0x4E00)  # ideographs, where letters do not suffice
    tokens = ["Ġ", *(chr(first[index >= 224] + index) for index in range(1, size - 1)), "ab"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * size)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def _tensors(row: Architecture, config: ModelConfig, whole: bool, expanded: bool) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor by its name; `expanded`: latent attention's weights are not absorbed."""
    found: dict[str, tuple[int, ...]] = {}
    for layer in range(config.num_layers):
        shapes = row.shapes(config, config.layer(layer))
        left_out = _left_out(row.name)
        known = [role for role in row.tensors if role in shapes and row.forms.get(role) not in MADE]
        roles = {role: row.tensor_name(role, layer) for role in known if role not in left_out}
        sizes = {name: shapes[role] for role, name in roles.items()}
        sizes |= {roles[role]: (config.hidden_size,) for role in ("shared_gate",) if role in roles}
        for role in (one for one, form in row.forms.items() if form == "repeated"):  # once for a head
            rows, *columns = shapes[role]
            sizes[roles[role]] = (rows // config.head_dim, *(columns or [1]))
        if row.name in ("plamo2", "stablelm"):
            for role in (one for one in ("attention_q_norm", "attention_k_norm") if one in roles):
                sizes[roles[role]] = (shapes[role][0] // config.head_dim, config.head_dim)
        for base, parts in row.fused.items():
            if not whole and row.name not in _FUSED[base.rsplit(".", 1)[-1]]:
                continue
            if parts[0] not in roles or base.endswith("attn_q" if config.query_rank else "attn_q_b"):
                continue
            for part in set(parts) & set(roles):
                sizes.pop(roles[part], None)
            name = base.replace("{layer}", str(layer))
            first = shapes[parts[0]]
            sizes[f"{name}.weight"] = (*first[:-2], sum(shapes[part][-2] for part in parts), first[-1])
        sizes = latent.tensors(config, layer, sizes, expanded) if config.kv_rank else sizes
        for name, shape in sizes.items():
            found[name] = shape
            if not name.endswith(".weight") or "attn_kv_b" in name or _stands_alone(row, name, layer):
                continue
            if (whole and "gate_up_exps" not in name) or _is_biased(row.name, name):
                bias = (math.prod(shape),) if "norm" in name else shape[:-1]
                found[name.replace(".weight", ".bias")] = bias
            if whole and len(shape) > 1 and "norm" not in name:
                found[name.replace(".weight", ".scale")] = shape[:1] if len(shape) == 3 else (1,)
    return found


def _left_out(architecture: str) -> set[str]:
    """Return the roles that a row knows and its published files lack."""
    found = {"output"} if architecture in _TIED else set()
    found |= set() if architecture in CHOICE_BIASED else {"expert_choice_bias"}
    return found | (set() if architecture in SHARED_GATED else {"shared_gate"})


def _is_biased(architecture: str, name: str) -> bool:
    """Return whether a tensor has a bias in published files."""
    if name == "output.weight":
        return architecture in ("phi2", "phimoe")
    if architecture == "gpt-oss":
        return "norm" not in name and "gate_up_exps" not in name
    if ".ssm_" in name:
        return is_biased(architecture, name)
    if architecture == "phimoe":
        return "exps" not in name and "gate_inp" not in name
    return architecture in _BIASED or (
        architecture in _BIASED_NORMS and "norm" in name and "attn_q" not in name and "attn_k" not in name
    )


def _stands_alone(row: Architecture, name: str, layer: int) -> bool:
    """Return whether a tensor has no bias: it is none of a norm or a product."""
    roles = (
        "token_embedding",
        "position_embedding",
        "embedding_skip",
        "attention_sinks",
        "shared_gate",
        *row.forms,
        *("ssm_norm", "ssm_step_norm", "ssm_b_norm", "ssm_c_norm"),
        *_ROPE_FACTORS,
    )
    return name in {row.tensor_name(role, layer) for role in roles if role in row.tensors}


def _values(random: np.random.Generator, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Return numbers by which activations neither fade nor grow."""
    if len(shape) > 1 and "norm" not in name and not name.endswith(".bias"):
        deviation = 0.5 if "embd" in name else 1.2 * shape[-1] ** -0.5
        if "gate_inp" in name:
            deviation *= 2  # a router that chooses
        if "attn_q" in name or "attn_k" in name:
            deviation *= 2  # attention that chooses: its logits hang on positions
        return random.normal(0, deviation, shape).astype(np.float32)
    if name.endswith((".bias", "exp_probs_b", "inp_shexp.weight")) or "sinks" in name:
        return random.normal(0, 0.3, shape).astype(np.float32)
    return random.uniform(0.6, 1.6, shape).astype(np.float32)  # norms, scales, divisors


@click.command()
@click.argument("name", type=click.Choice(list(ARCHITECTURES)))
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--whole", is_flag=True, help="fused tensors, biases and scales")
@click.option("--seed", default=0, show_default=True)
def main(name: str, path: Path, whole: bool, seed: int) -> None:
    """Write a small model of the architecture NAME to PATH."""
    write_architecture(path, name, whole, seed)


if __name__ == "__main__":
    main()
