"""A whole model that takes rows from outside: on the host and on an emulated GPU, with graphs and without, against
NumPy; the same bits however a text is cut, and whatever else a step holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import rocmforge.compiler.model as model_module
from rocmforge.artifacts.bundle import Bundle, open_bundle
from rocmforge.artifacts.errors import DeviceError
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.compile import compile_model
from rocmforge.compiler.graph import LOGITS, Graph, Weight
from rocmforge.compiler.graph_builder import GraphBuilder
from rocmforge.compiler.model import CompileOptions, read_model
from rocmforge.compiler.model_config import ModelConfig
from rocmforge.compiler.model_tensors import weight_tensors
from rocmforge.compiler.progress import PlainProgress, Silent
from rocmforge.compiler.verify import verify
from rocmforge.compiler.weights import read_floats
from rocmforge.library.compilation import make_golden
from rocmforge.runtime.device.batch import Batch, Program
from rocmforge.runtime.device.host import load_host_program
from rocmforge.runtime.device.solo import Solo
from rocmforge.tests.oracles.graph_interpreter import Interpreter
from rocmforge.tests.support.emulated_programs import load as load_gpu
from rocmforge.tests.support.programs import LEVELS, building_levels
from rocmforge.tools.generate.fixtures import write_model

PLACES = (LEVELS[-1], "gfx1100")
HIDDEN = 64
IDS = [5, 9, 11, 3, 7, 8, 2]
ROW_OF = [-1, 1, 0, -1, 3, 2, -1]
ROWS = np.random.default_rng(3).normal(0, 1, (4, 2 * HIDDEN)).astype(np.float32)


def drawn(_config: ModelConfig, weights: Mapping[str, Weight]) -> Graph:
    """An image's rows in the place of tokens' embeddings, more of them after the first layer, and some beside all."""
    g = GraphBuilder(weights)
    hidden = g.input_rows("placed", g.embed("embedded", "token_embedding"))
    for number in range(2):
        layer = g.layer(number)
        hidden = layer.add(
            "residual", hidden, layer.linear("out", layer.norm("normed", hidden, "ffn_norm", 1e-5), "attention_output")
        )
        if not number:
            hidden = g.input_rows("deep", hidden, column=HIDDEN, add=True)
    alone = g.norm("alone_normed", g.input_rows("alone", count=HIDDEN, column=32), "output_norm", 1e-5)
    normed = g.norm("final_normed", g.add("both", hidden, alone), "output_norm", 1e-5, LOGITS)
    g.sample("sampled", g.linear("logits", normed, "token_embedding"))
    return verify(g.graph())


class Made:
    """A bundle, and what its graph means."""

    def __init__(self, folder: Path, cache: BuildCache) -> None:
        path, goal = folder / "model.gguf", folder / "model.rfb"
        write_model(path, quantization="F32", head_dim=16, num_layers=2, hidden_size=HIDDEN, context_length=96)
        options = CompileOptions(path, goal, ("host", PLACES[1]), toolchain="zig")
        with pytest.MonkeyPatch.context() as patch, PlainProgress() as progress, building_levels(("portable",)):
            patch.setattr(model_module, "build_graph", drawn)
            compile_model(options, cache, progress, make_golden)
            model = read_model(options, Silent())
        self.graph = model.graph
        infos = weight_tensors(model.gguf, model.config)
        self.numbers = {
            role: read_floats(model.gguf, info).reshape(info.shape).astype(np.float64) for role, info in infos.items()
        }
        self.bundle: Bundle = open_bundle(goal)


@pytest.fixture(scope="module")
def made(build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    one = Made(tmp_path_factory.mktemp("input_rows"), build_cache)
    with one.bundle:
        yield one


def load(bundle: Bundle, place: str) -> Program:
    return load_host_program(bundle, 4, 1, place) if place in LEVELS else load_gpu(bundle, place, 4)


def batch(program: Program, first: int, end: int, row_of: list[int] | None) -> Batch:
    """The step of tokens from `first` to `end`, of which rows are taken as `row_of` says."""
    plain = Solo(program.layout).batch(IDS[first:end], first, 4, range(end - first))
    if row_of is None:
        return plain
    return replace(plain, input_rows=ROWS, row_of=np.array(row_of, np.int32))


def logits(program: Program, first: int, end: int, row_of: list[int] | None) -> np.ndarray:
    program.step(batch(program, first, end, row_of))
    return program.logits(end - first)


@pytest.mark.parametrize("place", PLACES)
def test_a_model_that_takes_rows_from_outside(made: Made, place: str) -> None:
    assert made.bundle.layout.input_width == 2 * HIDDEN
    program = load(made.bundle, place)
    given = np.where(np.array(ROW_OF)[:, None] < 0, np.nan, ROWS[ROW_OF].astype(np.float64))
    whole, plain = logits(program, 0, 7, ROW_OF), logits(program, 0, 7, None)
    for found, rows in ((whole, given), (plain, None)):
        expected = Interpreter(made.graph, made.numbers, IDS, rows=rows).run()
        # Sums of float32 over 64 elements in three layers, 2^-24 x 8 of a term each: far below this.
        assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    assert [bool((a == b).all()) for a, b in zip(whole, plain, strict=True)] == [row < 0 for row in ROW_OF]
    assert np.array_equal(logits(program, 0, 7, [-1] * 7), plain)
    chunks = [logits(program, first, end, ROW_OF[first:end]) for first, end in ((0, 2), (2, 3), (3, 7))]
    assert np.array_equal(np.concatenate(chunks), whole)
    decoded = [logits(program, n, n + 1, ROW_OF[n : n + 1]) for n in range(7)]  # by a graph, where there are some
    assert np.array_equal(np.concatenate(decoded), whole)
    facts = program.facts()
    assert (facts.graphs, facts.graph_mismatches) == ("" if place in LEVELS else "on", 0)
    program.close()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "rows, row_of",
    [
        (ROWS, [0, 4]),
        (ROWS, [-2, 0]),
        (ROWS, [0]),
        (ROWS[:, 1:], [0, 1]),
        (np.zeros((2000, 2 * HIDDEN), np.float32), [0, 1]),
        (ROWS[0], [0, 1]),
    ],
)
def test_rows_that_a_step_does_not_take(made: Made, place: str, rows: np.ndarray, row_of: list[int]) -> None:
    program = load(made.bundle, place)
    wrong = replace(batch(program, 0, 2, None), input_rows=rows, row_of=np.array(row_of, np.int32))
    with pytest.raises(
        DeviceError, match=r"a step takes at most \d+ input rows of 128, and one of them or none a token"
    ):
        program.step(wrong)
    program.close()
