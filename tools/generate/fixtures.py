"""Small GGUF models with random weights, the same bytes for the same arguments.

python -m rocmforge.tools.generate.fixtures tiny.gguf --architecture qwen2 --quantization Q4_K
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import gguf
import numpy as np
from gguf import GGMLQuantizationType as Quant

from rocmforge.tools.generate.gguf_writing import finish

from . import gguf_types  # noqa: F401 - more types
from .random_blocks import FP4_QUANTS, K_QUANTS, SCALED_QUANTS, random_blocks, random_k_quant
from .tokenizer_table.vocabularies import add_pairs

ARCHITECTURES = ("llama", "qwen2", "qwen3")
QUANTIZATIONS = (
    "F32",
    "F16",
    "BF16",
    "Q8_0",
    "Q4_0",
    "Q4_1",
    "Q5_0",
    "Q5_1",
    "Q3_K",
    "Q4_K",
    "Q5_K",
    "Q6_K",
    "Q2_K",
    "IQ4_NL",
    "IQ4_XS",
    "MXFP4",
    "NVFP4",
    "IQ3_XXS",
    "IQ3_S",
    "IQ2_XXS",
    "IQ2_XS",
    "IQ2_S",
    "IQ1_S",
    "IQ1_M",
    "TQ1_0",
    "TQ2_0",
    "Q1_0",
    "Q2_0",
)

CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_WORDS = (
    " the and of to in is that it was for on are as with his they at be this from have or by one had not but "
    "what all were when we there can an your which their said if do will each about how up out them then she "
    "many some so these would other into has more her two like him see time could no make than first been"
)


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a fixture; fields as in `ModelConfig`."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int


def write_model(
    path: Path,
    architecture: str = "llama",
    quantization: str = "Q4_1",
    *,
    hidden_size: int | None = None,
    intermediate_size: int | None = None,
    num_layers: int = 2,
    num_heads: int = 4,
    num_kv_heads: int = 2,
    head_dim: int | None = None,
    vocab_size: int = 320,
    context_length: int = 256,
    seed: int = 0,
    tie: bool = True,
    quantization_output: str | None = None,
    bias: bool | None = None,
    rope_factors: bool = False,
    rope_linear: float | None = None,
    pre: str = "smollm",
    tokenizer: Mapping[str, Any] | None = None,
    types: Mapping[str, str] | None = None,
    pooling: int | None = None,
    further: Mapping[str, tuple[int, ...]] | None = None,
) -> Path:
    """Write a small model.

    Args:
        path: where to.
        architecture: one of `ARCHITECTURES`.
        quantization: type of the matrices, one of `QUANTIZATIONS`.
        hidden_size: default 64, or 256 for types whose rows are multiples of 128 or 256.
        intermediate_size: default 128, or 512 for these.
        num_layers: transformer blocks.
        num_heads: query heads.
        num_kv_heads: key and value heads.
        head_dim: default `hidden_size / num_heads`; written as a key only where given, or for qwen3.
        vocab_size: at least 259: 256 bytes and 3 control tokens; then merges, then unused tokens.
        context_length: in tokens.
        seed: of all weights.
        tie: no output tensor of its own.
        quantization_output: type of the embedding and the output, default `quantization`.
        bias: query, key and value biases; default: as the architecture has them.
        rope_factors: write `rope_freqs.weight`, as Llama 3.1 has it.
        rope_linear: factor of linear rotary scaling.
        pre: `tokenizer.ggml.pre`.
        tokenizer: metadata of another vocabulary, of `vocab_size` tokens.
        types: of matrices that have another than `quantization`, by the middle of the name: `{"attn_v": "Q6_K"}`.
        pooling: `pooling_type`, of a model that embeds or ranks.
        further: shapes of further tensors, float32, by name.

    Returns:
        `path`.
    """
    quant = Quant[quantization]
    output_quant = Quant[quantization_output or quantization]
    wide = max(gguf.GGML_QUANT_SIZES[kind][0] for kind in (quant, output_quant)) > 64
    hidden_size = hidden_size or (256 if wide else 64)
    shape = Shape(
        hidden_size,
        intermediate_size or (512 if wide else 128),
        num_layers,
        num_heads,
        num_kv_heads,
        head_dim or hidden_size // num_heads,
        vocab_size,
        context_length,
    )
    writer = gguf.GGUFWriter(path, architecture)
    _add_hyperparameters(writer, shape, head_dim is not None or architecture == "qwen3", rope_linear)
    if tokenizer is None:
        _add_tokenizer(writer, vocab_size, pre)
    else:
        add_pairs(writer, tokenizer)
    random = np.random.default_rng(seed)
    has_bias = architecture == "qwen2" if bias is None else bias
    for name, dims in _tensors(shape, has_bias, architecture == "qwen3", tie).items():
        kind = quant if name.startswith("blk.") else output_quant
        special = (types or {}).get(name.removesuffix(".weight").rsplit(".", 1)[-1])
        _add_tensor(writer, random, name, dims, Quant[special] if special else kind)
    for name, dims in (further or {}).items():
        _add_tensor(writer, random, name, dims, Quant.F32)
    if pooling is not None:
        writer.add_uint32(f"{architecture}.pooling_type", pooling)
        outputs = (further or {}).get("cls.output.weight", (0,))[0]
        if outputs > 1:
            writer.add_array(f"{architecture}.classifier.output_labels", [f"label {i}" for i in range(outputs)])
    if rope_factors:
        factors = np.geomspace(1, 8, shape.head_dim // 2).astype(np.float32)
        writer.add_tensor("rope_freqs.weight", factors)
    finish(writer)
    return path


def _add_hyperparameters(writer: gguf.GGUFWriter, shape: Shape, with_head_dim: bool, rope_linear: float | None) -> None:
    writer.add_name("fixture")
    writer.add_block_count(shape.num_layers)
    writer.add_context_length(shape.context_length)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_feed_forward_length(shape.intermediate_size)
    writer.add_head_count(shape.num_heads)
    writer.add_head_count_kv(shape.num_kv_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_layer_norm_rms_eps(1e-5)
    if with_head_dim:
        writer.add_key_length(shape.head_dim)
        writer.add_value_length(shape.head_dim)
    if rope_linear is not None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope_linear)


def _tensors(shape: Shape, bias: bool, qk_norm: bool, tie: bool) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor, by GGUF name, in the order of the file."""
    hidden, inner = shape.hidden_size, shape.intermediate_size
    query, key = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    layer: dict[str, tuple[int, ...]] = {
        "attn_norm.weight": (hidden,),
        "attn_q.weight": (query, hidden),
        "attn_k.weight": (key, hidden),
        "attn_v.weight": (key, hidden),
        "attn_output.weight": (hidden, query),
        "ffn_norm.weight": (hidden,),
        "ffn_gate.weight": (inner, hidden),
        "ffn_up.weight": (inner, hidden),
        "ffn_down.weight": (hidden, inner),
    }
    if bias:
        layer |= {"attn_q.bias": (query,), "attn_k.bias": (key,), "attn_v.bias": (key,)}
    if qk_norm:
        layer |= {"attn_q_norm.weight": (shape.head_dim,), "attn_k_norm.weight": (shape.head_dim,)}
    tensors: dict[str, tuple[int, ...]] = {"token_embd.weight": (shape.vocab_size, hidden)}
    for i in range(shape.num_layers):
        tensors |= {f"blk.{i}.{name}": dims for name, dims in layer.items()}
    tensors["output_norm.weight"] = (hidden,)
    if not tie:
        tensors["output.weight"] = (shape.vocab_size, hidden)
    return tensors


def _add_tensor(
    writer: gguf.GGUFWriter, random: np.random.Generator, name: str, dims: tuple[int, ...], quant: Quant
) -> None:
    if len(dims) == 1:
        centre = 1.0 if "norm" in name else 0.0
        writer.add_tensor(name, random.normal(centre, 0.1, dims).astype(np.float32))
        return
    # Scaled so that activations neither fade nor grow, and logits differ by a few units.
    deviation = 0.3 if name == "token_embd.weight" else 1.5 / dims[1] ** 0.5
    if quant in K_QUANTS:
        writer.add_tensor(name, random_k_quant(random, dims, quant, deviation), raw_dtype=quant)
        return
    if quant in SCALED_QUANTS or quant in FP4_QUANTS:
        writer.add_tensor(name, random_blocks(random, dims, quant, deviation), raw_dtype=quant)
        return
    values = random.normal(0, deviation, dims).astype(np.float32)
    if quant is Quant.F32:
        writer.add_tensor(name, values)
    elif quant is Quant.F16:
        writer.add_tensor(name, values.astype(np.float16))
    else:
        writer.add_tensor(name, gguf.quants.quantize(values, quant).view(np.uint8), raw_dtype=quant)


def byte_characters() -> list[str]:
    """Return GPT-2's printable stand-in for each of the 256 bytes."""
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in kept]
    return [chr(byte) if byte in kept else chr(256 + moved.index(byte)) for byte in range(256)]


def vocabulary(size: int) -> tuple[list[str], list[int], list[str]]:
    """Make a byte-level BPE vocabulary.

    Args:
        size: at least 259.

    Returns:
        `size` tokens, their types, and the merges.
    """
    characters = byte_characters()
    tokens = [*CONTROL_TOKENS, *characters]
    if size < len(tokens):
        raise ValueError(f"expected a vocabulary of at least {len(tokens)} tokens, found {size}")
    types = [int(gguf.TokenType.CONTROL)] * len(CONTROL_TOKENS) + [int(gguf.TokenType.NORMAL)] * 256
    merges: list[str] = []
    for word in _WORDS.split():
        spelled = [characters[byte] for byte in f" {word}".encode()]
        for end in range(1, len(spelled)):
            left, right = "".join(spelled[:end]), spelled[end]
            if left + right not in tokens and len(tokens) < size:
                tokens.append(left + right)
                types.append(int(gguf.TokenType.NORMAL))
                merges.append(f"{left} {right}")
    unused = size - len(tokens)
    tokens += [f"[UNUSED_{i}]" for i in range(unused)]
    types += [int(gguf.TokenType.UNUSED)] * unused
    return tokens, types, merges


def _add_tokenizer(writer: gguf.GGUFWriter, vocab_size: int, pre: str) -> None:
    tokens, types, merges = vocabulary(vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(CONTROL_TOKENS.index("<|im_start|>"))
    writer.add_eos_token_id(CONTROL_TOKENS.index("<|im_end|>"))
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


@click.command()
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--architecture", type=click.Choice(ARCHITECTURES), default="llama", show_default=True)
@click.option("--quantization", type=click.Choice(QUANTIZATIONS), default="Q4_1", show_default=True)
@click.option("--quantization-output", type=click.Choice(QUANTIZATIONS))
@click.option("--hidden-size", type=int)
@click.option("--intermediate-size", type=int)
@click.option("--layers", "num_layers", type=int, default=2, show_default=True)
@click.option("--heads", "num_heads", type=int, default=4, show_default=True)
@click.option("--kv-heads", "num_kv_heads", type=int, default=2, show_default=True)
@click.option("--head-dim", type=int)
@click.option("--vocab-size", type=int, default=320, show_default=True)
@click.option("--context-length", type=int, default=256, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--tie/--no-tie", default=True, show_default=True)
@click.option("--bias/--no-bias", default=None, help="Default: as the architecture has it.")
@click.option("--rope-factors", is_flag=True)
@click.option("--rope-linear", type=float)
@click.option("--pre", default="smollm", show_default=True)
def main(path: Path, architecture: str, quantization: str, **options: object) -> None:
    """Write a small model with random weights to PATH."""
    write_model(path, architecture, quantization, **options)  # type: ignore[arg-type]
    click.echo(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
