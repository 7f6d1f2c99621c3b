"""Models of many types of weights at once, whole, on the host and on an emulated GPU: every type is in one of them.

The host's best level and its last: `test_products_host` runs each type's kernels at each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rocmforge.artifacts.formats import FORMATS
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.runtime.device.host import load_host_program
from rocmforge.tests.oracles.reference import ReferenceModel
from rocmforge.tests.support.emulated_programs import compiled, load
from rocmforge.tests.support.programs import LEVELS, relative_tolerance, run
from rocmforge.tools.generate.fixtures import write_model

# The type of each role, by the middle of its name.
ROLES = ("token_embd", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down", "output")
MIXES = (
    ("MXFP4", "IQ4_XS", "Q2_K", "IQ3_S", "IQ3_XXS", "IQ4_NL", "TQ2_0", "Q2_0", "NVFP4"),
    ("IQ2_XXS", "IQ2_XS", "IQ2_S", "Q1_0", "IQ1_M", "IQ1_S", "TQ1_0", "Q8_0", "IQ4_XS"),
    ("Q3_K", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K", "BF16"),
)


def test_every_quantized_type_is_in_a_mix() -> None:
    assert {kind for mix in MIXES for kind in mix} >= {kind for kind, row in FORMATS.items() if not row.is_float}


@pytest.mark.parametrize("mix", MIXES, ids=lambda mix: mix[0])
def test_logits_of_a_mix_against_the_float32_reference(
    mix: tuple[str, ...], tmp_path: Path, build_cache: BuildCache
) -> None:
    path = write_model(
        tmp_path / "model.gguf", quantization="Q4_K", types=dict(zip(ROLES, mix, strict=True)), tie=False
    )
    ids = np.random.default_rng(5).integers(0, 320, 40).tolist()
    expected = ReferenceModel(path).forward(ids)
    levels = (LEVELS[0], LEVELS[-1])
    goal = path.with_suffix(".rfb")
    with compiled(path, build_cache, goal, ("host", "gfx1100"), levels) as bundle:
        for place in (*levels, "gfx1100"):
            program = load_host_program(bundle, 64, 1, place) if place in levels else load(bundle, place)
            found = run(program, [(0, 0, ids)])
            program.close()
            errors = np.sqrt(np.mean((found - expected) ** 2, axis=1)) / np.std(expected)
            assert np.median(errors) < relative_tolerance("Q4_K"), (place, errors)
            # Attention to two keys that these weights prefer about as much may turn; logits of another row are off by
            # sqrt(2).
            assert errors.max() < 2**0.5 / 2, (place, errors)
