"""A small Gemma 4 with random weights, in which all that sets the family apart shows.

python -m rocmforge.tools.generate.gemma4_model gemma4.gguf
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click
import gguf
import numpy as np

from rocmforge.tools.generate.architecture_models import add_tokens
from rocmforge.tools.generate.gguf_writing import finish

LAYERS, SHARED, HIDDEN, HEADS, PER_LAYER, VOCABULARY = 7, 3, 64, 4, 32, 96
WINDOWED = (True, False, True, False, True, True, False)
"""Heads are of 32 elements in layers that see all, else of 16, with one head of keys or two."""


EXPERTS = 8
_OF_EXPERTS: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(("ffn_gate_inp.scale", "post_ffw_norm_1", "pre_ffw_norm_2", "post_ffw_norm_2"), (HIDDEN,)),
    "ffn_gate_inp": (EXPERTS, HIDDEN),
    "ffn_gate_up_exps": (EXPERTS, 64, HIDDEN),
    "ffn_down_exps": (EXPERTS, HIDDEN, 32),
    "ffn_down_exps.scale": (EXPERTS,),
}


def write_gemma4(path: Path, seed: int = 0, experts: bool = False) -> Path:
    """Write the model, with `experts` in all layers or none, the same bytes for the same seed; return `path`."""
    random, writer = np.random.default_rng(seed), gguf.GGUFWriter(path, "gemma4")
    _add_keys(writer)
    if experts:
        for name, number in (("count", EXPERTS), ("used_count", 2), ("feed_forward_length", 32)):
            writer.add_uint32(f"gemma4.expert_{name}", number)
    add_tokens(writer, VOCABULARY)
    shapes = {
        "token_embd": (VOCABULARY, HIDDEN),
        "output_norm": (HIDDEN,),
        "per_layer_token_embd": (VOCABULARY, PER_LAYER * LAYERS),
        "per_layer_model_proj": (PER_LAYER * LAYERS, HIDDEN),
        "per_layer_proj_norm": (PER_LAYER,),
        "rope_freqs": (16,),
    }
    for layer in range(LAYERS):
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in _layer_shapes(layer).items()}
        if experts:
            shapes |= {f"blk.{layer}.{name}": shape for name, shape in _OF_EXPERTS.items()}
    for name, shape in shapes.items():
        if len(shape) > 1:
            values = random.normal(0, 1.5 * shape[-1] ** -0.5, shape)
        else:  # queries small, so that scores are of the size that trained ones are
            values = random.uniform(0.6, 1.6, shape) * (0.4 if "attn_q_norm" in name else 1)
        if name.endswith("inp.scale"):
            values = 4 * values  # a router that chooses
        writer.add_tensor(name if name.endswith(".scale") else f"{name}.weight", values.astype(np.float32))
    finish(writer)
    return path


def _add_keys(writer: gguf.GGUFWriter) -> None:
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length([_inner(layer) for layer in range(LAYERS)])
    writer.add_head_count(HEADS)
    writer.add_head_count_kv([2 if windowed else 1 for windowed in WINDOWED])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    sizes = {
        "attention.key_length": 32,
        "attention.value_length": 32,
        "attention.key_length_swa": 16,
        "attention.value_length_swa": 16,
        "attention.sliding_window": 8,
        "attention.shared_kv_layers": SHARED,
        "rope.dimension_count": 32,
        "rope.dimension_count_swa": 16,
        "embedding_length_per_layer_input": PER_LAYER,
    }
    for name, size in sizes.items():
        writer.add_uint32(f"gemma4.{name}", size)
    writer.add_array("gemma4.attention.sliding_window_pattern", list(WINDOWED))
    writer.add_float32("gemma4.rope.freq_base_swa", 1e4)
    writer.add_float32("gemma4.final_logit_softcapping", 30.0)


def _inner(layer: int) -> int:
    return 96 if layer < LAYERS - SHARED else 192


def _layer_shapes(layer: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of a layer's tensors by name: those that read another's keys have none, nor have values all."""
    head, kv_heads, inner = (16, 2, _inner(layer)) if WINDOWED[layer] else (32, 1, _inner(layer))
    norms = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm", "post_norm")
    found: dict[str, tuple[int, ...]] = {
        **dict.fromkeys(norms, (HIDDEN,)),
        "attn_q": (HEADS * head, HIDDEN),
        "attn_q_norm": (head,),
        "attn_output": (HIDDEN, HEADS * head),
        "ffn_gate": (inner, HIDDEN),
        "ffn_up": (inner, HIDDEN),
        "ffn_down": (HIDDEN, inner),
        "inp_gate": (PER_LAYER, HIDDEN),
        "proj": (HIDDEN, PER_LAYER),
        "layer_output_scale": (1,),
    }
    if layer < LAYERS - SHARED:
        found |= {"attn_k": (kv_heads * head, HIDDEN), "attn_k_norm": (head,)}
        if WINDOWED[layer]:
            found["attn_v"] = (kv_heads * head, HIDDEN)
    return found


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--seed", default=0, show_default=True)
def main(path: Path, seed: int) -> None:
    """Write a small Gemma 4 to PATH."""
    write_gemma4(path, seed)


if __name__ == "__main__":
    main()
