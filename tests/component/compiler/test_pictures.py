"""Compiled code of models whose tokens may be rows of a picture, against what their graphs mean."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
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
from rocmforge.library.compilation import make_golden
from rocmforge.runtime.device.batch import Batch, Float32, Program, RowSampling
from rocmforge.runtime.device.solo import Solo
from rocmforge.tests.support.programs import building_levels
from rocmforge.tools.generate.architecture_models import write_architecture
from rocmforge.tools.generate.architecture_oracle.judge import nmse
from rocmforge.tools.generate.architecture_oracle.meaning import Meaning
from rocmforge.tools.generate.architecture_oracle.programs import NUM_BLOCKS, load
from rocmforge.tools.generate.architecture_oracle.table import MOST

RANDOM = np.random.default_rng(7)
IDS = [*(int(one) for one in RANDOM.integers(0, 96, 5)), *[0] * 6, *(int(one) for one in RANDOM.integers(0, 96, 9))]
PICTURE = slice(5, 11)  # of 2 rows and 3 columns
TIME, HEIGHT, WIDTH = (np.arange(len(IDS)) for _ in range(3))
for axis, places in ((TIME, [0] * 6), (HEIGHT, [0, 0, 0, 1, 1, 1]), (WIDTH, [0, 1, 2] * 2)):
    axis[PICTURE] = 5 + np.array(places)
    axis[PICTURE.stop :] -= 3  # the text goes on behind the larger side
ROTARY = np.array([TIME, HEIGHT, WIDTH, TIME])
AHEAD = np.tile(np.arange(len(IDS)), (4, 1))
AHEAD[3] += 1
AHEAD[3, PICTURE] = PICTURE.stop  # a token of the picture sees all of it
# How many layers have columns of their own, and whether positions have several axes.
ON_GPU = ("qwen3vl", "gemma3")
MODELS = {"qwen2vl": (0, True), "qwen3vl": (2, True), "gemma3": (0, False), "llama": (0, False)}


def with_pictures(source: ModelSource) -> ModelConfig:
    config = read_config(source)
    deepstack, _ = MODELS.get(config.architecture, (0, False))
    return replace(config, takes_images=True, sees_ahead=config.architecture == "gemma3", deepstack=deepstack)


@pytest.fixture(autouse=True)
def pictures(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compile for pictures, and for one level of the host: it decides nothing of an architecture."""
    monkeypatch.setattr(model_module, "read_config", with_pictures)
    with building_levels(("portable",)):
        yield


@dataclass(frozen=True, slots=True)
class Seen:
    """Tokens of which some are rows of a picture, and where they stand."""

    rows: Float32
    rotary: npt.NDArray[np.int32] | None

    def batch(self, program: Program, first: int, end: int) -> Batch:
        """A step of tokens `first` to `end` - 1."""
        text = texts(program, first, end)
        row_of = np.full(len(IDS), -1, np.int32)
        row_of[PICTURE] = np.arange(6)
        rotary = None if self.rotary is None else np.ascontiguousarray(self.rotary[:, first:end])
        return replace(text, input_rows=self.rows, row_of=row_of[first:end], rope_positions=rotary)


def texts(program: Program, first: int, end: int) -> Batch:
    rows, sampling = range(end - first), RowSampling(keep_logits=True)
    return Solo(program.layout).batch(IDS[first:end], first, NUM_BLOCKS, rows, sampling)


def logits(program: Program, *batches: Batch) -> Float64:
    """Of all tokens of the steps."""
    found: list[Float64] = []
    for batch in batches:
        program.step(batch)
        found.append(program.logits(len(batch.token_ids)).astype(np.float64))
    return np.concatenate(found)


@pytest.mark.parametrize("name", MODELS)
def test_tokens_take_rows_of_a_picture(name: str, tmp_path: Path, build_cache: BuildCache) -> None:
    path, goal = tmp_path / "model.gguf", tmp_path / "model.rfb"
    write_architecture(path, name, whole=True, num_layers=3)
    places = ("host", "gfx1100") if name in ON_GPU else ("host",)
    compile_model(CompileOptions(path, goal, places), build_cache, Silent(), make_golden)
    deepstack, has_axes = MODELS[name]
    source = open_source(path)
    meaning = Meaning.with_config(source, with_pictures(source), len(IDS))
    width = meaning.config.hidden_size * (1 + deepstack)
    rows = np.random.default_rng(1).normal(0, 1, (6, width)).astype(np.float32)
    given = np.full((len(IDS), width), np.nan)
    given[PICTURE] = rows
    rotary = ROTARY if has_axes else AHEAD if name == "gemma3" else None
    expected, plain = meaning.value("", IDS, given, rotary), meaning.value("", IDS)
    assert nmse(plain, expected) > 10 * MOST
    if rotary is not None:
        assert nmse(meaning.value("", IDS, given), expected) > 10 * MOST
    seen = Seen(rows, None if rotary is None else rotary.astype(np.int32))
    with open_bundle(goal) as bundle:
        assert bundle.layout.input_width == width
        for place in places:
            program = load(bundle, place)
            whole = logits(program, seen.batch(program, 0, len(IDS)))
            # The first step has few tokens, for which a GPU has kernels of their own.
            cut = logits(
                program, *(seen.batch(program, *ends) for ends in ((0, PICTURE.stop), (PICTURE.stop, len(IDS))))
            )
            unseen = logits(program, texts(program, 0, len(IDS)))
            program.close()
            assert nmse(whole, expected) < MOST
            assert cut.tobytes() == whole.tobytes()
            assert nmse(unseen, plain) < MOST


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


@pytest.mark.parametrize(("name", "layers", "found"), [("llama", 1, 1), ("gemma4", None, 0)])
def test_pictures_that_add_to_layers_which_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, layers: int | None, found: int
) -> None:
    path = write_architecture(tmp_path / "model.gguf", name, num_layers=layers)
    monkeypatch.setattr(model_module, "read_config", lambda source: replace(with_pictures(source), deepstack=2))
    with pytest.raises(UsageError, match=f"^--mmproj: {name}: expected 2 layers that pictures add to, found {found}$"):
        compile_model(CompileOptions(path, tmp_path / "model.rfb"), BuildCache(tmp_path), Silent(), make_golden)
