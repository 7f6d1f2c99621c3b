"""Models of published shapes with random weights, for speed and memory alone: what they say means nothing.

python -m rocmforge.tools.generate.shapes TOKENIZER.gguf gpt-oss-20b model.gguf [--layers 4] [--type Q4_K_M]

The tokenizer is that of a small model; unused tokens follow its own up to the shape's vocabulary. Tensors are made and
written one after another, so that a file may be larger than memory.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import click
import gguf
import numpy as np

from rocmforge.compiler.model_config import ModelConfig, Recurrence
from rocmforge.compiler.position_tables import RopeScaling
from rocmforge.tests.kernels.kernel_harness import random_rows
from rocmforge.tests.oracles.dequantize import dequantize
from rocmforge.tools.generate.recurrent_models import hybrid_tensors, recurrence_metadata

_UNUSED: Final = int(gguf.TokenType.UNUSED)
_COPIED: Final = "tokenizer."


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor to be written: `shape` is rows before columns, as NumPy has it; `mean` of its numbers, in F32."""

    name: str
    shape: tuple[int, ...]
    kind: str
    mean: float = 0.0


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a model.

    Attributes:
        architecture: GGUF's name.
        layers, hidden, heads, kv_heads, head_dim, vocab: as in its config.
        feed_forward: of a dense layer, or of an expert.
        experts, used: 0: a dense model.
        kind: of its matrices, unless `kinds` says otherwise; Q4_K_M is llama.cpp's mix of Q4_K and Q6_K.
        kinds: of tensors by the end of their names.
        head_norm: queries and keys are normed.
        biased: biases beside all matrices but the embeddings, and attention sinks.
        norms: names of a layer's two norms.
        numbers: further metadata below the architecture's name; a float is written as float32.
        state: of layers with recurrent state; None: there are none.
        attending: of a model with some, the layers that have attention instead.
        tied: the embedding is the output too.
    """

    architecture: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    vocab: int
    experts: int = 0
    used: int = 0
    kind: str = "Q4_K_M"
    kinds: dict[str, str] = field(default_factory=dict)
    head_norm: bool = False
    biased: bool = False
    norms: tuple[str, str] = ("attn_norm", "ffn_norm")
    numbers: dict[str, float] = field(default_factory=dict)
    state: Recurrence | None = None
    attending: tuple[int, ...] = ()
    tied: bool = False

    def metadata(self) -> dict[str, float | list[int]]:
        """Return the numbers of the file, by the end of their keys."""
        numbers: dict[str, float | list[int]] = {
            "block_count": self.layers,
            "context_length": 4096,
            "embedding_length": self.hidden,
            "feed_forward_length": self.feed_forward,
            "attention.head_count": self.heads,
            "attention.head_count_kv": self.kv_heads,
            "attention.key_length": self.head_dim,
            "attention.value_length": self.head_dim,
            "rope.dimension_count": self.head_dim,
            "attention.layer_norm_rms_epsilon": 1e-5,
        }
        if self.experts:
            numbers |= {"expert_count": self.experts, "expert_used_count": self.used}
            numbers["expert_feed_forward_length"] = self.feed_forward
        if self.state is not None:
            numbers |= recurrence_metadata(self.architecture, self.state, self._kv_heads())
        return numbers | self.numbers

    def _kv_heads(self) -> list[int]:
        return [self.kv_heads if layer in self.attending else 0 for layer in range(self.layers)]

    def tensors(self) -> Iterator[Tensor]:
        """Yield all tensors."""
        yield self._matrix("token_embd", self.vocab, self.hidden)
        if not self.tied:
            yield self._matrix("output", self.vocab, self.hidden)
        if self.state is not None:
            yield from self._hybrid(self.state)
            return
        yield Tensor("output_norm.weight", (self.hidden,), "F32", 1.0)
        for layer in range(self.layers):
            for tensor in (*self._attention(layer), *self._feed_forward(layer)):
                yield replace(tensor, name=f"blk.{layer}.{tensor.name}")

    def _hybrid(self, state: Recurrence) -> Iterator[Tensor]:
        """Yield the tensors of a model with recurrent state, as its row has them."""
        kv_heads = self._kv_heads()
        config = ModelConfig(
            architecture=self.architecture,
            name=self.architecture,
            hidden_size=self.hidden,
            intermediate_size=self.feed_forward,
            num_layers=self.layers,
            num_heads=self.heads,
            num_kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            vocab_size=self.vocab,
            max_seq_len=1,
            rope_theta=1.0,
            norm_epsilon=1e-5,
            rope_style="half",
            rope_dim=0,
            rope_scaling=RopeScaling(),
            tie_word_embeddings=True,
            recurrence=state,
            by_layer={
                "num_heads": tuple(self.heads if one else 0 for one in kv_heads),
                "num_kv_heads": tuple(kv_heads),
                "recurrent": tuple(not one for one in kv_heads),
            },
        )
        for layer, name, shape in hybrid_tensors(config):
            short = name.removesuffix(".weight").rpartition(".")[2]
            if len(shape) == 1 or "conv" in short:
                yield Tensor(name, shape, "F32", -1.0 if short == "ssm_a" else 1.0)
            else:
                yield Tensor(name, shape, self._kind(short, layer))

    def _attention(self, layer: int) -> Iterator[Tensor]:
        yield from (Tensor(f"{norm}.weight", (self.hidden,), "F32", 1.0) for norm in self.norms)
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        sizes = {"q": (queries, self.hidden), "k": (keys, self.hidden), "v": (keys, self.hidden)}
        for name, (rows, columns) in (sizes | {"output": (self.hidden, queries)}).items():
            yield self._matrix(f"attn_{name}", rows, columns, layer)
            if self.biased:
                yield Tensor(f"attn_{name}.bias", (rows,), "F32")
        if self.head_norm:
            yield from (Tensor(f"attn_{name}_norm.weight", (self.head_dim,), "F32", 1.0) for name in "qk")
        if self.biased:
            yield Tensor("attn_sinks.weight", (self.heads,), "F32")

    def _feed_forward(self, layer: int) -> Iterator[Tensor]:
        end = "_exps" if self.experts else ""
        if self.experts:
            yield Tensor("ffn_gate_inp.weight", (self.experts, self.hidden), "F32")
            if self.biased:
                yield Tensor("ffn_gate_inp.bias", (self.experts,), "F32")
        inner, outer = (self.feed_forward, self.hidden), (self.hidden, self.feed_forward)
        for name, (rows, columns) in (("gate", inner), ("up", inner), ("down", outer)):
            yield self._matrix(f"ffn_{name}{end}", rows, columns, layer, self.experts)
            if self.biased and self.experts:
                yield Tensor(f"ffn_{name}{end}.bias", (self.experts, rows), "F32")

    def _matrix(self, name: str, rows: int, columns: int, layer: int = 0, experts: int = 0) -> Tensor:
        shape = (experts, rows, columns) if experts else (rows, columns)
        return Tensor(f"{name}.weight", shape, self._kind(name, layer))

    def _kind(self, name: str, layer: int) -> str:
        """Return the type of a matrix; the mix gives more bits to what llama-quantize gives more."""
        if name in self.kinds:
            return self.kinds[name]
        if self.tied and name == "token_embd" and self.kind == "Q4_K_M":
            return "Q6_K"  # as the output that it is
        if self.kind != "Q4_K_M":
            return self.kind
        first, last = self.layers // 8, 7 * self.layers // 8
        more = layer < first or layer >= last or (layer - first) % 3 == 2
        return "Q6_K" if name == "output" or (more and name.startswith(("attn_v", "ffn_down"))) else "Q4_K"


_QWEN35: Final[dict[str, float]] = {"rope.dimension_count": 64, "rope.freq_base": 1e7, "full_attention_interval": 4}
_WIDE: Final = ("token_embd", "output", "attn_q", "attn_k", "attn_v", "attn_output")
SHAPES: Final = {
    "llama-1.1b": Shape("llama", 22, 2048, 32, 4, 64, 5632, 32000),
    "llama-8b": Shape("llama", 32, 4096, 32, 8, 128, 14336, 128256, numbers={"rope.freq_base": 500000.0}),
    "qwen3-30b-a3b": Shape(
        *("qwen3moe", 48, 2048, 32, 4, 128, 768, 151936, 128, 8), head_norm=True, numbers={"rope.freq_base": 1e6}
    ),
    "gpt-oss-20b": Shape(
        *("gpt-oss", 24, 2880, 64, 8, 64, 2880, 201088, 32, 4, "MXFP4", dict.fromkeys(_WIDE, "Q8_0"), False, True),
        norms=("attn_norm", "post_attention_norm"),
        numbers={"attention.sliding_window": 128, "rope.freq_base": 150000.0},
    ),
    "lfm2-1.2b": Shape(
        *("lfm2", 16, 2048, 32, 8, 64, 8192, 65536),
        numbers={"rope.freq_base": 1e6},
        state=Recurrence("short_conv", 3, 2048),
        attending=(2, 5, 8, 10, 12, 14),
        tied=True,
    ),
    "qwen3.5-0.8b": Shape(
        *("qwen35", 24, 1024, 8, 2, 256, 3584, 248320),
        numbers=_QWEN35,
        state=Recurrence("delta", 4, 2048, 16, 128, 16),
        attending=tuple(range(3, 24, 4)),
        tied=True,
    ),
    "qwen3.5-4b": Shape(
        *("qwen35", 32, 2560, 16, 4, 256, 9216, 248320),
        numbers=_QWEN35,
        state=Recurrence("delta", 4, 4096, 32, 128, 16),
        attending=tuple(range(3, 32, 4)),
        tied=True,
    ),
}
"""Source: the published models' config.json; their files' tensors and types."""


def write_shape(tokenizer: gguf.GGUFReader, shape: Shape, goal: Path) -> None:
    """Write a model of a shape."""
    writer, random = gguf.GGUFWriter(goal, shape.architecture), np.random.default_rng(1)
    own = len(tokenizer.fields["tokenizer.ggml.tokens"].data)
    shape = replace(shape, vocab=max(shape.vocab, own))
    _write_tokenizer(writer, tokenizer, shape.vocab - own)
    for key, number in shape.metadata().items():
        name = f"{shape.architecture}.{key}"
        if isinstance(number, list):
            writer.add_array(name, number)
        else:
            (writer.add_float32 if isinstance(number, float) else writer.add_uint32)(name, number)
    tensors = list(shape.tensors())
    for tensor in tensors:
        kind = gguf.GGMLQuantizationType[tensor.kind]
        block, n_bytes = gguf.GGML_QUANT_SIZES[kind]
        bytes_shape = (*tensor.shape[:-1], tensor.shape[-1] // block * n_bytes)
        size = int(np.prod(bytes_shape))
        writer.add_tensor_info(tensor.name, bytes_shape, np.dtype(np.uint8), size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors:
        writer.write_tensor_data(_data(random, tensor))
    writer.close()


def _write_tokenizer(writer: gguf.GGUFWriter, tokenizer: gguf.GGUFReader, unused: int) -> None:
    more: dict[str, list[object]] = {
        "tokenizer.ggml.tokens": [f"[unused{index}]" for index in range(unused)],
        "tokenizer.ggml.token_type": [_UNUSED] * unused,
        "tokenizer.ggml.scores": [0.0] * unused,
    }
    for key, value in tokenizer.fields.items():
        if key.startswith(_COPIED):
            of = value.types[-1] if value.types[0] == gguf.GGUFValueType.ARRAY else None
            contents = value.contents()
            writer.add_key_value(key, contents + more[key] if key in more else contents, value.types[0], of)


def _data(random: np.random.Generator, tensor: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Return the bytes of a tensor; vectors, and routers, are near their mean."""
    if tensor.kind == "F32":
        return random.normal(tensor.mean, 0.02, tensor.shape).astype(np.float32).view(np.uint8)
    rows = int(np.prod(tensor.shape[:-1]))
    return random_rows(random, tensor.kind, rows, tensor.shape[-1], _scale(tensor.kind, tensor.shape[-1]))


@functools.cache
def _scale(kind: str, columns: int) -> float:
    """How much larger than others a type's weights have to be for a row's product to be about as large as what it is
    multiplied with: sums that grow from layer to layer end as no numbers."""
    sample = random_rows(np.random.default_rng(1), kind, 64, columns)
    return float(1 / (dequantize(sample, kind).std() * np.sqrt(columns)))


@click.command()
@click.argument("tokenizer", type=click.Path(exists=True, path_type=Path))
@click.argument("name", type=click.Choice(tuple(SHAPES)))
@click.argument("goal", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--layers", type=click.IntRange(1), help="[default: all]")
@click.option("--type", "kind", help="Of matrices. [default: as it is published]")
@click.option("--small-vocabulary", is_flag=True, help="The tokenizer's tokens alone.")
def main(tokenizer: Path, name: str, goal: Path, layers: int | None, kind: str | None, small_vocabulary: bool) -> None:
    """Write GOAL, a model of the shape NAME."""
    shape = SHAPES[name]
    shape = replace(
        shape,
        layers=layers or shape.layers,
        kind=kind or shape.kind,
        vocab=0 if small_vocabulary else shape.vocab,
    )
    write_shape(gguf.GGUFReader(tokenizer), shape, goal)


if __name__ == "__main__":
    main()
