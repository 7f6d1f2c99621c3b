"""KL divergence of a quantized random model's logits from what its file means, ours beside llama.cpp's.

python -m rocmforge.tools.bench.mixture_accuracy MODEL.gguf MXFP4_MOE --quantize LLAMA_QUANTIZE --logits REFLOGITS

MODEL is of float32, as `tools.generate.architecture_oracle` has them, LLAMA_QUANTIZE llama.cpp's quantizer, REFLOGITS
the oracle's program. Sequences are independent: where a rounding chooses another expert, all tokens after it differ.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

import click
import numpy as np

from rocmforge.tools.bench.accuracy import kl_divergence
from rocmforge.tools.generate.architecture_oracle.meaning import Meaning
from rocmforge.tools.generate.architecture_oracle.programs import bundle_of, last_logits, load

LENGTHS = (6, 12, 24)
"""Tokens of a sequence, after each of which its logits are compared."""
_VOCABULARY = 128  # tokens that each of the oracle's models has


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.argument("kind")
@click.option("--quantize", required=True, type=click.Path(exists=True), help="llama-quantize.")
@click.option("--logits", required=True, type=click.Path(exists=True), help="The oracle's reflogits.")
@click.option("--sequences", default=24, show_default=True)
def main(model: Path, kind: str, quantize: str, logits: str, sequences: int) -> None:
    """Print means and medians over all sequences and lengths."""
    drawn = [np.random.default_rng(100 + index).integers(0, _VOCABULARY, LENGTHS[-1]) for index in range(sequences)]
    rows = [[int(token) for token in ids] for ids in drawn]
    with tempfile.TemporaryDirectory() as name:
        quantized, ids_file, output = (Path(name) / one for one in ("model.gguf", "ids.json", "logits.json"))
        subprocess.run([quantize, model, quantized, kind], check=True, capture_output=True)
        meaning, expected, theirs = Meaning.of(quantized, LENGTHS[-1]), [], []
        for ids in rows:
            ids_file.write_text(json.dumps({"ids": ids, "prefixes": LENGTHS}))
            subprocess.run([logits, quantized, ids_file, output], check=True, capture_output=True)
            found = json.loads(output.read_text())["logits"]
            theirs += [found[str(length)] for length in LENGTHS]
            expected += [meaning.logits(ids[:length]) for length in LENGTHS]
        with bundle_of(quantized, ("host",), "auto") as bundle:
            program = load(bundle, "host")
            ours = [last_logits(program, ids[:length]) for ids in rows for length in LENGTHS]
            program.close()
    for who, values in (("rocmforge", ours), ("llama.cpp", theirs)):
        found = kl_divergence(np.array(expected), np.array(values))
        click.echo(f"{who}: mean {found.mean():.4f}, median {np.median(found):.4f}, {len(found)} positions")


if __name__ == "__main__":
    main()
