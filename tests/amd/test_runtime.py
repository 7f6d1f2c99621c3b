"""The whole GPU side on AMD's own HIP and ROCr, equal to the bit to what the emulated API computes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from rocmforge.artifacts.targets import GENERIC_ARCHES, generic_arch
from rocmforge.compiler.target import TARGETS
from rocmforge.tests.amd.runtime import FIGURES, SECONDS, Compiled, Runtime
from rocmforge.tests.support.process import environment, rfc
from rocmforge.tests.support.programs import LEVELS

SCENARIO = ("-m", "rocmforge.tests.amd.scenario")
UNKNOWN = ("gfx1250",)
SMALL = ("logits", "golden", "sampling", "engine")

Arrays = Mapping[str, npt.NDArray[np.generic]]


def on_amd(runtime: Runtime, arch: str, bundle: Path, parts: tuple[str, ...], output: Path) -> Arrays:
    done = runtime.run(arch, "python", *SCENARIO, bundle, output, "hip", *parts)
    assert done.returncode == 0, done.stderr[-4000:]
    FIGURES.calls.update(json.loads(done.stdout))
    return dict(np.load(output))


def on_emulator(arch: str, bundle: Path, parts: tuple[str, ...], output: Path) -> Arrays:
    command = [sys.executable, *SCENARIO, str(bundle), str(output), f"emulated:{arch}", *parts]
    subprocess.run(command, env=environment(), timeout=SECONDS, check=True)
    return dict(np.load(output))


def check_same(runtime: Runtime, arch: str, bundle: Path, parts: tuple[str, ...], folder: Path) -> None:
    """Every array of every part is the same bytes."""
    found = on_amd(runtime, arch, bundle, parts, folder / "amd.npz")
    expected = on_emulator(arch, bundle, parts, folder / "emulated.npz")
    assert found.keys() == expected.keys()
    assert {name.partition(":")[0] for name in found} == set(parts)
    different = [name for name, array in expected.items() if found[name].tobytes() != array.tobytes()]
    assert not different


@pytest.mark.parametrize("arch", ["gfx1100", "gfx942"])
def test_a_small_model_whole(trixie: Runtime, arch: str, small: Path, tmp_path: Path) -> None:
    """Prefill, chunks, a batch of three, hidden states, golden records, every way of sampling, masks; by the engine:
    speculation, structured output, embeddings, preemption."""
    check_same(trixie, arch, small, SMALL, tmp_path)


@pytest.mark.parametrize("arch", ["gfx1100", "gfx942"])
@pytest.mark.parametrize("part", ["drafting", "seeing"])
def test_parts(trixie: Runtime, arch: str, part: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A hybrid with a block that drafts its tokens, and a model that sees: the part's rows, and texts by the engine."""
    check_same(trixie, arch, request.getfixturevalue(part), (part,), tmp_path)


@pytest.mark.parametrize("arch", ["gfx1100", pytest.param("gfx942", marks=pytest.mark.nightly)])
def test_smollm2_gives_the_same_tokens(trixie: Runtime, arch: str, smollm2_gpu: Path, tmp_path: Path) -> None:
    """Eight greedy tokens, and a batch of three."""
    check_same(trixie, arch, smollm2_gpu, ("tokens",), tmp_path)


def test_verify_and_run(trixie: Runtime, small: Path) -> None:
    # `on`: replayed steps are held against the same ones launched kernel by kernel, to the bit.
    done = trixie.run("gfx1100,gfx942", "rfc", "verify", small, "--device", "hip", "--gpu-graphs", "on")
    assert done.returncode == 0, done.stderr
    for arch in ("gfx1100", "gfx942"):
        assert f"{arch}: 2 golden records replayed, equal " in done.stdout
    asked = ("run", small, "ab", "-n", "6", "--temperature", "0", "--device")
    for gpu, device in (("gfx1100", "hip"), ("gfx1100,gfx942", "hip:gfx942"), ("gfx1100,gfx942", "hip:0")):
        done = trixie.run(gpu, "rfc", *asked, device)
        assert done.returncode == 0, done.stderr
        arch = "gfx942" if "942" in device else "gfx1100"
        assert done.stdout == rfc(*asked, f"emulated:{arch}").stdout
        assert f"{arch}, " in done.stderr
        if device == "hip":  # the same of weights that the GPU reads in the host's memory
            elsewhere = trixie.run(gpu, "rfc", *asked, device, "--gpu-layers", "0")
            assert elsewhere.stdout == done.stdout
            assert "of weights stay in this machine's memory: matrices of layers 0 to " in elsewhere.stderr


@pytest.mark.parametrize("part", ["drafting", "seeing"])
def test_verify_replays_parts(trixie: Runtime, part: str, request: pytest.FixtureRequest) -> None:
    done = trixie.run("gfx1100", "rfc", "verify", request.getfixturevalue(part), "--device", "hip")
    assert done.returncode == 0, done.stderr
    name = {"drafting": "mtp", "seeing": "vision"}[part]
    assert re.search(rf"^{name} gfx1100: [12] golden records replayed, equal ", done.stdout, re.MULTILINE)


def test_F130_generic_code_on_a_runtime_that_is_too_old(trixie: Runtime, compiled: Compiled, small_gguf: Path) -> None:
    bundle = compiled(small_gguf, "gfx11-generic", name="generic")
    done = trixie.run("gfx1100", "rfc", "verify", bundle, "--device", "hip")
    assert done.returncode == 4
    assert "that for gfx11-generic needs ROCm 6.4 or newer, found HIP 5.7: compile with --arch gfx1100" in done.stdout


# ARCH runs on GPU; of generic code, each that it is for. ROCr 7.2.4 shows no device where the driver has a gfx1250.
LOADED = [
    (name, gpu)
    for name, target in TARGETS.items()
    if target.gpu is not None and name not in UNKNOWN
    for gpu in GENERIC_ARCHES.get(name, (name,))
]


@pytest.mark.nightly
@pytest.mark.parametrize("arch", dict.fromkeys(arch for arch, _ in LOADED))
def test_every_code_object_loads(experimental: Runtime, arch: str, small_gguf: Path, compiled: Compiled) -> None:
    """Every kernel of every arch, by the newest runtime there is."""
    bundle = compiled(small_gguf, arch)
    for gpu in [gpu for name, gpu in LOADED if name == arch]:
        done = experimental.run(gpu, "python", "-m", "rocmforge.tests.amd.load_code", bundle, arch)
        assert done.returncode == 0, done.stderr[-2000:]
        assert int(done.stdout) > 20


@pytest.mark.nightly
@pytest.mark.parametrize("arch", ["gfx1100", "gfx942", "gfx1201"])
@pytest.mark.parametrize("suite", ["sid", "experimental"])
def test_newer_runtimes(
    suite: str,
    arch: str,
    compiled: Compiled,
    smollm2_gguf: Path,
    small_gguf: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """The same on what Debian has beyond its stable suite."""
    runtime: Runtime = request.getfixturevalue(suite)
    bundle = compiled(small_gguf, arch)
    check_same(runtime, arch, bundle, SMALL, tmp_path)
    real = compiled(smollm2_gguf, arch, "host", name="smollm2", levels=LEVELS, flags={})
    check_same(runtime, arch, real, ("tokens",), tmp_path)
    family = generic_arch(arch)
    generic = compiled(small_gguf, family, name="generic")
    for path, code in ((real, arch), (generic, family)):
        done = runtime.run(arch, "rfc", "verify", path, "--device", "hip", "--gpu-graphs", "on")
        assert done.returncode == 0, done.stderr
        assert f"{code}: " in done.stdout
