"""The engine on GPU code that an emulator runs: failing steps, and drafts that change nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rocmforge.artifacts.bundle import Bundle
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.runtime.device.hip.open_program import load_hip_program
from rocmforge.runtime.device.memory import KvSize
from rocmforge.runtime.engine import recovery as recovery_module
from rocmforge.runtime.engine.engine import EngineLimits
from rocmforge.runtime.engine.generation import GenerationRequest, SamplingParams
from rocmforge.runtime.engine.loading import load_tokenizer
from rocmforge.runtime.text.tokenizer import Tokenizer
from rocmforge.tests.support.emulated_programs import compiled, load
from rocmforge.tests.support.engine_harness import ended, scores_of, serving
from rocmforge.tests.support.faulty_program import survive_failures
from rocmforge.tools.emulator import HipEmulator
from rocmforge.tools.generate.fixtures import write_model

ARCH = "gfx1100"


@pytest.fixture(scope="module")
def gpu_bundle(tmp_path_factory: pytest.TempPathFactory, build_cache: BuildCache) -> Iterator[Bundle]:
    path = tmp_path_factory.mktemp("emulated") / "model.gguf"
    write_model(path)
    with compiled(path, build_cache, path.with_suffix(".rfb"), archs=(ARCH, "host")) as opened:
        yield opened


@pytest.fixture
def gpu_tokenizer(gpu_bundle: Bundle) -> Tokenizer:
    return load_tokenizer(gpu_bundle)


def test_F77_a_hundred_failures_and_every_request_ends_once(
    tmp_path: Path, build_cache: BuildCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a model of one layer: a step fails as a whole."""
    monkeypatch.setattr(recovery_module, "REBUILD_SECONDS", (0.02,))
    model = write_model(tmp_path / "model.gguf", num_layers=1)
    with compiled(model, build_cache, tmp_path / "model.rfb", archs=(ARCH, "host")) as bundle:
        survive_failures(
            lambda: load(bundle, ARCH, 32, checked=False),
            lambda: load(bundle, ARCH, 12, checked=False),
            load_tokenizer(bundle),
            20,
            rebuilt=True,
            limits=EngineLimits(),
        )


class Corrupt(HipEmulator):
    """Replays leave out one kernel of their graph, the first ones excepted. Without the first kernel the step before is
    computed again."""

    left_out = -1
    sound_replays = 0

    def hipGraphInstantiate(self, executable: Any, graph: Any, node: Any = None, log: Any = None, size: Any = 0) -> int:
        code = super().hipGraphInstantiate(executable, graph, node, log, size)
        made = self._state.executables[executable._obj.value]
        made[:] = [self._unless_left_out(index, work) for index, work in enumerate(made)]
        return code

    def _unless_left_out(self, index: int, work: Callable[[], int]) -> Callable[[], int]:
        return lambda: 0 if index == self.left_out and self.calls["hipGraphLaunch"] > self.sound_replays else work()


@pytest.mark.parametrize("left_out", [0, 4], ids=["F134-step", "F134-kernel"])
def test_a_replay_that_computes_something_else_is_found_at_load(gpu_bundle: Bundle, left_out: int) -> None:
    api = Corrupt(ARCH)
    program = load_hip_program(gpu_bundle, api, KvSize(4, 64), nodes=None, report=str)
    program.try_graphs()
    assert program.facts().graphs == "on"
    api.left_out = left_out
    program.try_graphs()
    assert program.facts().graphs.startswith("off: a replayed step differs")
    program.close()


def test_F135_a_replay_of_the_step_before_changes_no_token(gpu_bundle: Bundle, gpu_tokenizer: Tokenizer) -> None:
    request = GenerationRequest((5, 9, 30, 7), 12, SamplingParams(0.8, seed=3), ignore_eos=True)
    found = []
    for left_out in (-1, 0):
        api = Corrupt(ARCH)
        api.left_out, api.sound_replays = left_out, 4
        program = load_hip_program(gpu_bundle, api, KvSize(4, 64), nodes=None, report=str)
        with serving(program, gpu_tokenizer, 64) as engine:
            found.append(ended(engine.submit(request)).tokens)
            assert engine.stats().graph_mismatches == (left_out == 0)
        assert api.calls["hipGraphLaunch"] == (11 if left_out else 5)
    assert found[0] == found[1]


def test_drafts_change_no_token(gpu_bundle: Bundle, gpu_tokenizer: Tokenizer) -> None:
    random = np.random.default_rng(2)
    requests = [
        GenerationRequest(tuple(np.resize(random.integers(3, 300, 5), 15).tolist()), 40, sampling, ignore_eos=True)
        for sampling in (SamplingParams(0.0), SamplingParams(1.0, top_k=3, seed=4, repetition_penalty=1.1))
    ]
    found = []
    for draft_tokens in (0, 5):
        limits = EngineLimits(draft_tokens=draft_tokens)
        with serving(load(gpu_bundle, ARCH, 32, checked=False), gpu_tokenizer, 64, limits=limits) as engine:
            found.append([ended(generation).tokens for generation in [engine.submit(one) for one in requests]])
            assert (engine.stats().draft_tokens_accepted > 0) == (draft_tokens > 0)
    assert found[0] == found[1]


def test_a_prompt_has_the_same_scores_whatever_the_steps(gpu_bundle: Bundle, gpu_tokenizer: Tokenizer) -> None:
    """Alone; beside others, in chunks of up to 5 rows of logits; and as its last tokens were generated."""
    text = tuple(np.random.default_rng(3).integers(3, 300, 30).tolist())
    with serving(load(gpu_bundle, ARCH, 32, checked=False), gpu_tokenizer, 64) as engine:
        written = ended(engine.submit(GenerationRequest(text, 10, SamplingParams(0.0), logprobs=2, ignore_eos=True)))
        whole = GenerationRequest((*text, *written.tokens), 0, prompt_logprobs=2)
        _, alone = scores_of(engine.submit(whole))
    assert alone[len(text) - 1 :] == written.logprobs
    program = load(gpu_bundle, ARCH, 32, checked=False)
    program.layout = dataclasses.replace(program.layout, max_sequences=5)
    with serving(program, gpu_tokenizer, 64) as engine:
        others = [engine.submit(GenerationRequest(text[i:], 8, SamplingParams(0.0))) for i in range(3)]
        assert scores_of(engine.submit(whole))[1] == alone
        assert all(ended(one).error is None for one in others)
