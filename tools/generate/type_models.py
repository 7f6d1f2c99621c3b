"""A small llama of random weights for each weight type, all of whose layers are of that type.

python -m rocmforge.tools.generate.type_models TOKENIZER.gguf FOLDER [--type IQ4_XS]

For speed alone: what it says means nothing. Columns are whole superblocks, which those of small real models are not, so
that a quantizer takes another type for them. The vocabulary is that of TOKENIZER, a llama; the embedding is Q6_K.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click
import gguf
import numpy as np

from rocmforge.artifacts.formats import FORMATS
from rocmforge.tests.kernels.kernel_harness import random_rows
from rocmforge.tools.generate.gguf_writing import finish

LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, FEED_FORWARD = 12, 1024, 16, 4, 64, 2816
NUMBERS: Final = {
    "block_count": LAYERS,
    "embedding_length": HIDDEN,
    "feed_forward_length": FEED_FORWARD,
    "attention.head_count": HEADS,
    "attention.head_count_kv": KV_HEADS,
    "rope.dimension_count": HEAD_DIM,
}
MATRICES: Final = {
    "attn_q": (HEADS * HEAD_DIM, HIDDEN),
    "attn_k": (KV_HEADS * HEAD_DIM, HIDDEN),
    "attn_v": (KV_HEADS * HEAD_DIM, HIDDEN),
    "attn_output": (HIDDEN, HEADS * HEAD_DIM),
    "ffn_gate": (FEED_FORWARD, HIDDEN),
    "ffn_up": (FEED_FORWARD, HIDDEN),
    "ffn_down": (HIDDEN, FEED_FORWARD),
}
"""Rows and columns."""


def write_model(tokenizer: gguf.GGUFReader, goal: Path, kind: str) -> None:
    """Write the model of a type."""
    writer, random = gguf.GGUFWriter(goal, "llama"), np.random.default_rng(1)
    for key, field in tokenizer.fields.items():
        if not key.startswith(("GGUF.", "general.architecture", "general.file_type", "general.quantization")):
            of = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            value = NUMBERS.get(key.removeprefix("llama."), field.contents())
            writer.add_key_value(key, value, field.types[0], of)

    def add(name: str, rows: int, columns: int, of_type: str) -> None:
        raw = random_rows(random, of_type, rows, columns)
        writer.add_tensor(f"{name}.weight", raw, raw_dtype=gguf.GGMLQuantizationType[of_type])

    add("token_embd", len(tokenizer.fields["tokenizer.ggml.tokens"].data), HIDDEN, "Q6_K")
    writer.add_tensor("output_norm.weight", np.ones(HIDDEN, np.float32))
    for layer in range(LAYERS):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", np.ones(HIDDEN, np.float32))
        for name, (rows, columns) in MATRICES.items():
            add(f"blk.{layer}.{name}", rows, columns, kind)
    finish(writer)


@click.command()
@click.argument("tokenizer", type=click.Path(exists=True, path_type=Path))
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--type", "types", multiple=True, type=click.Choice(tuple(FORMATS)), help="[default: all]")
def main(tokenizer: Path, folder: Path, types: tuple[str, ...]) -> None:
    """Write a file a type."""
    folder.mkdir(parents=True, exist_ok=True)
    reader = gguf.GGUFReader(tokenizer)
    for kind in types or FORMATS:
        write_model(reader, folder / f"{kind}.gguf", kind)


if __name__ == "__main__":
    main()
