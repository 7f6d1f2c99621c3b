"""Models that embed or rank, with random weights and the vocabulary of a published one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import gguf
import numpy as np

from rocmforge.compiler.architectures import ARCHITECTURES
from rocmforge.compiler.model_config import Experts, ModelConfig
from rocmforge.compiler.models.architecture import Architecture
from rocmforge.compiler.position_tables import RopeScaling
from rocmforge.tools.generate.gguf_writing import finish

MEAN, CLS, LAST, RANK = 1, 2, 3, 4  # GGUF's numbers
_CONFIG = ModelConfig(
    architecture="bert",
    name="embedding oracle",
    hidden_size=128,
    intermediate_size=256,
    num_layers=7,
    num_heads=4,
    num_kv_heads=4,
    head_dim=32,
    vocab_size=0,
    max_seq_len=512,
    rope_theta=10000.0,
    norm_epsilon=1e-5,
    rope_style="half",
    rope_dim=32,
    rope_scaling=RopeScaling(),
    tie_word_embeddings=True,
)


_EXPERTS = Experts(
    used=2,
    intermediate_size=256,
    shared_size=0,
    scoring="softmax",
    normalise=False,
    scale=1.0,
    groups=1,
    groups_used=1,
)


@dataclass(frozen=True, slots=True)
class Case:
    """A model.

    Attributes:
        architecture: a row of `ARCHITECTURES`.
        vocabulary: `ggml-vocab-<this>.gguf` of llama.cpp's sources.
        pooling: GGUF's number.
        fused: queries, keys and values lie in one tensor, gate and up too: llama.cpp asks for that here.
        biases: of all products and norms.
        further: shapes of further tensors.
        activation: that the file says.
    """

    architecture: str
    vocabulary: str
    pooling: int
    fused: bool = False
    biases: bool = False
    further: Mapping[str, tuple[int, ...]] | None = None
    activation: str = ""


_CLASSIFIER = {"cls.weight": (128, 128), "cls.bias": (128,), "cls.output.weight": (1, 128), "cls.output.bias": (1,)}
CASES = (
    Case("bert", "bert-bge", CLS, biases=True),
    Case("bert", "bert-bge", MEAN, biases=True),
    Case("bert", "bert-bge", RANK, biases=True, further=_CLASSIFIER),
    Case("nomic-bert", "bert-bge", MEAN),
    Case("nomic-bert-moe", "nomic-bert-moe", MEAN, biases=True),
    Case("jina-bert-v2", "gpt-2", MEAN, biases=True),
    Case("jina-bert-v3", "nomic-bert-moe", MEAN, biases=True),
    Case("neo-bert", "bert-bge", CLS, fused=True),
    Case("modern-bert", "gpt-2", CLS, fused=True),
    Case("modern-bert", "gpt-2", CLS, fused=True, activation="silu"),
    Case("eurobert", "llama-bpe", MEAN),
    Case("llama-embed", "llama-bpe", MEAN),
    Case("gemma-embedding", "llama-spm", MEAN),
    Case("qwen3", "qwen2", LAST),
    Case("qwen3", "qwen2", RANK, further={"cls.output.weight": (2, 128)}),
)


def write_case(path: Path, case: Case, vocabularies: Path, seed: int) -> None:
    """Write a model, the same bytes for the same arguments."""
    row = ARCHITECTURES[case.architecture]
    writer = gguf.GGUFWriter(path, case.architecture)
    tokens = _copy_vocabulary(writer, vocabularies / f"ggml-vocab-{case.vocabulary}.gguf")
    config = replace(_CONFIG, architecture=case.architecture, vocab_size=tokens)
    if case.architecture == "nomic-bert-moe":
        config = replace(config, num_experts=8, experts=_EXPERTS, by_layer={"num_experts": (0, 8, 0, 8, 0, 8, 0)})
    _add_keys(writer, row, config, case)
    random = np.random.default_rng(seed)
    for name, shape in _shapes(row, config, case).items():
        if len(shape) > 1:
            deviation = 1.0 if "embd" in name or "token_types" in name else 1.5 * shape[-1] ** -0.5
            values = random.normal(0, deviation, shape)
        else:
            values = random.normal(0, 0.2, shape) + (0.0 if name.endswith(".bias") else 1.0)
        writer.add_tensor(name, values.astype(np.float32))
    finish(writer)


def _copy_vocabulary(writer: gguf.GGUFWriter, path: Path) -> int:
    """Copy the keys of a tokenizer; returns how many tokens it has."""
    count = 0
    for name, one in gguf.GGUFReader(path).fields.items():
        if name.startswith("tokenizer.") and name != gguf.Keys.Tokenizer.TOKEN_TYPE_COUNT:
            value, kind = one.contents(), one.types[0]
            writer.add_key_value(name, value, kind, one.types[-1] if kind is gguf.GGUFValueType.ARRAY else None)
            count = len(value) if name == "tokenizer.ggml.tokens" else count
    writer.add_token_type_count(2)
    return count


def _add_keys(writer: gguf.GGUFWriter, row: Architecture, config: ModelConfig, case: Case) -> None:
    numbers = {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_layers": config.num_layers,
        "num_heads": config.num_heads,
        "num_kv_heads": config.num_kv_heads,
        "key_length": config.head_dim,
        "value_length": config.head_dim,
        "max_seq_len": config.max_seq_len,
        "rope_dim": config.rope_dim,
        "window": 8,
    }
    for name, number in numbers.items():
        if name in row.keys:
            writer.add_uint32(row.key(name), number)
    for name, real in {"norm_epsilon": 1e-5, "rope_theta": 1e4, "rope_theta_windowed": 500.0}.items():
        if name in row.keys:
            writer.add_float32(row.key(name), real)
    if config.experts is not None:
        of_experts = {"expert_count": 8, "expert_used_count": 2, "moe_every_n_layers": 2}
        for key, number in of_experts.items():
            writer.add_uint32(f"{row.name}.{key}", number)
    if case.activation:
        writer.add_string(f"{row.name}.hidden_activation", case.activation)
    writer.add_uint32(f"{row.name}.pooling_type", case.pooling)
    writer.add_bool(f"{row.name}.attention.causal", row.name == "qwen3")
    if case.further and case.further["cls.output.weight"][0] > 1:
        writer.add_array(f"{row.name}.classifier.output_labels", ["yes", "no"])


def _shapes(row: Architecture, config: ModelConfig, case: Case) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor by its name."""
    found: dict[str, tuple[int, ...]] = {}
    for layer in range(config.num_layers):
        shapes = dict(row.shapes(config, config.layer(layer)))
        for base, parts in row.fused.items() if case.fused else ():
            rows = sum(shapes.pop(part)[0] for part in parts)
            found[f"{base.replace('{layer}', str(layer))}.weight"] = (rows, config.hidden_size)
        for role, shape in shapes.items():
            if role not in row.tensors or role in ("output", "attention_norm_2") or "rope_factors" in role:
                continue
            name = row.tensor_name(role, layer)
            if case.architecture == "modern-bert" and name == "blk.0.attn_norm.weight":
                continue
            found[name] = (2, *shape) if row.forms.get(role) == "first_row" else shape
            without = role in ("token_embedding", "position_embedding", "token_type", "ffn_gate") or "expert" in role
            if (case.biases and not without) or _needs_bias(row, role):
                found[name.replace(".weight", ".bias")] = shape[:1]
    return {**found, **(case.further or {})}


def _needs_bias(row: Architecture, role: str) -> bool:
    """Return whether llama.cpp takes no such norm without a bias."""
    return "token_type" in row.tensors and "norm" in role
