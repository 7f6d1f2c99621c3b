"""Folders of Hugging Face's, written by hand from a GGUF fixture: the other form of the same weights."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from rocmforge.compiler.gguf_reader import read_gguf
from rocmforge.compiler.tokenizer import build_tokenizer

# Middles of GGUF's names to Hugging Face's, as everybody's llama has them.
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTER_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
Stored = Mapping[str, tuple[str, tuple[int, ...], bytes]]


def folder_name(name: str) -> str:
    """Return what Hugging Face calls a tensor of GGUF's."""
    *layer, middle, ending = name.split(".")
    if layer:
        return f"model.layers.{layer[1]}.{LAYER_NAMES[middle]}.{ending}"
    return f"{OUTER_NAMES[middle]}.{ending}"


def write_safetensors(path: Path, tensors: Stored, header: Mapping[str, object] | None = None) -> Path:
    """Write a file of (type, shape, bytes) by name; `header` says something else than is true of them."""
    entries: dict[str, object] = {}
    offset = 0
    for name, (dtype, shape, data) in tensors.items():
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(entries if header is None else header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in tensors.values()))
    return path


def halves(rows: np.ndarray, heads: int) -> np.ndarray:
    """Undo what a llama's GGUF does to rows of queries and keys: from pairs (2i, 2i+1) to (i, i + size/2)."""
    size = rows.shape[0] // heads
    found = np.empty_like(rows)
    for head in range(heads):
        for i in range(size // 2):
            for half in range(2):
                found[head * size + half * (size // 2) + i] = rows[head * size + 2 * i + half]
    return found


def stored_tensors(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Return the tensors of a GGUF of floats by Hugging Face's names."""
    reader, config = gguf.GGUFReader(path), folder_config(path)
    tensors = {}
    for tensor in reader.tensors:
        shape = tuple(int(n) for n in reversed(tensor.shape))
        raw = np.frombuffer(tensor.data.tobytes(), np.uint8).reshape(shape[0], -1)
        middle = tensor.name.rsplit(".", 2)[-2]
        if config["model_type"] == "llama" and middle in ("attn_q", "attn_k"):
            raw = halves(raw, config["num_attention_heads" if middle == "attn_q" else "num_key_value_heads"])
        if tensor.name != "rope_freqs.weight":
            tensors[folder_name(tensor.name)] = (tensor.tensor_type.name, shape, raw.tobytes())
    return tensors


def folder_config(path: Path) -> dict[str, Any]:
    """Return config.json of a GGUF fixture."""
    metadata = read_gguf(path).metadata
    architecture = metadata["general.architecture"]

    def key(name: str) -> object:
        return metadata[f"{architecture}.{name}"]

    heads = int(str(key("attention.head_count")))
    config = {
        "architectures": ["TestForCausalLM"],
        "model_type": architecture,
        "hidden_size": key("embedding_length"),
        "intermediate_size": key("feed_forward_length"),
        "num_hidden_layers": key("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": key("attention.head_count_kv"),
        "head_dim": key("rope.dimension_count"),
        "max_position_embeddings": key("context_length"),
        "rms_norm_eps": key("attention.layer_norm_rms_epsilon"),
        "rope_theta": key("rope.freq_base"),
        "hidden_act": "silu",
        "tie_word_embeddings": "output.weight" not in read_gguf(path).tensors,
        "torch_dtype": "float32",
    }
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in config.items()}


def write_folder(path: Path, model: Path, files: int = 1) -> Path:
    """Write a GGUF fixture of floats as a folder, its weights in one file or in several."""
    path.mkdir(parents=True, exist_ok=True)
    metadata = read_gguf(model).metadata
    (path / "config.json").write_text(json.dumps(folder_config(model)))
    tokenizer = build_tokenizer(metadata, model)
    (path / "tokenizer.json").write_text(tokenizer.json)
    tokens = metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, tuple)
    settings = {
        f"{name}_token": tokens[int(str(metadata[f"tokenizer.ggml.{name}_token_id"]))] for name in ("bos", "eos")
    }
    (path / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": tokenizer.chat_template}))
    write_weights(path, stored_tensors(model), files)
    return path


def write_weights(path: Path, tensors: Stored, files: int = 1) -> None:
    """Write the weights of a folder."""
    if files == 1:
        write_safetensors(path / "model.safetensors", tensors)
        return
    placed: dict[str, str] = {}
    for number in range(files):
        name = f"model-{number + 1:05d}-of-{files:05d}.safetensors"
        part = dict(list(tensors.items())[number::files])
        write_safetensors(path / name, part)
        placed |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": 0}, "weight_map": placed}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
