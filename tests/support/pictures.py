"""What tests of models that see share: facts of eyes, an encoder that makes rows of pixels, and small models."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rocmforge.artifacts.bundle import Bundle
from rocmforge.artifacts.vision import Vision
from rocmforge.compiler import model as model_module
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.model_config import ModelConfig
from rocmforge.compiler.model_source import ModelSource
from rocmforge.compiler.read_config import read_config
from rocmforge.runtime.device.batch import Float32
from rocmforge.runtime.engine.picture_encoder import PictureEncoder
from rocmforge.runtime.engine.pictures import PlacedPicture
from rocmforge.runtime.pictures.patches import Patches, Picture
from rocmforge.tests.support.emulated_programs import compiled
from rocmforge.tests.support.vision import FACTS
from rocmforge.tools.generate.architecture_models import write_architecture

VISION = replace(
    FACTS,
    kind="qwen3vl_merger",
    image_size=64,
    patch_size=4,
    width=64,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.25, 0.5),
    min_pixels=2 * 64,
    max_pixels=24 * 64,
    max_patches=96,
    window=0,
)
"""Rows of 8 x 8 pixels, 2 to 24 a picture."""


class PixelRows:
    """Rows that are random numbers of a picture's pixels: equal for equal ones."""

    def __init__(self, vision: Vision) -> None:
        self.vision = vision
        self.encoded: list[tuple[int, int]] = []
        self.closed = 0

    def encode(self, patches: Patches) -> Float32:
        self.encoded.append((patches.height, patches.width))
        merge = self.vision.merge
        grid = patches.values.reshape(patches.height // merge, merge, patches.width // merge, merge, -1)
        summed = grid.sum(axis=(1, 3)).reshape(-1, self.vision.patch_values).astype(np.float64)
        mixing = np.random.default_rng(1).normal(0, 0.3, (self.vision.patch_values, self.vision.row_width))
        rows: Float32 = np.tanh(summed @ mixing).astype(np.float32)
        return rows

    def close(self) -> None:
        self.closed += 1


def encoder_of(vision: Vision) -> tuple[PictureEncoder, PixelRows]:
    encoder, rows = PictureEncoder(vision), PixelRows(vision)
    encoder.attach(rows)
    return encoder, rows


def picture(rows: int, columns: int, seed: int = 0) -> Picture:
    size = 8 * rows, 8 * columns
    return Picture(*size, np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8).tobytes())


def placed(one: Picture, first: int, vision: Vision = VISION) -> PlacedPicture:
    grid = one.grid(vision)
    return PlacedPicture(one, one.digest(), ((first, grid[0] * grid[1]),), grid)


def png(width: int = 32, height: int = 24, seed: int = 0) -> bytes:
    """A file of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@contextlib.contextmanager
def seeing_model(
    path: Path, name: str, cache: BuildCache, vision: Vision, archs: tuple[str, ...] = ("host",), layers: int = 3
) -> Iterator[Bundle]:
    """A small model of an architecture that takes rows of pictures, built for one level of the host."""

    def read(source: ModelSource) -> ModelConfig:
        config = replace(read_config(source), takes_images=True, deepstack=vision.deepstack)
        return replace(config, sees_ahead=vision.both_ways)

    write_architecture(path, name, num_layers=layers, keys={"context_length": 256})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(model_module, "read_config", read)
        with compiled(path, cache, path.with_suffix(".rfb"), archs=archs) as bundle:
            yield bundle
