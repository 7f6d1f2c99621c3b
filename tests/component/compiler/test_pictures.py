"""Compiled code of models whose tokens may be rows of a picture, against what their graphs mean."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rocmforge.artifacts.bundle import open_bundle
from rocmforge.artifacts.errors import UsageError
from rocmforge.compiler import model as model_module
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.compile import compile_model
from rocmforge.compiler.model import CompileOptions
from rocmforge.compiler.model_config import ModelConfig
from rocmforge.compiler.model_source import ModelSource
from rocmforge.compiler.operation import Float64
from rocmforge.compiler.progress import Silent
from rocmforge.compiler.read_config import read_config
from rocmforge.compiler.sources import open_source
from rocmforge.compiler.target import TARGETS
from rocmforge.library.compilation import make_golden
from rocmforge.runtime.device.batch import Batch, Program, RowSampling
from rocmforge.runtime.device.solo import Solo
from rocmforge.tools.generate.architecture_models import write_architecture
from rocmforge.tools.generate.architecture_oracle.judge import nmse
from rocmforge.tools.generate.architecture_oracle.meaning import Meaning
from rocmforge.tools.generate.architecture_oracle.programs import NUM_BLOCKS, load
from rocmforge.tools.generate.architecture_oracle.table import MOST

RANDOM = np.random.default_rng(7)
IDS = [*(int(one) for one in RANDOM.integers(0, 96, 5)), *[0] * 6, *(int(one) for one in RANDOM.integers(0, 96, 5))]
PICTURE = slice(5, 11)  # of 2 rows and 3 columns
TIME, HEIGHT, WIDTH = (np.arange(len(IDS)) for _ in range(3))
for axis, places in ((TIME, [0] * 6), (HEIGHT, [0, 0, 0, 1, 1, 1]), (WIDTH, [0, 1, 2] * 2)):
    axis[PICTURE] = 5 + np.array(places)
    axis[PICTURE.stop :] -= 3  # the text goes on behind the larger side
ROTARY = np.array([TIME, HEIGHT, WIDTH, TIME])
# How many layers have columns of their own, and whether positions have several axes.
MODELS = {"qwen2vl": (0, True), "qwen3vl": (2, True), "gemma3": (0, False), "llama": (0, False)}


def with_pictures(source: ModelSource) -> ModelConfig:
    config = read_config(source)
    return replace(config, takes_images=True, deepstack=MODELS.get(config.architecture, (0, False))[0])


@pytest.fixture(autouse=True)
def pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile for pictures, and for one level of the host: it decides nothing of an architecture."""
    host = TARGETS["host"]
    monkeypatch.setitem(TARGETS, "host", replace(host, variants=host.variants[-1:]))
    monkeypatch.setattr(model_module, "read_config", with_pictures)


def logits(program: Program, batch: Batch) -> Float64:
    program.step(batch)
    found: Float64 = program.logits(1)[0].astype(np.float64)
    return found


@pytest.mark.parametrize("name", MODELS)
def test_tokens_take_rows_of_a_picture(name: str, tmp_path: Path, build_cache: BuildCache) -> None:
    path, goal = tmp_path / "model.gguf", tmp_path / "model.rfb"
    write_architecture(path, name, whole=True, num_layers=3)
    compile_model(CompileOptions(path, goal), build_cache, Silent(), make_golden)
    deepstack, has_axes = MODELS[name]
    source = open_source(path)
    meaning = Meaning.with_config(source, with_pictures(source), len(IDS))
    width = meaning.config.hidden_size * (1 + deepstack)
    rows = RANDOM.normal(0, 1, (6, width)).astype(np.float32)
    given = np.full((len(IDS), width), np.nan)
    given[PICTURE] = rows
    with open_bundle(goal) as bundle:
        assert bundle.layout.input_width == width
        program = load(bundle, "host")
        text = Solo(program.layout).batch(IDS, 0, NUM_BLOCKS, sampling=RowSampling(keep_logits=True))
        row_of = np.full(len(IDS), -1, np.int32)
        row_of[PICTURE] = np.arange(6)
        rotary = np.ascontiguousarray(ROTARY, np.int32) if has_axes else None
        found = logits(program, replace(text, input_rows=rows, row_of=row_of, rope_positions=rotary))
        plain = logits(program, text)
        program.close()
    assert nmse(found, meaning.logits(IDS, given, ROTARY if has_axes else None)) < MOST
    assert nmse(plain, meaning.logits(IDS)) < MOST
    assert nmse(plain, found) > 0.01


def test_who_takes_no_rows_of_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_architecture(tmp_path / "model.gguf", "bert")
    with pytest.raises(UsageError, match=r"^--mmproj: bert: its tokens are not replaced by rows of pictures$"):
        compile_model(CompileOptions(path, tmp_path / "model.rfb"), BuildCache(tmp_path), Silent(), make_golden)
    path = write_architecture(tmp_path / "model.gguf", "qwen2vl")

    def without_sections(source: ModelSource) -> ModelConfig:
        return replace(with_pictures(source), rope_sections=(0, 0, 0, 0))

    monkeypatch.setattr(model_module, "read_config", without_sections)
    expected = "--mmproj: qwen2vl: expected the key qwen2vl.rope.dimension_sections in its file, found none"
    with pytest.raises(UsageError, match=re.escape(expected)):
        compile_model(CompileOptions(path, tmp_path / "model.rfb"), BuildCache(tmp_path), Silent(), make_golden)
