"""Low-rank adapters of the small llama of `fixtures`, of llama.cpp's kind and of PEFT's."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file

from rocmforge.tools.generate.gguf_writing import finish

from .hugging_face import folder_name, halves

RANK = 4
Q, DOWN, EMBEDDING = "blk.0.attn_q.weight", "blk.1.ffn_down.weight", "token_embd.weight"
K, UP, OUT, HEAD = "blk.0.attn_k.weight", "blk.0.ffn_up.weight", "blk.1.attn_output.weight", "output.weight"
SHAPES = {
    **{Q: (64, 64), DOWN: (64, 128), EMBEDDING: (320, 64)},
    **{K: (32, 64), UP: (128, 64), OUT: (64, 64), HEAD: (320, 64)},
}
Pairs = dict[str, tuple[np.ndarray, np.ndarray]]


def pairs(seed: int = 0, names: tuple[str, ...] = (Q, DOWN), rank: int = RANK, size: float = 0.3) -> Pairs:
    """A, float32[rank, columns], and B, float32[rows, rank], by GGUF's name of the tensor."""
    random = np.random.default_rng(seed)
    return {
        name: (
            random.normal(0, size, (rank, SHAPES[name][1])).astype(np.float32),
            random.normal(0, size, (SHAPES[name][0], rank)).astype(np.float32),
        )
        for name in names
    }


def write_gguf_adapter(
    path: Path, adapter: Pairs, alpha: float | None = 8.0, alora: tuple[int, ...] = (), **texts: str
) -> Path:
    writer = gguf.GGUFWriter(path, texts.get("architecture", "llama"))
    writer.add_type(texts.get("kind", "adapter"))
    writer.add_string("adapter.type", texts.get("kind_of", "lora"))
    if alpha is not None:
        writer.add_float32("adapter.lora.alpha", alpha)
    if alora:
        writer.add_array("adapter.alora.invocation_tokens", alora)
    for name, (a, b) in adapter.items():
        turned = name == EMBEDDING
        writer.add_tensor(f"{name}.lora_a", np.ascontiguousarray(b if turned else a))
        writer.add_tensor(f"{name}.lora_b", np.ascontiguousarray((a.T if turned else b).astype(np.float16)))
    finish(writer)
    return path


PEFT = {"peft_type": "LORA", "r": RANK, "lora_alpha": 8, "bias": "none", "use_dora": False, "alpha_pattern": {}}


def write_peft_adapter(folder: Path, adapter: Pairs, **changes: object) -> Path:
    """The same adapter, its rows of queries in the folder's order."""
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(PEFT | changes))
    tensors: dict[str, np.ndarray] = {}
    for name, (a, b) in adapter.items():
        base = "base_model.model." + folder_name(name).removesuffix(".weight")
        if name == EMBEDDING:
            tensors |= {f"{base}.lora_embedding_A": b.T.copy(), f"{base}.lora_embedding_B": a.T.copy()}
        else:
            rows = halves(b, 4) if name == Q else b
            tensors |= {f"{base}.lora_A.weight": a, f"{base}.lora_B.weight": rows}
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder
