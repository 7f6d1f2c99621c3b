"""Write llama.cpp's token ids for `tests/data/hard_strings.json`: what our tokenizers are compared with.

Run with a Python that has `llama-cpp-python`, `gguf` and `click`; the tests themselves need only the result.

    python tools/generate/tokenizer_oracle.py SmolLM2-135M-Instruct.Q4_1.gguf
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

PRE_TOKENIZERS = ("smollm", "llama-bpe", "qwen2", "gpt-2", "default")
DATA = Path(__file__).resolve().parents[2] / "tests" / "data"


def extended(tokens: list[str], types: list[int], merges: list[str]) -> tuple[list[str], list[int], list[str]]:
    """Add what tells the pre-tokenizers apart, which SmolLM2's vocabulary does not.

    Merges of two and three digits show how numbers are cut; tokens that no merge makes show whether a whole
    piece is looked up first; two overlapping user-defined tokens show which of them is found first.
    """
    pairs = [f"{i:02}" for i in range(100)]
    triples = [f"{i:03}" for i in range(1000)]
    unreachable = ["zqzqz", "Ġzqzqz"]
    user_defined = ["<u>ab", "b<long>c"]
    more = [t for t in (*pairs, *triples, *unreachable) if t not in set(tokens)]
    joins = [f"{t[:-1]} {t[-1]}" for t in (*pairs, *triples)]
    return (
        [*tokens, *more, *user_defined],
        [*types, *[1] * len(more), *[4] * len(user_defined)],
        [*merges, *[j for j in joins if j not in set(merges)]],
    )


def write_vocab_only(source: Any, pre: str, out: Path) -> None:
    """Write a GGUF file without tensors: the vocabulary of another, `extended`, with its own `pre`.

    Args:
        source: a `gguf.GGUFReader` of the file to take the vocabulary from.
        pre: the value of `tokenizer.ggml.pre`.
        out: the file to write.
    """
    from gguf import GGUFWriter  # noqa: PLC0415 - click's help must not need it

    def field(name: str) -> Any:
        return source.fields[name].contents()

    writer = GGUFWriter(str(out), "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(64)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(64)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    tokens, types, merges = extended(
        field("tokenizer.ggml.tokens"), field("tokenizer.ggml.token_type"), field("tokenizer.ggml.merges")
    )
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def llama_tokenizer(model: Path) -> Callable[[str], list[int]]:
    """Load a vocabulary with llama.cpp; return text -> ids (no BOS, special tokens read)."""
    from llama_cpp import Llama  # noqa: PLC0415 - click's help must not need it

    llama = Llama(str(model), vocab_only=True, verbose=False)

    def tokenize(text: str) -> list[int]:
        ids: list[int] = llama.tokenize(text.encode(), add_bos=False, special=True)
        return ids

    return tokenize


@click.command()
@click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), default=DATA, show_default=True)
def main(model: Path, data: Path) -> None:
    """Write the token ids of every pre-tokenizer, from SmolLM2's vocabulary in MODEL."""
    from gguf import GGUFReader  # noqa: PLC0415 - click's help must not need it

    strings = json.loads((data / "hard_strings.json").read_text(encoding="utf-8"))
    source = GGUFReader(str(model))
    for pre in PRE_TOKENIZERS:
        with tempfile.TemporaryDirectory() as folder:
            path = model
            if pre != "smollm":
                path = Path(folder) / f"{pre}.gguf"
                write_vocab_only(source, pre, path)
            tokenize = llama_tokenizer(path)
            rows = [tokenize(text) for text in strings]
        name = "smollm2" if pre == "smollm" else pre.replace("-", "_")
        out = data / f"{name}_token_ids.json"
        out.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n", encoding="utf-8")
        click.echo(f"{out}: {len(rows)} strings, {sum(map(len, rows))} ids")


if __name__ == "__main__":
    main()
