"""A small Gemma 3n with random weights, of as many layers as llama.cpp needs to have some share keys.

python -m rocmforge.tools.generate.gemma3n_model gemma3n.gguf
"""

from __future__ import annotations

import math
from pathlib import Path

import click
import gguf
import numpy as np

from rocmforge.tools.generate.architecture_models import add_tokens
from rocmforge.tools.generate.gguf_writing import finish

# llama.cpp knows no other: 4 streams, Laurel's rank 64, 256 elements for each layer, 20 layers with keys of their own.
LAYERS, SHARED, STREAMS, RANK, PER_LAYER = 22, 2, 4, 64, 256
HIDDEN, INNER, HEADS, KV_HEADS, HEAD, VOCABULARY, WINDOW = 64, 96, 4, 2, 16, 96, 8
SPARSE = 10


def write_gemma3n(path: Path, seed: int = 0) -> Path:
    """Write the model, the same bytes for the same seed; return `path`."""
    random, writer = np.random.default_rng(seed), gguf.GGUFWriter(path, "gemma3n")
    _add_keys(writer)
    add_tokens(writer, VOCABULARY)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd": (VOCABULARY, HIDDEN),
        "output_norm": (HIDDEN,),
        "altup_proj": (STREAMS - 1, HIDDEN, HIDDEN),
        "altup_unembd_proj": (STREAMS - 1, HIDDEN, HIDDEN),
        "per_layer_token_embd": (VOCABULARY, PER_LAYER * LAYERS),
        "per_layer_model_proj": (PER_LAYER * LAYERS, HIDDEN),
        "per_layer_proj_norm": (PER_LAYER,),
    }
    for layer in range(LAYERS):
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in _layer_shapes().items()}
    for name, shape in shapes.items():
        if len(shape) > 1:  # streams are mixed by little, so that they do not grow
            values = random.normal(0, 0.1 if "coef" in name else 1.5 * shape[-1] ** -0.5, shape)
            values *= HIDDEN if name.endswith("altup_router") else 1  # whose inputs are divided by that
        else:  # queries small, as trained ones are; and layers, that rounding does not grow from one to the next
            size = 0.4 if "attn_q_norm" in name else 0.2 if "post_" in name else 3 if name == "output_norm" else 1
            values = random.uniform(0.6, 1.6, shape) * size
        writer.add_tensor(f"{name}.weight", values.astype(np.float32))
    finish(writer)
    return path


def _add_keys(writer: gguf.GGUFWriter) -> None:
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    writer.add_sliding_window(WINDOW)
    writer.add_sliding_window_pattern([layer % 5 != 4 for layer in range(LAYERS)])
    writer.add_altup_active_idx(0)
    writer.add_altup_num_inputs(STREAMS)
    writer.add_embedding_length_per_layer_input(PER_LAYER)
    writer.add_shared_kv_layers(SHARED)
    writer.add_activation_sparsity_scale([1.6448533535 if layer < SPARSE else -math.inf for layer in range(LAYERS)])


def _layer_shapes() -> dict[str, tuple[int, ...]]:
    """Return the shape of a layer's tensors by name; those that share keys have such too, which nobody reads."""
    norms = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm", "post_norm", "laurel_post_norm")
    return {
        **dict.fromkeys((*norms, "altup_router_norm", "altup_correct_scale"), (HIDDEN,)),
        "attn_q": (HEADS * HEAD, HIDDEN),
        "attn_k": (KV_HEADS * HEAD, HIDDEN),
        "attn_v": (KV_HEADS * HEAD, HIDDEN),
        "attn_q_norm": (HEAD,),
        "attn_k_norm": (HEAD,),
        "attn_output": (HIDDEN, HEADS * HEAD),
        "ffn_gate": (INNER, HIDDEN),
        "ffn_up": (INNER, HIDDEN),
        "ffn_down": (HIDDEN, INNER),
        "inp_gate": (PER_LAYER, HIDDEN),
        "proj": (HIDDEN, PER_LAYER),
        "altup_correct_coef": (STREAMS, STREAMS),
        "altup_predict_coef": (STREAMS * STREAMS, STREAMS),
        "altup_router": (STREAMS, HIDDEN),
        "laurel_l": (RANK, HIDDEN),
        "laurel_r": (HIDDEN, RANK),
    }


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--seed", default=0, show_default=True)
def main(path: Path, seed: int) -> None:
    """Write a small Gemma 3n to PATH."""
    write_gemma3n(path, seed)


if __name__ == "__main__":
    main()
