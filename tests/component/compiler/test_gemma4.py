"""Gemma 4: what its graph means against llama.cpp's logits, and compiled code against that.

`tests/data/gemma4_logits.npy` are llama.cpp 11434's float32 logits, with keys and values in float32, of the model that
`write_gemma4` writes, after 1, 9 and 19 of the tokens below: `tools/generate/architecture_oracle/reflogits.cpp`;
`gemma4_experts_logits.npy` those of the one with experts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rocmforge.artifacts.bundle import open_bundle
from rocmforge.artifacts.errors import RocmforgeError
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.compile import compile_model
from rocmforge.compiler.gguf_reader import read_gguf
from rocmforge.compiler.model import CompileOptions
from rocmforge.compiler.model_config import ModelConfig
from rocmforge.compiler.model_tensors import unused_tensors
from rocmforge.compiler.position_tables import RopeTable
from rocmforge.compiler.progress import Silent
from rocmforge.compiler.read_config import read_config
from rocmforge.library.compilation import make_golden
from rocmforge.tests.support.programs import building_levels, check_outputs_alone
from rocmforge.tools.generate.architecture_oracle.judge import nmse
from rocmforge.tools.generate.architecture_oracle.meaning import Meaning
from rocmforge.tools.generate.architecture_oracle.programs import last_logits, load
from rocmforge.tools.generate.architecture_oracle.table import MOST
from rocmforge.tools.generate.gemma4_model import write_gemma4

IDS = [int(one) for one in np.random.default_rng(3).integers(0, 96, 19)]
PREFIXES = (1, 9, 19)
DATA = Path(__file__).parents[2] / "data"
LOGITS, EXPERTS_LOGITS = (np.load(DATA / f"gemma4_{name}.npy") for name in ("logits", "experts_logits"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gemma4(tmp_path_factory.mktemp("gemma4") / "model.gguf")


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gemma4(tmp_path_factory.mktemp("mixture") / "model.gguf", experts=True)


@pytest.mark.parametrize("experts", [False, True], ids=["dense", "mixture"])
def test_the_graph_means_what_llama_cpp_computes(model: Path, mixture: Path, experts: bool) -> None:
    meaning = Meaning.of(mixture if experts else model, len(IDS))
    assert not unused_tensors(read_gguf(mixture if experts else model), meaning.config)
    for count, logits in zip(PREFIXES, EXPERTS_LOGITS if experts else LOGITS, strict=True):
        assert nmse(meaning.logits(IDS[:count]), logits) < 1e-6  # llama.cpp's GELU is a table of float16


def of_layers(config: ModelConfig, **fields: tuple[int | str, ...]) -> ModelConfig:
    return replace(config, by_layer={**config.by_layer, **fields})


CHANGES: dict[str, Callable[[ModelConfig], ModelConfig]] = {
    "window": lambda config: of_layers(config, window=(9, 0, 9, 0, 9, 9, 0)),
    "base of layers with a window": lambda config: replace(
        config, further_tables={"rope_table_windowed": RopeTable(2e4, 16)}
    ),
    "base of the others": lambda config: replace(config, rope_theta=2e6),
    "scale of scores": lambda config: replace(config, attention_scale=0.9),
    "softcap of logits": lambda config: replace(config, logit_softcap=20.0),
}


@pytest.mark.parametrize("name", CHANGES)
def test_logits_hang_on_what_sets_the_family_apart(model: Path, name: str) -> None:
    source = read_gguf(model)
    other = CHANGES[name](read_config(source))
    assert nmse(Meaning.with_config(source, other, len(IDS)).logits(IDS), LOGITS[-1]) > 1e-4


def test_layers_that_read_anothers_keys_follow_one_of_each_kind(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(model.read_bytes().replace(shared_layers(3), shared_layers(2)))
    with pytest.raises(RocmforgeError, match=r"gemma4.attention.shared_kv_layers: expected before them a layer with"):
        read_config(read_gguf(path))


def shared_layers(count: int) -> bytes:
    """The key and its value, as the file has them."""
    return b"gemma4.attention.shared_kv_layers" + (4).to_bytes(4, "little") + count.to_bytes(4, "little")


@pytest.mark.parametrize("experts", [False, True], ids=["dense", "mixture"])
def test_the_host_computes_what_the_graph_means(
    model: Path, mixture: Path, experts: bool, tmp_path: Path, build_cache: BuildCache
) -> None:
    model = mixture if experts else model
    with building_levels(("portable",)):
        compile_model(CompileOptions(model, tmp_path / "model.rfb"), build_cache, Silent(), make_golden)
    expected = Meaning.of(model, len(IDS)).logits(IDS)
    with open_bundle(tmp_path / "model.rfb") as bundle:
        program = load(bundle, "host")
        found = last_logits(program, IDS)
        check_outputs_alone(program, IDS)
        program.close()
    assert nmse(found, expected) < MOST  # keys and values are rounded to float16
