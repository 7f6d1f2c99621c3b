"""A bundle for two kinds of machine, on an emulated one of the other kind: QEMU, and Debian's Python for it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rocmforge.artifacts.errors import ToolchainError, UsageError
from rocmforge.artifacts.host import HOST_LEVELS
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.compile import compile_model
from rocmforge.compiler.model import CompileOptions
from rocmforge.compiler.progress import PlainProgress
from rocmforge.library.compilation import make_golden
from rocmforge.tests.support.process import rfc
from rocmforge.tools.debian.aarch64 import fetch_machine, install, launch
from rocmforge.tools.generate.fixtures import write_model

SECONDS = 300.0
GREEDY = ("-n", 24, "--temperature", 0, "--device", "host")
LOGITS = """
import sys
from pathlib import Path
import numpy as np
from rocmforge.artifacts.bundle import open_bundle
from rocmforge.runtime.device.golden import prompt_logits
from rocmforge.runtime.device.host import load_host_program
with open_bundle(Path(sys.argv[1])) as bundle:
    for level in sys.argv[3:]:
        program = load_host_program(bundle, 8, 2, level)
        np.save(Path(sys.argv[2], f"{level}.npy"), prompt_logits(program, [1, 5, 9, 2, 30, 7, 11, 40, 3]))
        program.close()
"""


@pytest.fixture(scope="session")
def machine() -> Path:
    """See `fetch_machine`: on Debian it must be there."""
    try:
        return fetch_machine()
    except ToolchainError as error:
        if os.path.exists("/etc/debian_version") and shutil.which("apt-get"):
            pytest.fail(f"no emulated machine: {error}")
        pytest.skip(f"no emulated machine: {error}")


@pytest.fixture(scope="session")
def bundle(build_cache: BuildCache, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of two types of weights for both kinds."""
    folder = tmp_path_factory.mktemp("aarch64")
    model = write_model(folder / "small.gguf", quantization="Q4_K", hidden_size=256, intermediate_size=512)
    with PlainProgress() as progress:
        options = CompileOptions(model, folder / "small.rfb", ("host", "aarch64"))
        compile_model(options, build_cache, progress, make_golden)
    return folder / "small.rfb"


def run_there(machine: Path, *command: object) -> str:
    started = launch(machine, [str(part) for part in command])
    done = subprocess.run(
        started.command, env=started.environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_golden_records_are_equal_to_the_bit_on_its_lowest_level(machine: Path, bundle: Path) -> None:
    lines = run_there(machine, "rfc", "verify", bundle).splitlines()
    for level in HOST_LEVELS["aarch64"]:
        (said,) = [line for line in lines if line.startswith(f"aarch64 {level}:")]
        how = "equal to the bit" if level == "aarch64" else "equal within"
        assert how in said, said
    for level in HOST_LEVELS["host"]:
        assert any(line.startswith(f"host {level}: not run: host: no code object for this CPU") for line in lines)
    assert json.loads((bundle / "manifest.json").read_text())["targets"][-1]["level"] == "aarch64"


def test_its_levels_with_dot_products_compute_the_same_bits(machine: Path, bundle: Path, tmp_path: Path) -> None:
    """Those of AVX2 too: sums of products are of integers, and what is fused is fused on both."""
    run_there(machine, "python", "-c", LOGITS, bundle, tmp_path, *HOST_LEVELS["aarch64"])
    found = {level: np.load(tmp_path / f"{level}.npy") for level in HOST_LEVELS["aarch64"]}
    subprocess.run([sys.executable, "-c", LOGITS, bundle, tmp_path, "x86_64_v3"], check=True)
    expected = np.load(tmp_path / "x86_64_v3.npy")
    assert found["aarch64_i8mm"].tobytes() == found["aarch64_dotprod"].tobytes() == expected.tobytes()
    assert found["aarch64"].tobytes() != expected.tobytes()  # it fuses nothing


def test_a_text_is_the_same_as_here(machine: Path, bundle: Path) -> None:
    command = ("run", bundle, "the and of", *GREEDY)
    here = rfc(*command)
    assert here.returncode == 0, here.stderr
    assert run_there(machine, "rfc", *command) == here.stdout


def test_what_is_not_there_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"^no-such-program: no such program$"):
        launch(tmp_path, ["no-such-program"])
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(ToolchainError, match=r"^packages for aarch64: .*numpy") as caught:
        install(tmp_path, ["numpy"])
    assert "\n" not in str(caught.value)
