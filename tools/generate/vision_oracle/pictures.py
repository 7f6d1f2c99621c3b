"""Random pictures for small encoders, and rows of them: llama.cpp's, and those of a bundle."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rocmforge.artifacts.bundle import open_bundle
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.compile import compile_model
from rocmforge.compiler.model import CompileOptions
from rocmforge.compiler.progress import Silent
from rocmforge.library.compilation import make_golden
from rocmforge.runtime.device.load import DeviceOptions, load_program
from rocmforge.runtime.device.memory import KvSize
from rocmforge.runtime.pictures.encode import encode, load_vision
from rocmforge.runtime.pictures.patches import Patches
from rocmforge.tools.emulator import HipEmulator
from rocmforge.tools.generate.fixtures import write_model
from rocmforge.tools.generate.vision_models import SHAPES

Float32 = npt.NDArray[np.float32]


def pixels_of(kind: str, seed: int = 0) -> Float32:
    """Return a normalised picture of the shape of a kind, float32[height, width, 3]."""
    shape = SHAPES[kind]
    height, width = (shape.patch * count for count in shape.picture)
    return np.random.default_rng((seed, 1)).normal(0, 1, (height, width, 3)).astype(np.float32)


def patches_of(kind: str, pixels: Float32) -> Patches:
    """Return the patches of such a picture."""
    (height, width), side = SHAPES[kind].picture, SHAPES[kind].patch
    values = pixels.reshape(height, side, width, side, 3).transpose(0, 2, 4, 1, 3).reshape(height * width, -1)
    values = 2 * values - 1 if kind == "gemma4v" else values  # as the graph of llama.cpp's begins
    return Patches(np.ascontiguousarray(values), height, width)


def rows_of_llama_cpp(program: Path, mmproj: Path, kind: str, pixels: Float32, folder: Path) -> Float32:
    """Return what llama.cpp makes of a picture, without the rows that it puts between Pixtral's.

    Raises:
        ValueError: it fails; says what it said.
    """
    given, made = folder / "pixels.bin", folder / "rows.bin"
    given.write_bytes(pixels.tobytes())
    height, width, _ = pixels.shape
    command = list(map(str, (program, mmproj, width, height, given, made)))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{kind}: {done.stderr.strip()[-500:]}")
    count, columns = map(int, done.stdout.split())
    rows = np.fromfile(made, np.float32).reshape(count, columns)
    if kind == "pixtral":
        across = SHAPES[kind].picture[1] // SHAPES[kind].merge
        rows = rows[np.arange(count) % (across + 1) != across]
    return rows


def write_text_model(path: Path, width: int) -> Path:
    """Write a small text model of that width, with as many layers as pictures add to; return `path`."""
    write_model(path, quantization="F32", head_dim=16, num_layers=2, hidden_size=width, context_length=96)
    return path


def compile_seeing(model: Path, mmproj: Path, goal: Path, archs: Sequence[str], cache: BuildCache) -> None:
    """Compile a text model with a projector file."""
    options = CompileOptions(model, goal, tuple(archs), toolchain="zig", mmproj=mmproj)
    compile_model(options, cache, Silent(), make_golden)


def rows_of_bundle(goal: Path, device: str, patches: Patches, window: int | None = None) -> Float32:
    """Return what a bundle makes of a picture on a device, `host`, or `emulated:` and an arch; with windows of another
    size where one is given."""
    options = DeviceOptions(device, 1, emulator=lambda arch: HipEmulator(arch, check=False, count=False))
    with open_bundle(goal) as bundle:
        program = load_program(bundle, options, KvSize(4, 64), lambda _line: None)
        part = load_vision(bundle, program, lambda _line: None)
        try:
            given = part if window is None else replace(part, vision=replace(part.vision, window=window))
            return encode(given, patches)
        finally:
            part.close()
            program.close()


def error(found: npt.NDArray[np.floating], expected: npt.NDArray[np.floating]) -> float:
    """Return the normalised mean squared error."""
    return float(np.sum((found.astype(np.float64) - expected) ** 2) / np.sum(expected.astype(np.float64) ** 2))
