"""Compiled code of models that differ in all that an architecture's row can say, against what their graphs mean."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rocmforge.artifacts.bundle import open_bundle
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.compile import compile_model
from rocmforge.compiler.model import CompileOptions
from rocmforge.compiler.progress import Silent
from rocmforge.library.compilation import make_golden
from rocmforge.tests.support.programs import building_levels, check_outputs_alone
from rocmforge.tools.generate.architecture_models import write_architecture
from rocmforge.tools.generate.architecture_oracle.judge import nmse
from rocmforge.tools.generate.architecture_oracle.meaning import Meaning
from rocmforge.tools.generate.architecture_oracle.programs import last_logits, load
from rocmforge.tools.generate.architecture_oracle.table import MOST

IDS = [int(one) for one in np.random.default_rng(3).integers(0, 96, 19)]
# What each is here for; two layers show it, but for rules that count to four.
MODELS = {
    "gemma2": 2,  # norms before and behind, windows, soft caps, a gate of GELU, a scaled embedding
    "gemma3": 6,  # two tables of rotary positions
    "olmo2": 4,  # norms behind alone, and of whole rows of queries and keys
    "stablelm": 2,  # layer norms, of each head of queries and keys
    "phi2": 2,  # one norm for attention and feed-forward, no gate
    "mpt": 2,  # ALiBi, learned positions, held queries, divisors
    "granite_swa": 2,  # sinks, and all scales
    "talkie": 2,  # norms without weights, one behind the rotation, the embedding once more
    "muse-glimmer": 4,  # a gate of attention, and a layer without positions
    "phi3": 2,  # gate and up of one tensor
    "gpt-oss": 2,  # experts with biases and held gates, chosen before their softmax
    "dots1": 3,  # a dense layer, experts of sigmoids, and one that all share
    "bert": 2,  # an encoder: norms behind the sums, positions that see those after them
    "nomic-bert-moe": 2,  # experts without gates, in every second layer
    "jina-bert-v2": 2,  # the same with ALiBi, and norms of whole rows
    "modern-bert": 4,  # windows to both sides
    "minicpm3": 2,  # latent attention, of weights that are turned round
    "deepseek2": 2,  # latent attention, absorbed, and a dense layer first
    "hrm_text": 2,  # layers that are run three times each
    "lfm2": 2,  # a short convolution
    "qwen35": 2,  # a delta net, and attention whose gates stand among its queries
    "qwen3next": 2,  # the same with beta and alpha in one matrix, and heads in blocks
    "kimi-linear": 2,  # a delta net whose rows decay each at a rate of its own, and latent attention
    "mamba2": 2,  # no attention and no feed-forward
    "falcon-h1": 2,  # attention and a scan side by side
    "nemotron_h_moe": 4,  # layers of one thing each, and experts of a latent without gates
    "jamba": 2,  # Mamba 1 with norms
    "plamo2": 2,  # steps, B and C of a second product, which heads share
}
CACHES = {
    "hrm_text": 6,
    "mamba2": 0,
    **dict.fromkeys(("lfm2", "qwen35", "qwen3next", "kimi-linear", "nemotron_h_moe", "jamba", "plamo2"), 1),
}
"""Where layers have more than one each, or not all have one."""


@pytest.fixture
def portable_only() -> Iterator[None]:
    """Build for one level: it decides nothing of an architecture."""
    with building_levels(("portable",)):
        yield


@pytest.mark.usefixtures("portable_only")
@pytest.mark.parametrize("name", MODELS)
def test_the_host_computes_what_an_architecture_means(name: str, tmp_path: Path, build_cache: BuildCache) -> None:
    path, goal = tmp_path / "model.gguf", tmp_path / "model.rfb"
    write_architecture(path, name, whole=True, num_layers=MODELS[name])
    compile_model(CompileOptions(path, goal), build_cache, Silent(), make_golden)
    expected = Meaning.of(path, len(IDS)).logits(IDS)
    with open_bundle(goal) as bundle:
        # Where positions see those after them, no layer's keys and values are read again: all use one cache in turn.
        assert bundle.layout.kv.num_layers == (1 if bundle.layout.both_ways else CACHES.get(name, MODELS[name]))
        program = load(bundle, "host")
        found = last_logits(program, IDS)
        check_outputs_alone(program, IDS)
        program.close()
    assert nmse(found, expected) < MOST  # keys and values are rounded to float16
