"""A real model in each type of weights, as llama.cpp makes it, against the float32 forward of those very weights.

python -m rocmforge.tools.bench.weight_types MODEL.gguf LLAMA_CPP/build/bin FOLDER [--type IQ2_XS] [--peer PYTHON]

The peer is a Python that has llama_cpp, or (`--logits`) the architecture oracle's reflogits, whose keys and values are
of float32 and whose texts are short: then positions are every 8th of pieces of 32 tokens.

Rows of SmolLM2-135M's hidden size are no multiple of 256: there llama.cpp takes types of 32 columns, and the type that
is asked for on the feed-forward's way down alone. FOLDER keeps what was made.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import gguf
import numpy as np

from rocmforge.artifacts.bundle import open_bundle
from rocmforge.runtime.device.host import load_host_program
from rocmforge.runtime.engine.loading import load_tokenizer
from rocmforge.tests.oracles.reference import ReferenceModel
from rocmforge.tools.bench.accuracy import NUM_BLOCKS, Logits, kl_divergence, program_logits
from rocmforge.tools.bench.peer import Peer
from rocmforge.tools.generate.gguf_writing import finish

TYPES = (
    *("Q2_K_S", "Q3_K_M", "Q4_K_M", "IQ4_NL", "IQ4_XS", "IQ3_XXS", "IQ3_S", "IQ2_XXS", "IQ2_XS", "IQ2_M", "IQ1_S"),
    *("IQ1_M", "TQ1_0", "TQ2_0", "MXFP4", "NVFP4", "Q2_0", "Q1_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q5_K_M", "Q6_K"),
    *("Q8_0", "F16", "BF16"),
)
BY_TENSOR = ("MXFP4", "NVFP4")  # which the quantizer takes by the tensors' names alone
PIECE, STEP = 32, 8
"""Tokens of a piece of text that reflogits is given, and between positions that are compared."""
REPOSITORY = Path(__file__).parents[2]


def write_floats(source: Path, goal: Path) -> None:
    """Write the same model with all its weights in float32."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(goal, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if not name.startswith(("GGUF.", "general.architecture", "general.file_type", "general.quantization")):
            of = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], of)
    for tensor in reader.tensors:
        values = np.asarray(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32)
        writer.add_tensor(tensor.name, values.reshape([int(size) for size in reversed(tensor.shape)]))
    finish(writer)


def requantize(source: Path, programs: Path, folder: Path, kind: str) -> Path:
    """Make the model of a type, with an importance matrix of our own documents; kept where they are there already."""
    floats, matrix, goal = folder / "float32.gguf", folder / "importance.gguf", folder / f"{kind}.gguf"
    if not floats.exists():
        write_floats(source, floats)
    if not matrix.exists():
        text = folder / "text.txt"
        text.write_text("".join(path.read_text("utf-8") for path in sorted((REPOSITORY / "docs").glob("*.md"))))
        _run(programs / "llama-imatrix", "-m", floats, "-f", text, "-o", matrix, "--chunks", "20", "-c", "512")
    if not goal.exists():
        options = ("--tensor-type", f"weight={kind.lower()}") if kind in BY_TENSOR else ("--imatrix", matrix)
        _run(programs / "llama-quantize", *options, floats, goal, "Q8_0" if kind in BY_TENSOR else kind)
    return goal


def _run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True, capture_output=True)


def measure(model: Path, peer: Path | None, positions: int) -> dict[str, Logits]:
    """Logits over the first positions of our LICENSE: of the reference, of a bundle on the host, and of the peer."""
    bundle = model.with_suffix(".rfb")
    if not bundle.exists():
        _run(sys.executable, "-m", "rocmforge.cli", "compile", model, "-o", bundle, "--arch", "host")
    with open_bundle(bundle) as opened:
        ids = load_tokenizer(opened).encode((REPOSITORY / "LICENSE").read_text("utf-8"))[:positions]
        program = load_host_program(opened, NUM_BLOCKS, 2)
        found = {"reference": ReferenceModel(model).forward(ids), "rocmforge": program_logits(program, ids)}
        program.close()
    if peer:
        with Peer(peer, model, 2, logits_all=True) as other, tempfile.TemporaryDirectory() as scratch:
            found["llama.cpp"] = other.logits(ids, Path(scratch))
    return found


def measure_pieces(model: Path, reflogits: Path, count: int) -> dict[str, Logits]:
    """As `measure`, of pieces of the text, with `count` positions in all or a few more."""
    bundle, found = model.with_suffix(".rfb"), dict[str, list[Logits]]()
    if not bundle.exists():
        _run(sys.executable, "-m", "rocmforge.cli", "compile", model, "-o", bundle, "--arch", "host")
    rows = np.arange(STEP - 1, PIECE, STEP)
    reference = ReferenceModel(model)
    with open_bundle(bundle) as opened, tempfile.TemporaryDirectory() as scratch:
        ids = load_tokenizer(opened).encode((REPOSITORY / "LICENSE").read_text("utf-8"))
        program = load_host_program(opened, NUM_BLOCKS, 2)
        for first in range(0, -(-count // len(rows)) * PIECE, PIECE):
            piece = ids[first : first + PIECE]
            asked, answer = Path(scratch) / "ids.json", Path(scratch) / "logits.json"
            asked.write_text(json.dumps({"ids": piece, "prefixes": [int(row) + 1 for row in rows]}))
            _run(reflogits, model, asked, answer)
            theirs = json.loads(answer.read_text())["logits"]
            found.setdefault("reference", []).append(reference.forward(piece)[rows])
            found.setdefault("rocmforge", []).append(program_logits(program, piece)[rows])
            found.setdefault("llama.cpp", []).append(np.array([theirs[str(row + 1)] for row in rows], np.float32))
        program.close()
    return {name: np.concatenate(parts) for name, parts in found.items()}


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.argument("programs", type=click.Path(exists=True, path_type=Path))
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--type", "types", multiple=True, type=click.Choice(TYPES), help="[default: all]")
@click.option("--peer", type=click.Path(exists=True, path_type=Path), help="A Python that has llama_cpp.")
@click.option("--logits", type=click.Path(exists=True, path_type=Path), help="The oracle's reflogits.")
@click.option("--positions", default=200, show_default=True)
def main(
    model: Path,
    programs: Path,
    folder: Path,
    types: tuple[str, ...],
    peer: Path | None,
    logits: Path | None,
    positions: int,
) -> None:
    """Mean and median KL divergence to the float32 forward, a line a type."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in types or TYPES:
        made = requantize(model, programs, folder, kind)
        found = measure_pieces(made, logits, positions) if logits else measure(made, peer, positions)
        expected = found.pop("reference")
        kinds = sorted({tensor.tensor_type.name for tensor in gguf.GGUFReader(made).tensors} - {"F32"})
        for name, rows in found.items():
            divergence = kl_divergence(expected, rows)
            click.echo(
                f"{kind} ({', '.join(kinds)}): {name} {divergence.mean():.5f}, median {np.median(divergence):.5f}"
            )


if __name__ == "__main__":
    main()
