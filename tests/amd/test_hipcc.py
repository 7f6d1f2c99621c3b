"""Debian's newest hipcc, which no machine need have installed: it builds every arch that it knows, with the same
logits as the pinned clang's."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from rocmforge.artifacts.bundle import open_bundle
from rocmforge.artifacts.errors import ToolchainError
from rocmforge.compiler.hip_toolchain import HipToolchain, find_hipcc
from rocmforge.compiler.target import TARGETS
from rocmforge.tests.amd.runtime import FIGURES, Compiled
from rocmforge.tests.support.emulated_programs import load
from rocmforge.tests.support.programs import run
from rocmforge.tools.debian.hipcc import fetch_hipcc

# Its clang, 21.1.8, dies of a segmentation fault; the pinned one, 22.1, builds it.
CRASHES = "gfx1250"
EMULATED = ("gfx1100", "gfx1103", "gfx1150", "gfx1200", "gfx1201", "gfx942", "gfx950")


@pytest.fixture
def hipcc(monkeypatch: pytest.MonkeyPatch) -> HipToolchain:
    try:
        monkeypatch.setenv("HIPCC", str(fetch_hipcc()))
    except ToolchainError as error:
        pytest.skip(f"sid's hipcc is unavailable: {error}")
    found = find_hipcc()
    FIGURES.versions["hipcc of sid"] = found.version
    return found


@pytest.mark.nightly
def test_every_arch_that_it_knows_and_the_logits_of_clang(
    hipcc: HipToolchain, small_gguf: Path, compiled: Compiled
) -> None:
    known = [name for name in TARGETS if name in hipcc.arches and name != CRASHES]
    assert len(known) > 20
    assert int(re.findall(r"clang version (\d+)", hipcc.version)[0]) >= 21
    bundles = {name: compiled(small_gguf, *known, toolchain=name) for name in ("hipcc", "clang")}
    ids = np.random.default_rng(2).integers(0, 320, 20).tolist()
    for arch in (arch for arch in EMULATED if arch in known):
        logits = []
        for name, bundle in bundles.items():
            with open_bundle(bundle) as opened:
                assert {target.toolchain for target in opened.manifest.targets} == {name}
                program = load(opened, arch)
                logits.append(np.concatenate([run(program, [(0, 0, ids)]), run(program, [(0, 20, ids[:1])])]))
                program.close()
        assert np.array_equal(logits[0], logits[1]), arch
