"""Gemma 3n: what its graph means against llama.cpp's logits, and compiled code against that.

`tests/data/gemma3n_logits.npy` are llama.cpp 11434's float32 logits, with keys and values in float32, of the model that
`write_gemma3n` writes, after 1, 9 and 19 of the tokens below: `tools/generate/architecture_oracle/reflogits.cpp`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rocmforge.artifacts.bundle import open_bundle
from rocmforge.artifacts.errors import RocmforgeError
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.compile import compile_model
from rocmforge.compiler.gguf_file import GgufFile
from rocmforge.compiler.gguf_reader import read_gguf
from rocmforge.compiler.model import CompileOptions
from rocmforge.compiler.model_config import ModelConfig
from rocmforge.compiler.position_tables import RopeTable
from rocmforge.compiler.progress import Silent
from rocmforge.compiler.read_config import read_config
from rocmforge.library.compilation import make_golden
from rocmforge.tests.support.programs import building_levels, check_outputs_alone
from rocmforge.tools.generate.architecture_oracle.judge import nmse
from rocmforge.tools.generate.architecture_oracle.meaning import Meaning
from rocmforge.tools.generate.architecture_oracle.programs import last_logits, load
from rocmforge.tools.generate.architecture_oracle.table import MOST
from rocmforge.tools.generate.gemma3n_model import LAYERS, SHARED, write_gemma3n

IDS = [int(one) for one in np.random.default_rng(3).integers(0, 96, 19)]
PREFIXES = (1, 9, 19)
LOGITS = np.load(Path(__file__).parents[2] / "data" / "gemma3n_logits.npy")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gemma3n(tmp_path_factory.mktemp("gemma3n") / "model.gguf")


@pytest.fixture(scope="module")
def source(model: Path) -> GgufFile:
    return read_gguf(model)


def test_the_graph_means_what_llama_cpp_computes(model: Path) -> None:
    meaning = Meaning.of(model, len(IDS))
    for count, logits in zip(PREFIXES, LOGITS, strict=True):
        assert nmse(meaning.logits(IDS[:count]), logits) < 1e-5  # llama.cpp's GELU is a table of float16


def with_windows_of(size: int) -> Callable[[ModelConfig], ModelConfig]:
    windows = tuple(size if layer % 5 != 4 else 0 for layer in range(LAYERS))
    return lambda config: replace(config, by_layer={**config.by_layer, "window": windows})


CHANGES: dict[str, Callable[[ModelConfig], ModelConfig]] = {
    "window": with_windows_of(9),
    "base of layers with a window": lambda config: replace(
        config, further_tables={"rope_table_windowed": RopeTable(1e6, 16)}
    ),
    "base of the others": lambda config: replace(config, rope_theta=1e4),
    "scale of scores": lambda config: replace(config, attention_scale=0.7),
    "softcap of logits": lambda config: replace(config, logit_softcap=20.0),
    "cut of gates": lambda config: replace(config, sparsity=(1.4,) * 10 + config.sparsity[10:]),
    "layers whose gates are cut": lambda config: replace(config, sparsity=(*config.sparsity[1:], -math.inf)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_logits_hang_on_what_sets_the_family_apart(source: GgufFile, name: str) -> None:
    other = CHANGES[name](read_config(source))
    assert nmse(Meaning.with_config(source, other, len(IDS)).logits(IDS), LOGITS[-1]) > 1e-4


def test_what_a_file_need_not_say(source: GgufFile) -> None:
    """Whose keys layers read, which gates are cut, and which layers have windows is as in the published models."""
    ends = ("shared_kv_layers", "activation_sparsity_scale", "sliding_window_pattern", "active_idx", "num_inputs")
    bare = replace(source, metadata={key: value for key, value in source.metadata.items() if not key.endswith(ends)})
    found, said = read_config(bare), read_config(source)
    assert replace(found, sparsity=()) == replace(said, sparsity=())
    np.testing.assert_allclose(found.sparsity, said.sparsity, rtol=1e-6)
    assert said.by_layer["num_kv_heads"] == (2,) * (LAYERS - SHARED) + (0,) * SHARED


@pytest.mark.parametrize(
    "key, value, problem",
    [
        ("altup.num_inputs", 3, "expected 4, found 3"),
        ("altup.active_idx", 1, "expected 0, found 1"),
        ("attention.shared_kv_layers", 1, "expected before them a layer with a window, then one without"),
        ("attention.shared_kv_layers", 21, "expected 0 to 20, found 21"),
        ("activation_sparsity_scale", 1.6, "expected a number for each of 22 layers, found others"),
        ("activation_sparsity_scale", np.zeros(21, np.float32), "expected a number for each of 22 layers"),
        ("activation_sparsity_scale", np.full(22, np.nan, np.float32), "expected standard deviations of at most 100"),
        ("embedding_length_per_layer_input", 0, "expected 1 to 65536, found 0"),
    ],
)
def test_refusals(source: GgufFile, key: str, value: object, problem: str) -> None:
    with pytest.raises(RocmforgeError) as caught:
        read_config(replace(source, metadata={**source.metadata, f"gemma3n.{key}": value}))
    assert f"gemma3n.{key}: {problem}" in str(caught.value)


def test_the_host_computes_what_the_graph_means(model: Path, tmp_path: Path, build_cache: BuildCache) -> None:
    with building_levels(("portable",)):
        compile_model(CompileOptions(model, tmp_path / "model.rfb"), build_cache, Silent(), make_golden)
    expected = Meaning.of(model, len(IDS)).logits(IDS)
    with open_bundle(tmp_path / "model.rfb") as bundle:
        assert bundle.layout.kv.num_layers == LAYERS - SHARED
        program = load(bundle, "host")
        found = last_logits(program, IDS)
        check_outputs_alone(program, IDS)
        program.close()
    assert nmse(found, expected) < MOST  # keys and values are rounded to float16
