"""Golden records of a model's real code: the same twice, and with what roundings change in their logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rocmforge.artifacts.bundle import open_bundle
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.compile import compile_model
from rocmforge.compiler.model import CompileOptions
from rocmforge.compiler.progress import Silent
from rocmforge.library import golden_maker
from rocmforge.library.golden_maker import make_golden
from rocmforge.tests.support.programs import building_levels
from rocmforge.tools.generate.draft_models import write_drafting
from rocmforge.tools.generate.fixtures import write_model


def test_noise_is_measured_and_leaves_the_weights_alone(tmp_path: Path, build_cache: BuildCache) -> None:
    model = write_model(tmp_path / "model.gguf", quantization="Q4_K", num_layers=1)
    made: list[list[dict[str, object]]] = []

    def maker(layout, weights, code, prompts, part=None):  # type: ignore[no-untyped-def]
        before = weights.read_bytes()
        made.extend(make_golden(layout, weights, code, prompts) for _ in range(2))
        assert weights.read_bytes() == before
        return [dict(record) for record in made[0]]

    with building_levels(("portable",)):
        compile_model(CompileOptions(model, tmp_path / "model.rfb"), build_cache, Silent(), maker)
    assert made[0] == made[1]
    noises = [float(str(record["noise"])) for record in made[0]]
    assert max(noises) > 0  # of one prompt the nudge may change nothing
    assert all(0 <= noise < 0.2 for noise in noises)
    with open_bundle(tmp_path / "model.rfb") as bundle:
        assert all("noise" not in record for record in bundle.manifest.golden)
        assert {target.golden_tolerance for target in bundle.manifest.targets} == {1.0}


def test_a_model_that_rounds_a_small_nudge_away_gets_a_larger_one(
    tmp_path: Path, build_cache: BuildCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Multiplied by 1, nothing changes; by 1 + 2^-12 something does."""
    model = write_model(tmp_path / "model.gguf", quantization="Q4_K", num_layers=1, seed=7)
    found: list[dict[str, object]] = []

    def maker(layout, weights, code, prompts, part=None):  # type: ignore[no-untyped-def]
        for nudges in ((1.0,), (1.0, 1.0 + 2.0**-12)):
            monkeypatch.setattr(golden_maker, "NUDGES", tuple(map(np.float32, nudges)))
            found.extend(make_golden(layout, weights, code, prompts)[:1])
        return make_golden(layout, weights, code, prompts)

    with building_levels(("portable",)):
        compile_model(CompileOptions(model, tmp_path / "model.rfb"), build_cache, Silent(), maker)
    assert found[0]["noise"] == 0.0
    assert float(str(found[1]["noise"])) > 0


def test_a_part_that_rounds_a_small_nudge_away_gets_a_larger_one_too(
    tmp_path: Path, build_cache: BuildCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_drafting(tmp_path / "model.gguf", "glm4moe")
    found: list[dict[str, object]] = []

    def maker(layout, weights, code, prompts, part=None):  # type: ignore[no-untyped-def]
        if part is not None:
            for nudges in ((1.0,), (1.0, 1.0 + 2.0**-12)):
                monkeypatch.setattr(golden_maker, "NUDGES", tuple(map(np.float32, nudges)))
                found.extend(make_golden(layout, weights, code, prompts, part)[:1])
        return make_golden(layout, weights, code, prompts, part)

    with building_levels(("portable",)):
        compile_model(CompileOptions(model, tmp_path / "model.rfb", ("host",)), build_cache, Silent(), maker)
    assert found[0]["noise"] == 0.0
    noise, spread = (float(str(found[1][key])) for key in ("noise", "spread"))
    assert found[0]["spread"] == spread > noise > 0
